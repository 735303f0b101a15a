"""What a prompt may say."""

from __future__ import annotations

import pytest

from conceptloom.errors import PromptError
from conceptloom.generation import check_prompt, placeholders_in

KNOWN = ("<cat>", "<my-car>")


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a <cat> in the sun", ("<cat>",)),
        ("<Cat> and < cat >", ("<cat>", "<cat>")),
        ("<cat><my-car>", ("<cat>", "<my-car>")),
        ("super<cat>man", ("<cat>",)),
        ("\uff1ccat\uff1e <\uff43at>", ("<cat>",)),  # full-width: brackets do not count, letters do
    ],
)
def test_placeholders_are_read_in_any_case_anywhere_and_repeated(prompt: str, named: tuple[str, ...]) -> None:
    assert placeholders_in(prompt) == named
    check_prompt(prompt, KNOWN)


@pytest.mark.parametrize("prompt", ["", "a cat in the sun", "cat", "[cat]"])
def test_a_prompt_without_a_placeholder_is_refused_and_told_how_to_write_one(prompt: str) -> None:
    with pytest.raises(PromptError, match="at least one of <cat>, <my-car> in it, angle brackets included"):
        check_prompt(prompt, KNOWN)


def test_an_unknown_placeholder_is_refused_and_the_known_ones_listed() -> None:
    with pytest.raises(
        PromptError, match="names <v9>, which is not in the concept set: it knows <cat>, <my-car>"
    ):
        check_prompt("a <cat> beside <V9>", KNOWN)


@pytest.mark.parametrize(
    "prompt", ["a <cat> and <my car>", "a <cat> on <my-car", "a <cat> -> there", "<> <cat>"]
)
def test_a_mistyped_placeholder_is_refused_instead_of_read_as_plain_words(prompt: str) -> None:
    with pytest.raises(PromptError, match=r"has a '[<>]' that belongs to no concept"):
        check_prompt(prompt, KNOWN)


def test_a_long_prompt_is_shortened_in_the_message() -> None:
    with pytest.raises(PromptError) as caught:
        check_prompt("word " * 2000, KNOWN)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "prompt", ["a\nb", "\x1b[31m", "a <\n dog \n>", f"<{'x' * 9999}>", "a <cat> \udcff", "\udcff"]
)
def test_whatever_the_prompt_the_message_is_one_printable_line(prompt: str) -> None:
    with pytest.raises(PromptError) as caught:
        check_prompt(prompt, KNOWN)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 600


@pytest.mark.parametrize("name", ["c\u0430t", "ca\u200bt", "\u202ecat", "c\u00e0t", "cat\u0301"])
def test_a_look_alike_of_a_concept_is_unknown(name: str) -> None:
    with pytest.raises(PromptError, match="which is not in the concept set: it knows <cat>"):
        check_prompt(f"a <{name}>", KNOWN)
