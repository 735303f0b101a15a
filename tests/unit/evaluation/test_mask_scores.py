"""Scores of units' masks, and the rows and curves made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from conceptloom.evaluation.benchmark import BenchmarkSet, TrueConcept
from conceptloom.evaluation.mask_metrics import score_mask
from conceptloom.evaluation.mask_scores import (
    ScoredMask,
    final_masks,
    mask_rows,
    mean_curves,
    paired_difference,
    paired_difference_by_noun,
    scored_masks,
    swapped_pictures,
)
from conceptloom.evaluation.statistics import cluster_bootstrap
from conceptloom.evaluation.units import MaskRecord, UnitKey, UnitResult
from conceptloom.pictures import Picture

LEFT = np.arange(8)[None, :].repeat(8, 0) < 3
RIGHT = np.arange(8)[None, :].repeat(8, 0) >= 5
REST = ~LEFT & ~RIGHT


def one_set(name: str = "one") -> BenchmarkSet:
    pixels = np.zeros((8, 8, 3), np.uint8)
    masks = {"cat": LEFT, "dog": RIGHT, "place": REST}
    concepts = (
        TrueConcept("cat", "cat", "subject", "cat", "noto", "instance", "animal"),
        TrueConcept("dog", "dog", "subject", "dog", "noto", "instance", "animal"),
        TrueConcept("place", "beach", "background", "beach", None, "place", "place"),
    )
    pictures = (Picture("first", None, pixels, masks),)
    return BenchmarkSet(name, pictures, concepts, {"first": ("cat", "dog", "place")}, (), "photo")


def unit(
    *steps: tuple[npt.NDArray[np.bool_], ...], name: str = "one", **key: Any
) -> tuple[BenchmarkSet, UnitResult]:
    records = tuple(
        MaskRecord(20 * index, "first", ("cat", "dog", "place"), np.stack(masks), None, ("dog",) * index, ())
        for index, masks in enumerate(steps)
    )
    full_key = UnitKey(name, key.get("method", "paper"), key.get("seed", 0))
    return one_set(name), UnitResult(full_key, records, {}, {})


def test_true_masks_score_one_in_every_way() -> None:
    scored = scored_masks(*unit((LEFT, RIGHT, REST)))
    assert [(mask.score.iou, mask.score.boundary_iou) for mask in scored] == [(1.0, 1.0)] * 3


def test_truth_of_a_larger_picture_is_brought_to_the_frame() -> None:
    one, result = unit((LEFT, RIGHT, REST))
    truths = {"cat": LEFT, "dog": RIGHT, "place": REST}
    padded = {name: np.pad(mask, ((0, 0), (4, 4))) for name, mask in truths.items()}
    wide = {name: np.kron(mask, np.ones((3, 3), bool)) for name, mask in padded.items()}
    picture = Picture("first", None, np.zeros((24, 48, 3), np.uint8), wide)
    larger = BenchmarkSet(one.name, (picture,), one.concepts, one.contains, (), "photo")
    assert [mask.score.iou for mask in scored_masks(larger, result)] == [1.0, 1.0, 1.0]


def test_a_mask_without_truth_is_not_scored() -> None:
    one, result = unit((LEFT, RIGHT, REST))
    picture = Picture("first", None, one.pictures[0].pixels, {"dog": RIGHT})
    bare = BenchmarkSet(one.name, (picture,), one.concepts, one.contains, (), "photo")
    assert [mask.concept.name for mask in scored_masks(bare, result)] == ["dog"]


def test_exchanged_subjects_are_a_swap_and_kept_ones_are_none() -> None:
    assert swapped_pictures(*unit((LEFT, RIGHT, REST), (RIGHT, LEFT, REST))) == {"first": True}
    assert swapped_pictures(*unit((RIGHT, LEFT, REST), (LEFT, RIGHT, REST))) == {"first": False}


def test_the_final_mask_is_that_of_the_last_step() -> None:
    scored = scored_masks(*unit((REST, REST, LEFT), (LEFT, RIGHT, REST)))
    assert [mask.score.iou for mask in final_masks(scored)] == [1.0, 1.0, 1.0]


def scored(
    scene: str, concept: str, *values: float, method: str = "paper", seed: int = 0
) -> list[ScoredMask]:
    """Masks whose IoU is planted: the truth has ten cells a row, the mask as many of them as asked for."""
    truth = np.ones((1, 10), bool)
    found = []
    for index, value in enumerate(values):
        mask = np.zeros((1, 10), bool)
        mask[0, : round(10 * value)] = True
        one = TrueConcept(concept, concept, "subject", concept, None, "instance", "thing")
        score = score_mask(mask, truth)
        found.append(ScoredMask(scene, method, "", seed, "first", one, 20 * index, score))
    return found


def test_a_row_is_the_mean_of_its_masks_with_empties_counted_and_in_it() -> None:
    rows = mask_rows([*scored("a", "cat", 0.4), *scored("b", "cat", 0.0)], lambda mask: mask.method)
    row = rows["paper"]
    assert (row.masks, row.empty) == (2, 1)
    assert row.iou.value == pytest.approx(0.2)


def test_a_row_of_several_nouns_resamples_nouns_and_one_of_a_single_noun_scenes() -> None:
    cats = [*scored("a", "cat", 0.2), *scored("b", "cat", 0.6)]
    every = [*cats, *scored("b", "dog", 0.8)]
    (row,), (alone,) = (mask_rows(masks, lambda mask: mask.method).values() for masks in (every, cats))
    assert row.iou == cluster_bootstrap([0.2, 0.6, 0.8], ["cat", "cat", "dog"])
    assert alone.iou == cluster_bootstrap([0.2, 0.6], ["a", "b"])
    assert (row.clusters, alone.clusters) == (2, 2)


def test_rows_come_by_what_the_group_says() -> None:
    rows = mask_rows([*scored("a", "cat", 0.4), *scored("a", "dog", 0.8)], lambda mask: mask.concept.noun)
    assert {name: row.iou.value for name, row in rows.items()} == pytest.approx({"cat": 0.4, "dog": 0.8})


def test_a_paired_difference_leaves_out_what_only_one_side_has() -> None:
    first = [*scored("a", "cat", 0.9), *scored("b", "cat", 0.5), *scored("c", "cat", 0.0)]
    second = [*scored("a", "cat", 0.4, method="fixed"), *scored("b", "cat", 0.2, method="fixed")]
    assert paired_difference(first, second).value == pytest.approx(0.4)


def test_nothing_in_common_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="share no mask"):
        paired_difference(scored("a", "cat", 0.9), scored("b", "cat", 0.9))


def test_a_scene_has_one_curve_the_mean_of_its_concepts_and_seeds() -> None:
    masks = [
        *scored("a", "cat", 0.2, 0.4),
        *scored("a", "cat", 0.4, 0.6, seed=1),
        *scored("b", "dog", 1.0, 1.0),
    ]
    steps, curves = mean_curves(masks)
    assert steps == [0, 20]
    np.testing.assert_allclose(curves, [[0.3, 0.5], [1.0, 1.0]])


def test_curves_and_differences_of_boundaries_are_of_boundaries() -> None:
    def cut(method: str, *values: float) -> list[ScoredMask]:
        made = scored("a", "cat", *(0.5 for _ in values), method=method)
        return [
            replace(mask, score=replace(mask.score, boundary_iou=value))
            for mask, value in zip(made, values, strict=True)
        ]

    ours = cut("paper", 0.2, 0.7)
    np.testing.assert_allclose(mean_curves(ours, "boundary IoU")[1], [[0.2, 0.7]])
    for difference in (paired_difference, paired_difference_by_noun):
        found = difference(ours[1:], cut("fixed", 0.3), "boundary IoU")
        assert found.value == pytest.approx(0.4)


def test_a_flat_line_is_held_where_a_run_has_no_later_masks() -> None:
    steps, curves = mean_curves([*scored("a", "cat", 0.2), *scored("b", "cat", 0.5, 0.7)])
    assert steps == [0, 20]
    np.testing.assert_allclose(curves, [[0.2, 0.2], [0.5, 0.7]])
