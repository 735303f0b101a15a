"""Prompts for drawn subsets."""

import itertools
import re
from collections.abc import Sequence

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


@pytest.mark.parametrize(
    ("prompt", "kept", "expected"),
    [
        ("a photo of a sleeping <cat> and <dog>", ["cat"], "a photo of a sleeping <cat>"),
        ("a photo of a sleeping <cat> and <dog>", ["dog"], "a photo of <dog>"),
        ("a <cat> and a sleeping <dog>", ["cat"], "a <cat>"),
        ("a <cat> and a sleeping <dog>", ["dog"], "a sleeping <dog>"),
        ("a <cat> on a red, shiny <car>", ["cat"], "a <cat>"),
        ("a <cat> on a red, shiny <car>", ["car"], "a red, shiny <car>"),
        ("a big, sleeping <cat> and <dog>", ["dog"], "<dog>"),
        ("running <cat> and <dog>", ["dog"], "<dog>"),
        ("<cat> beside the king <dog>", ["cat"], "<cat>"),
        ("<cat> beside the king <dog>", ["dog"], "the king <dog>"),
    ],
)
def test_words_about_a_concept_stay_with_it(prompt: str, kept: list[str], expected: str) -> None:
    assert split_prompt(prompt).keep(kept) == expected


@pytest.mark.parametrize(
    ("prompt", "kept", "expected"),
    [
        ("a <cat> chasing <ball> in <park>", ["cat"], "a <cat>"),
        ("a <cat> chasing <ball> in <park>", ["ball"], "<ball>"),
        ("a <cat> chasing <ball> in <park>", ["cat", "park"], "a <cat> in <park>"),
        ("a <cat> on the sofa watching <tv>", ["cat"], "a <cat> on the sofa"),
        ("a <cat> in snow tearing a <ball>", ["cat"], "a <cat> in snow"),
        ("a <cat> that is eating <fish>", ["cat"], "a <cat>"),
        ("a photo showing <cat> and a <dog>", ["dog"], "a photo showing a <dog>"),
    ],
)
def test_a_word_in_ing_with_an_object_joins_two_concepts(prompt: str, kept: list[str], expected: str) -> None:
    assert split_prompt(prompt).keep(kept) == expected


@pytest.mark.parametrize("concept", ["cat", "dog"])
@pytest.mark.parametrize("between", ["on the rug licking", "and a small barking"])
def test_words_that_can_be_read_both_ways_go_with_either_concept(between: str, concept: str) -> None:
    assert split_prompt(f"a photo of <cat> {between} <dog>").keep([concept]) == f"a photo of <{concept}>"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            "a <cat> next to a flying <bird> on <beach>",
            {
                "cat": "a <cat>",
                "bird": "a flying <bird>",
                "beach": "<beach>",
                "cat bird": "a <cat> next to a flying <bird>",
                "cat beach": "a <cat> on <beach>",
                "bird beach": "a flying <bird> on <beach>",
            },
        ),
        (
            "on the <beach>, a <cat> sits beside two sleepy, furry <dog>, watercolour",
            {
                "beach": "on the <beach>, watercolour",
                "cat": "a <cat> sits, watercolour",
                "dog": "two sleepy, furry <dog>, watercolour",
                "beach cat": "on the <beach>, a <cat> sits, watercolour",
                "beach dog": "on the <beach> beside two sleepy, furry <dog>, watercolour",
                "cat dog": "a <cat> sits beside two sleepy, furry <dog>, watercolour",
            },
        ),
        (
            "a drawing of <girl> and her <dog> asleep on the grass, and then a glowing <lamp>",
            {
                "girl": "a drawing of <girl>",
                "dog": "a drawing of her <dog> asleep on the grass",
                "lamp": "a drawing of a glowing <lamp>",
                "girl dog": "a drawing of <girl> and her <dog> asleep on the grass",
                "girl lamp": "a drawing of <girl>, and then a glowing <lamp>",
                "dog lamp": "a drawing of her <dog> asleep on the grass, and then a glowing <lamp>",
            },
        ),
    ],
)
def test_every_subset_of_three_concepts_reads_well(prompt: str, expected: dict[str, str]) -> None:
    split = split_prompt(prompt)
    assert {names: split.keep(names.split()) for names in expected} == expected
    assert split.keep(split.concepts) == prompt


OPENINGS = (
    "",
    "a ",
    "a {} ",
    "a photo of ",
    "a photo of {} ",
    "a photo showing the big, {} ",
    "the little {} ",
)
GAPS = (" and ", ", ", ", and a {} ", " asleep on the {} ", " chasing a very {} ", " feeding his {}, {} ")
GAPS += (
    " to the left of {} ",
    " is by the shining thing, ",
    " walking by and {} ",
    ", in tall grass, pulling {} ",
)
FIRST, SECOND, THIRD = "smiling", "running", "red"


def prompts_of_three() -> list[str]:
    return [
        f"{opening.replace('{}', FIRST)}<cat>{one.replace('{}', SECOND)}<dog>{two.replace('{}', THIRD)}<car> outdoors"
        for opening, one, two in itertools.product(OPENINGS, GAPS, GAPS)
    ]


def subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    return [subset for count in (1, 2, 3) for subset in itertools.combinations(names, count)]


@pytest.mark.parametrize("kept", subsets(("cat", "dog", "car")))
def test_no_prompt_is_left_hanging_or_names_a_dropped_concept(kept: tuple[str, ...]) -> None:
    hanging = re.compile(r"(,|\b(and|by|on|in|of|is|the|an?|his|feeding|chasing))$")
    for prompt in prompts_of_three():
        text = split_prompt(prompt).keep(kept)
        assert tuple(re.findall("<(.*?)>", text)) == kept, prompt
        assert not hanging.search(text), f"{prompt} -> {text}"


@pytest.mark.parametrize("kept", subsets(("cat", "dog", "car"))[:-1])
def test_no_word_about_a_dropped_concept_stays(kept: tuple[str, ...]) -> None:
    about = {"cat": FIRST, "dog": SECOND, "car": THIRD}
    for prompt in prompts_of_three():
        words = re.findall(r"\w+", split_prompt(prompt).keep(kept))
        assert not {about[name] for name in about.keys() - set(kept)} & set(words), f"{prompt} -> {words}"


def test_concepts_of_a_prompt_are_listed_once_in_order() -> None:
    assert split_prompt("<dog> with <cat> and <dog>").concepts == ("dog", "cat")


def test_a_prompt_without_placeholder_is_refused() -> None:
    with pytest.raises(PromptError, match="names no concept"):
        split_prompt("a photo of a cat")


@pytest.mark.parametrize("prompt", ["a <cat> near <my dog>", "a <cat> > a dog", "<my cat>"])
def test_a_bracket_that_belongs_to_no_concept_is_refused(prompt: str) -> None:
    with pytest.raises(PromptError, match="belongs to no concept: write concepts as <name>"):
        split_prompt(prompt)


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
