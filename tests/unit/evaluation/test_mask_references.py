"""The rows that frame every mask score."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TrueConcept
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.mask_references import (
    ORACLE,
    ORACLE_NO_CRF,
    TRIVIAL,
    USUAL_AREA,
    reference_masks,
    subject_area,
)
from conceptloom.masks import CRFConfig
from conceptloom.pictures import Picture

NO_CRF = CRFConfig(iterations=0)


def square_set(name: str, side: int) -> BenchmarkSet:
    """A subject that fills the corner of `side` cells of a 16 x 16 picture, and the rest as background."""
    subject = np.zeros((16, 16), np.bool_)
    subject[:side, :side] = True
    picture = Picture(f"{name}-a", None, np.zeros((16, 16, 3), np.uint8), {"cat": subject, "place": ~subject})
    concepts = (
        TrueConcept("cat", "cat", "subject", "cat", "noto", "instance", "animal"),
        TrueConcept("place", "beach", "background", "beach", None, "place", "place"),
    )
    return BenchmarkSet(name, (picture,), concepts, {picture.name: ("cat", "place")}, (), "photo")


def benchmark(*sides: int) -> Benchmark:
    return Benchmark("squares", "dev", tuple(square_set(f"s{i}", side) for i, side in enumerate(sides)))


def test_a_subjects_area_is_the_median_over_the_other_sets() -> None:
    made = benchmark(4, 8, 12)
    assert subject_area(made, made.sets[0]) == pytest.approx((64 + 144) / 2 / 256)


def test_the_area_of_a_single_set_is_the_usual_one() -> None:
    made = benchmark(4)
    assert subject_area(made, made.sets[0]) == USUAL_AREA


def test_the_oracle_of_masks_that_fit_the_grid_is_perfect() -> None:
    made = benchmark(8, 4)
    oracle = [m for m in reference_masks(made, 16, (4, 4), NO_CRF) if m.method == ORACLE_NO_CRF]
    assert {m.concept.name: m.score.iou for m in oracle if m.set == "s0"}["cat"] > 0.9


def test_the_trivial_background_scores_its_share_of_the_picture() -> None:
    made = benchmark(8, 4)
    (found,) = (
        m
        for m in reference_masks(made, 16, (4, 4), NO_CRF)
        if m.method == TRIVIAL and m.set == "s0" and m.is_place
    )
    assert found.score.iou == pytest.approx(1 - 64 / 256)


def test_oracle_is_above_trivial_on_composed_pictures() -> None:
    found = reference_masks(builtin_benchmark("dev", 3), 128, (16, 16), CRFConfig(scale=2.0))
    means = {
        method: np.mean([m.score.iou for m in found if m.method == method and not m.is_place])
        for method in (ORACLE, TRIVIAL)
    }
    assert means[ORACLE] > means[TRIVIAL] + 0.3
