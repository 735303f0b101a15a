"""The value objects of a benchmark: what they refuse, and what tables split by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conceptloom.errors import DataError, PromptError
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TestPrompt, TrueConcept
from conceptloom.learning import build_request, resolve_config
from conceptloom.pictures import Picture

CAT = TrueConcept("cat", "cat", "subject", "cat", "noto", "instance", "animal")
OWL = TrueConcept("owl", "bird", "subject", "owl", "twemoji", "novel noun", "bird")
SHORE = TrueConcept("shore", "beach", "background", "beach", None, "place", "place")
RIDE = TestPrompt("a <cat> riding a horse", "known", ("cat",), None, ("cat", "riding", "horse"), ("horse",))


def picture(name: str, *masked: str) -> Picture:
    pixels = np.full((16, 16, 3), len(name), np.uint8)
    return Picture(name, None, pixels, {concept: np.eye(16, dtype=np.bool_) for concept in masked})


def example_set() -> BenchmarkSet:
    """Two pictures: a cat and an owl; the owl again, on the shore."""
    return BenchmarkSet(
        name="one",
        pictures=(picture("a", "cat", "owl"), picture("b", "owl", "shore")),
        concepts=(CAT, OWL, SHORE),
        contains={"a": ("cat", "owl"), "b": ("owl", "shore")},
        prompts=(RIDE,),
        place_type="photo",
        captions={"a": "a photo of <cat> near <owl>"},
    )


def test_class_words_stand_where_the_placeholders_stood() -> None:
    prompt = TestPrompt("a < Cat > riding a <köter> on <shore>", "context", ("cat", "köter", "shore"))
    words = {"cat": "cat", "köter": "dog", "shore": "beach"}
    assert prompt.class_words_text(words) == "a cat riding a dog on beach"


def test_a_place_is_a_learned_one_only_when_it_is_asked_for() -> None:
    learned = TestPrompt("a <cat> on the <shore>", "transfer", ("cat", "shore"), "shore")
    assert learned.asked_place == "shore"
    assert TestPrompt("a <cat> on the shore", "context", ("cat",), "shore").asked_place is None


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"asked": ()}, "names 'cat', but asks for nothing"),
        ({"asked": ("cat", "dog")}, "asks for 'cat', 'dog'"),
        ({"place": "beach"}, "does not say 'beach'"),
        ({"relation": ("cat", "holding", "horse")}, "does not say 'holding'"),
        ({"known": ("horse", "lion")}, "does not say 'lion'"),
        ({"style": "noto"}, "does not say 'noto'"),
    ],
)
def test_a_prompt_that_contradicts_its_text_is_refused(changes, match) -> None:
    with pytest.raises(DataError, match=match):
        replace(RIDE, **changes)


def test_a_prompt_with_a_mistyped_placeholder_is_refused() -> None:
    with pytest.raises(PromptError, match="belongs to no concept"):
        TestPrompt("a <my cat>", "context", ())


def test_a_concept_with_an_unusable_name_is_refused() -> None:
    with pytest.raises(PromptError, match="capital letters"):
        replace(CAT, name="Cat")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": "../one"}, "cannot be a file name"),
        ({"name": "o" * 201}, "cannot be a file name"),
        ({"pictures": (picture("a"), picture("a"))}, "two pictures of 'one' are called 'a'"),
        ({"concepts": (CAT, CAT, OWL, SHORE)}, "two concepts of 'one' are called 'cat'"),
        ({"contains": {"a": ("cat", "owl", "shore")}}, "say it of each picture"),
        ({"contains": {"a": ("cat", "owl"), "b": ("owl", "shore", "dog")}}, "contains 'dog'"),
        ({"contains": {"a": ("cat", "owl"), "b": ("owl", "owl", "shore")}}, "called 'owl'"),
        ({"contains": {"a": ("cat",), "b": ("owl", "shore")}}, "mask of 'owl', which it does not contain"),
        ({"concepts": (CAT, OWL, SHORE, replace(CAT, name="dog"))}, "'dog' of set 'one' is in none"),
        ({"prompts": (TestPrompt("a <dog>", "context", ("dog",)),)}, "names 'dog', which it does not learn"),
        ({"captions": {"c": "a <cat>"}}, "caption of no picture: 'c'"),
    ],
)
def test_a_set_whose_parts_do_not_fit_is_refused_in_one_line(changes, match) -> None:
    with pytest.raises(DataError, match=match) as caught:
        replace(example_set(), **changes)
    assert len(str(caught.value).splitlines()) == 1


def test_a_set_is_all_that_a_learning_request_needs() -> None:
    one = example_set()
    config = resolve_config("builtin", {"method": "gt"})
    request = build_request(
        one.pictures, one.words, config, contains=one.contains, kinds=one.kinds, prompts=one.captions
    )
    assert [concept.kind for concept in request.concepts] == ["subject", "subject", "background"]
    assert [entry.concepts for entry in request.pictures] == [("cat", "owl"), ("owl", "shore")]
    assert request.pictures[0].prompt == "a photo of <cat> near <owl>"
    assert request.concept("owl").initializer == "bird"


def test_what_tables_split_by_follows_from_the_set() -> None:
    one = example_set()
    assert one.num_pictures == 2
    assert one.shares_a_concept
    assert one.crosses_styles
    assert one.subjects == (CAT, OWL)
    assert one.place is SHORE
    assert one.nouns == ("beach", "cat", "owl")
    assert [picture.name for picture in one.pictures_with("owl")] == ["a", "b"]


def test_a_set_of_one_picture_shares_nothing() -> None:
    one = replace(
        example_set(), pictures=(picture("a"),), contains={"a": ("cat", "owl", "shore")}, captions={}
    )
    assert not one.shares_a_concept


def test_a_concept_without_a_starting_word_is_spoken_of_by_its_class_word() -> None:
    one = replace(example_set(), concepts=(replace(CAT, word=None), OWL, SHORE))
    assert one.class_words == {"cat": "animal", "owl": "bird", "shore": "beach"}


def test_digests_tell_what_of_a_set_is_another() -> None:
    one = example_set()
    other = picture("a", "cat", "owl")
    painted = replace(other, pixels=other.pixels + 1)
    masked = replace(other, masks={"cat": ~other.masks["cat"], "owl": other.masks["owl"]})
    changes: dict[str, list[dict[str, Any]]] = {
        "pictures": [{"pictures": (painted, one.pictures[1])}],
        "masks": [{"pictures": (masked, one.pictures[1])}],
        "words": [
            {"concepts": (replace(CAT, word="animal"), OWL, SHORE)},
            {"contains": {"a": ("cat", "owl"), "b": ("shore", "owl")}},
            {"prompts": (RIDE, RIDE)},
            {"captions": {}},
        ],
    }
    assert replace(one, name="two").digests == one.digests
    for what, changed in changes.items():
        for change in changed:
            digests = replace(one, **change).digests
            assert [key for key in digests if digests[key] != one.digests[key]] == [what]


def test_concepts_of_one_noun_are_one_cluster() -> None:
    benchmark = Benchmark("mine", "dev", (example_set(), replace(example_set(), name="two")))
    assert benchmark.by_noun() == {
        "cat": (("one", "cat"), ("two", "cat")),
        "owl": (("one", "owl"), ("two", "owl")),
        "beach": (("one", "shore"), ("two", "shore")),
    }


def test_a_benchmark_without_sets_or_with_two_of_a_name_is_refused() -> None:
    with pytest.raises(DataError, match="holds no set"):
        Benchmark("mine", "dev", ())
    with pytest.raises(DataError, match="two sets of 'mine' are called 'one'"):
        Benchmark("mine", "dev", (example_set(), example_set()))
