"""What a user may ask for, and what is refused."""

from typing import Any

import numpy as np
import pytest

from conceptloom.errors import ConceptloomError
from conceptloom.learning.presets import resolve_config
from conceptloom.learning.request import LearnRequest, build_request
from conceptloom.pictures import Picture


def picture(name: str, *masked: str) -> Picture:
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:5] = True
    return Picture(name, None, np.zeros((8, 8, 3), dtype=np.uint8), dict.fromkeys(masked, mask))


def request(*names: str, method: str = "paper", **options: Any) -> LearnRequest:
    pictures = options.pop("pictures", [picture(name) for name in names])
    concepts = options.pop("concepts", {"cat": "cat", "dog": "dog"})
    return build_request(pictures, concepts, resolve_config("sd", {"method": method}), **options)


def test_a_picture_contains_all_concepts_unless_told_otherwise() -> None:
    built = request("a", "b", contains={"b": ["dog"]})
    assert [entry.concepts for entry in built.pictures] == [("cat", "dog"), ("dog",)]


def test_a_prompt_says_which_concepts_its_picture_contains() -> None:
    built = request("a", "b", prompts={"b": "a photo of <DOG> asleep"})
    assert built.pictures[1].concepts == ("dog",)


def test_kinds_follow_the_base_models_backgrounds_unless_given() -> None:
    built = request(
        "a",
        concepts={"here": "beach", "there": "beach", "cat": "cat"},
        backgrounds=("beach",),
        kinds={"there": "pattern"},
    )
    assert [concept.kind for concept in built.concepts] == ["background", "pattern", "subject"]


def test_a_word_is_optional_and_tidied() -> None:
    built = request("a", concepts={"cat": "  Persian  Cat ", "thing": None})
    assert [concept.initializer for concept in built.concepts] == ["persian cat", None]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ((), {}, "no picture"),
        (("a",), {"concepts": {}}, "no concept to learn"),
        (("a", "a"), {}, "two pictures are called 'a'"),
        (("a",), {"contains": {"b": ["cat"]}}, "no picture 'b'"),
        (("a",), {"contains": {"a": ["bird"]}}, "no concept 'bird'"),
        (("a",), {"contains": {"a": []}}, "contains no concept"),
        (("a",), {"contains": {"a": ["cat"]}}, "'dog' is in no picture"),
        (("a",), {"prompts": {"a": "a photo of <bird>"}}, "no concept 'bird'"),
        (("a",), {"prompts": {"a": "a photo"}}, "names no concept"),
        (("a", "b"), {"prompts": {"a": "<cat>"}, "contains": {"a": ["cat", "dog"]}}, "disagree about <dog>"),
        (("a",), {"kinds": {"bird": "pattern"}}, "no concept 'bird'"),
        (("a",), {"concepts": {"cat": ""}}, "word of 'cat' is empty"),
        (("a",), {"concepts": {"cat": "<dog>"}}, "word of 'cat' is '<dog>'"),
        (("a",), {"concepts": {"two words": None}}, "two words"),
        (("a",), {"concepts": {"Cat": None}}, "use 'cat'"),
        (("a",), {"method": "gt"}, "needs a mask of 'cat' in 'a'"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_one_line(
    names: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConceptloomError, match=message) as raised:
        request(*names, **options)
    assert "\n" not in str(raised.value)


def test_names_are_the_same_in_whatever_form_their_accents_are_typed() -> None:
    composed, typed = "caf\u00e9", "cafe\u0301"
    built = request(
        pictures=[picture(typed, composed)],
        concepts={typed: "house"},
        method="gt",
        contains={composed: [typed]},
        prompts={typed: f"a photo of <{typed}>"},
        kinds={composed: "background"},
    )
    (entry,), (concept,) = built.pictures, built.concepts
    assert (entry.picture.name, entry.concepts) == (composed, (composed,))
    assert (concept.name, concept.kind) == (composed, "background")


def test_gt_needs_masks_of_contained_concepts_only() -> None:
    pictures = [picture("a", "cat"), picture("b", "dog")]
    built = request(pictures=pictures, method="gt", contains={"a": ["cat"], "b": ["dog"]})
    assert [entry.concepts for entry in built.pictures] == [("cat",), ("dog",)]


def test_the_description_tells_masks_apart_where_they_count() -> None:
    pictures = [picture("a", "cat", "dog")]
    assert request(pictures=pictures, method="gt").description()["pictures"]["a"]["masks"].keys() == {
        "cat",
        "dog",
    }
    assert request(pictures=pictures).description()["pictures"]["a"]["masks"] == {}
