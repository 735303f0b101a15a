"""The groups of tables, on sets made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, PlaceType, TrueConcept
from conceptloom.evaluation.groups import GROUPS, clusters, groups_of
from conceptloom.pictures import Picture

CAT = TrueConcept("cat", "cat", "subject", "cat", "noto", "instance", "animal")
YETI = TrueConcept("yeti", None, "subject", "yeti", "twemoji", "novel noun", "creature")
OGRE = TrueConcept("ogre", None, "subject", "ogre", "noto", "novel noun", "creature")
SHORE = TrueConcept("shore", "beach", "background", "beach", None, "place", "place")
BLANK = np.zeros((8, 8, 3), np.uint8)


def one_set(
    *pictures: tuple[TrueConcept, ...],
    place_type: PlaceType = "photo",
) -> BenchmarkSet:
    """A set of pictures of these concepts."""
    made = tuple(Picture(f"p{number}", None, BLANK) for number in range(len(pictures)))
    contains = {
        picture.name: tuple(concept.name for concept in concepts)
        for picture, concepts in zip(made, pictures, strict=True)
    }
    concepts = tuple(dict.fromkeys(concept for some in pictures for concept in some))
    return BenchmarkSet("a", made, concepts, contains, (), place_type)


def titles_of(one: BenchmarkSet, concept: TrueConcept) -> list[str]:
    return [title for title, belongs in GROUPS if belongs(one, concept)]


def test_a_subject_belongs_to_what_it_is_and_to_what_its_set_is() -> None:
    assert titles_of(one_set((CAT, YETI, SHORE)), YETI) == [
        "novel nouns",
        "one picture",
        "two subjects learned",
        "subjects of different styles",
        "on a learned photograph",
    ]


def test_sets_of_two_pictures_are_told_from_those_that_share_a_concept() -> None:
    apart, shared = one_set((CAT,), (OGRE, SHORE)), one_set((CAT,), (CAT, OGRE, SHORE))
    assert {"two pictures"} == {"two pictures", "a concept in both pictures"} & {*titles_of(apart, CAT)}
    assert {"two pictures", "a concept in both pictures"} <= {*titles_of(shared, CAT)}
    assert "one picture" not in titles_of(apart, CAT)


@pytest.mark.parametrize(
    ("concepts", "number"),
    [((CAT,), "one subject"), ((CAT, OGRE), "two subjects"), ((CAT, OGRE, YETI), "three subjects")],
)
def test_subjects_are_counted_without_the_place(concepts: tuple[TrueConcept, ...], number: str) -> None:
    told = [title for title in titles_of(one_set((*concepts, SHORE)), CAT) if title.endswith("learned")]
    assert f"{number} learned" in told
    assert len([title for title in told if "subject" in title]) == 1


def test_one_subject_alone_is_of_no_style_like_another() -> None:
    assert not [title for title in titles_of(one_set((CAT, SHORE)), CAT) if "style" in title]
    assert "subjects of one style" in titles_of(one_set((CAT, OGRE)), CAT)


@pytest.mark.parametrize(
    ("place_type", "on", "itself"),
    [
        ("photo", "on a learned photograph", "background: photograph"),
        ("drawn", "on a learned drawn scene", "background: drawn scene"),
        ("pattern", "on a learned pattern", "background: pattern"),
    ],
)
def test_a_background_belongs_to_its_kind_alone(place_type: PlaceType, on: str, itself: str) -> None:
    one = one_set((CAT, SHORE), place_type=place_type)
    assert titles_of(one, SHORE) == [itself]
    assert [title for title in titles_of(one, CAT) if title.startswith("on a")] == [on]


def test_without_a_learned_background_subjects_stand_on_one_that_is_not() -> None:
    assert "on a background not learned" in titles_of(one_set((CAT,), place_type="none"), CAT)


def test_subjects_of_no_known_style_are_in_no_group_of_styles() -> None:
    bare = tuple(replace(concept, family=None) for concept in (CAT, OGRE))
    assert not [title for title in titles_of(one_set(bare), bare[0]) if "style" in title]
    mixed = one_set((CAT, bare[1]))
    assert not [title for title in titles_of(mixed, CAT) if "style" in title]


def test_on_coco_every_class_is_a_group() -> None:
    one = one_set((CAT, OGRE, SHORE))
    found = dict(groups_of(Benchmark("coco", "val2017", (one,))))
    assert [title for title in found if title.startswith("class: ")] == ["class: cat", "class: ogre"]
    told = [concept.name for concept in one.concepts if found["class: cat"](one, concept)]
    assert told == ["cat"]
    assert groups_of(Benchmark("builtin", "dev", (one,))) == GROUPS


def test_concepts_are_resampled_by_noun_and_those_of_one_noun_by_set() -> None:
    assert clusters([("a", CAT), ("b", CAT), ("b", OGRE)]) == ["cat", "cat", "ogre"]
    assert clusters([("a", SHORE), ("b", SHORE)]) == ["a", "b"]
    assert clusters([]) == []
