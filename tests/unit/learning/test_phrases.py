"""Prompts for drawn subsets."""

import pytest

from conceptloom.concepts import Concept
from conceptloom.errors import PromptError
from conceptloom.learning.phrases import names_a_side, split_prompt, subset_prompt, template_prompt

CAT = Concept("cat", "subject", "cat")
DOG = Concept("dog", "subject", "dog")
BEACH = Concept("beach", "background", "beach")
PLAID = Concept("plaid", "pattern", None)


@pytest.mark.parametrize(
    ("prompt", "kept", "expected"),
    [
        ("a photo of <cat> asleep near <plant>", ["cat"], "a photo of <cat> asleep"),
        ("a photo of <cat> asleep near <plant>", ["plant"], "a photo of <plant>"),
        ("a photo of <cat> asleep near <plant>", ["cat", "plant"], "a photo of <cat> asleep near <plant>"),
        ("a photo of a <cat> next to the red <car> on <beach>", ["car"], "a photo of the red <car>"),
        (
            "a photo of a <cat> next to the red <car> on <beach>",
            ["cat", "beach"],
            "a photo of a <cat> on <beach>",
        ),
        ("<cat> riding a <bike>", ["bike"], "a <bike>"),
        ("a photo of <cat>, <dog> and <bird>", ["cat", "bird"], "a photo of <cat> and <bird>"),
        ("a photo of <cat>, <dog> and <bird>", ["cat", "dog"], "a photo of <cat>, <dog>"),
        ("a drawing of <cat> near <dog>, watercolour", ["dog"], "a drawing of <dog>, watercolour"),
        ("<cat> and one more <cat> behind <dog>", ["dog"], "<dog>"),
        ("A photo of <Cat> in  front   of <dog>", ["cat", "dog"], "A photo of <cat> in front of <dog>"),
    ],
)
def test_phrases_of_undrawn_concepts_are_dropped(prompt: str, kept: list[str], expected: str) -> None:
    assert split_prompt(prompt).keep(kept) == expected


def test_concepts_of_a_prompt_are_listed_once_in_order() -> None:
    assert split_prompt("<dog> with <cat> and <dog>").concepts == ("dog", "cat")


def test_a_prompt_without_placeholder_is_refused() -> None:
    with pytest.raises(PromptError, match="names no concept"):
        split_prompt("a photo of a cat")


@pytest.mark.parametrize(
    ("concepts", "expected"),
    [
        ([CAT, DOG, BEACH], "a photo of <cat> and <dog> on <beach>"),
        ([BEACH, DOG, CAT], "a photo of <dog> and <cat> on <beach>"),
        ([BEACH], "a photo of <beach>"),
        ([CAT, PLAID, BEACH], "a photo of <cat> with <plaid> pattern on <beach>"),
        ([PLAID], "a photo of <plaid> pattern"),
        ([PLAID, BEACH], "a photo of <plaid> pattern on <beach>"),
    ],
)
def test_the_template_names_backgrounds_last_and_patterns_with_with(
    concepts: list[Concept], expected: str
) -> None:
    assert template_prompt(concepts) == expected


def test_a_picture_without_own_prompt_takes_the_template() -> None:
    assert subset_prompt(None, [DOG, CAT]) == "a photo of <dog> and <cat>"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("<cat> left of <dog>", True), ("<cat> on the Right", True), ("a leftover <cat>", False)],
)
def test_left_and_right_forbid_mirroring(prompt: str, expected: bool) -> None:
    assert names_a_side(prompt) is expected
