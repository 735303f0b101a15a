"""References of concepts and prototypes of a benchmark, from pictures painted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TrueConcept
from conceptloom.evaluation.image_references import prototypes, references
from conceptloom.pictures import Picture
from tiny_judges import ColourFeatures, box_mask, paint

LEFT, RIGHT = (2, 10, 12, 20), (25, 10, 35, 20)
CAT = TrueConcept("cat", "cat", "subject", "cat", "noto", "instance", "animal")
DOG = TrueConcept("dog", "dog", "subject", "dog", "noto", "instance", "animal")
PLACE = TrueConcept("shore", "beach", "background", "beach", None, "place", "place")
BOTH = Picture(
    "both",
    None,
    paint(("red", LEFT), ("green", RIGHT), behind="blue"),
    {"cat": box_mask(LEFT), "dog": box_mask(RIGHT)},
)
ALONE = Picture("alone", None, paint(("yellow", LEFT)), {"cat": box_mask(LEFT)})


def one_set(*pictures: Picture, name: str = "one") -> BenchmarkSet:
    contains = {"both": ("cat", "dog", "shore"), "alone": ("cat",)}
    own = {picture.name: contains[picture.name] for picture in pictures}
    return BenchmarkSet(name, pictures, (CAT, DOG, PLACE), own, (), "photo")


def test_a_subject_is_its_masked_crop() -> None:
    found = references(one_set(BOTH), ColourFeatures(), greyed=True)
    assert found.subjects["cat"] == pytest.approx(np.array([[1, 0, 0]]))
    assert found.subjects["dog"] == pytest.approx(np.array([[0, 1, 0]]))


def test_a_place_is_its_picture_without_the_subjects() -> None:
    found = references(one_set(BOTH), ColourFeatures(), greyed=True)
    assert found.places == {"shore": pytest.approx(np.array([[0, 0, 1]]))}


def test_a_place_that_is_not_greyed_is_its_whole_picture() -> None:
    found = references(one_set(BOTH), ColourFeatures(), greyed=False)
    assert found.places == {"shore": pytest.approx(ColourFeatures().embed([BOTH.pixels]))}


def test_a_subject_leaves_its_box_out_of_its_place_as_a_detected_thing_does() -> None:
    corner = np.zeros((40, 40), np.bool_)
    corner[10:20, 2] = corner[10, 2:12] = True  # only two edges of the red box
    bare = replace(BOTH, masks={**BOTH.masks, "cat": corner})
    assert references(one_set(bare), ColourFeatures(), greyed=True).places == {
        "shore": pytest.approx(np.array([[0, 0, 1]]))
    }


def test_a_subject_in_two_pictures_has_two_references() -> None:
    found = references(one_set(BOTH, ALONE), ColourFeatures(), greyed=True)
    assert found.subjects["cat"] == pytest.approx(np.array([[1, 0, 0], np.array([1, 1, 0]) / np.sqrt(2)]))
    assert len(found.pictures) == 2


def test_a_subject_without_masks_is_its_whole_picture() -> None:
    bare = replace(BOTH, masks={"cat": box_mask(LEFT)})
    found = references(one_set(bare), ColourFeatures(), greyed=True)
    assert found.subjects["dog"] == pytest.approx(ColourFeatures().embed([BOTH.pixels]))


def test_an_empty_mask_is_no_reference() -> None:
    empty = replace(ALONE, masks={"cat": np.zeros((40, 40), np.bool_)})
    assert len(references(one_set(BOTH, empty), ColourFeatures(), greyed=True).subjects["cat"]) == 1


def test_a_picture_is_left_out_where_there_is_another() -> None:
    found = references(one_set(BOTH, ALONE), ColourFeatures(), greyed=True, without="both")
    assert found.subjects["cat"] == pytest.approx(np.array([[1, 1, 0]]) / np.sqrt(2))
    assert found.subjects["dog"] == pytest.approx(np.array([[0, 1, 0]]))


def test_a_mask_is_left_out_with_its_picture() -> None:
    bare = replace(ALONE, masks={})
    found = references(one_set(BOTH, bare), ColourFeatures(), greyed=True, without="both")
    assert found.subjects["cat"] == pytest.approx(ColourFeatures().embed([ALONE.pixels]))


def test_a_drawing_that_two_sets_learn_is_one_prototype() -> None:
    sets = (one_set(BOTH, name="first"), one_set(BOTH, ALONE, name="second"))
    found = {one.name: references(one, ColourFeatures(), greyed=True) for one in sets}
    made = prototypes(Benchmark("own", "own", sets), found)
    assert made.keys == (("cat", "noto"), ("dog", "noto"))
    mean = np.array([2 + 1 / np.sqrt(2), 1 / np.sqrt(2), 0])
    assert made.vectors[0] == pytest.approx(mean / np.linalg.norm(mean))


def test_subjects_without_a_style_are_each_sets_own() -> None:
    sets = tuple(
        replace(one_set(BOTH, name=name), concepts=(replace(CAT, family=None), DOG, PLACE))
        for name in ("first", "second")
    )
    found = {one.name: references(one, ColourFeatures(), greyed=True) for one in sets}
    keys = prototypes(Benchmark("own", "own", sets), found).keys
    assert keys == (("first", "cat"), ("dog", "noto"), ("second", "cat"))
