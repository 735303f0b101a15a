"""Names of concepts."""

from __future__ import annotations

import pytest

from conceptloom.concepts import Concept, validate_concept_name
from conceptloom.errors import PromptError


@pytest.mark.parametrize(
    "name", ["cat", "v1", "my-cat_2", "7up", "köter", "猫", "кот", "हिन्दी", "חתול", "a" * 32, "conch"]
)
def test_lower_case_words_of_any_script_are_names(name: str) -> None:
    assert validate_concept_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 33,
        "my cat",
        "a/b",
        "..",
        "a.b",
        "<cat>",
        "-cat",
        "_cat",
        "a\u0000",
        "a\nb",
        "c\u200bat",
        "\u0301a",
        "🐱",
        "a" * 10_000,
        "A" * 10_000,
        "A\nb",
        "A\x1b[31m",
        "cat\u202e",  # turns the writing round
        "\ufeffcat",
        "\udcff",
        "\uff1ccat\uff1e",  # full-width brackets
        "con",
        "nul",
        "com1",
        "LPT9",
        "$(id)",
        "cat;ls",
        "c:cat",
        "c\\at",
        "cat.",
        "cat ",
    ],
)
def test_anything_else_is_refused(name: str) -> None:
    with pytest.raises(PromptError) as caught:
        validate_concept_name(name)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 250


def test_capital_letters_are_refused_with_the_name_to_use() -> None:
    with pytest.raises(PromptError, match="use 'my-cat'"):
        validate_concept_name("My-Cat")


@pytest.mark.parametrize(
    ("written", "normal"), [("ko\u0308ter", "köter"), ("\uff43at", "cat"), ("ﬁg", "fig")]
)
def test_names_are_brought_to_one_normal_form(written: str, normal: str) -> None:
    assert validate_concept_name(written) == normal


def test_the_placeholder_token_is_the_name_in_angle_brackets() -> None:
    assert Concept("cat").placeholder_token == "<cat>"


@pytest.mark.parametrize(
    "options",
    [
        {"name": "Cat"},
        {"name": "ko\u0308ter"},
        {"name": "cat", "kind": "animal"},
        {"name": "cat", "num_vectors": 0},
        {"name": "cat", "num_vectors": 33},
        {"name": "cat", "num_vectors": True},
        {"name": "cat", "num_vectors": 1.5},
        {"name": "cat", "num_vectors": "1"},
    ],
)
def test_an_impossible_concept_cannot_be_made(options: dict) -> None:
    with pytest.raises(PromptError):
        Concept(**options)
