"""The rows that frame every mask score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TrueConcept
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.mask_metrics import trivial_masks
from conceptloom.evaluation.mask_references import (
    ORACLE,
    ORACLE_NO_CRF,
    TRIVIAL,
    USUAL_AREA,
    reference_masks,
    subject_areas,
)
from conceptloom.masks import CRFConfig, iou
from conceptloom.pictures import Picture, square_frame_mask

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


def disc_iou(made: Benchmark, name: str) -> float:
    (found,) = (
        m
        for m in reference_masks(made, 16, (4, 4), NO_CRF)
        if m.method == TRIVIAL and m.set == name and not m.is_place
    )
    return found.score.iou


def test_the_trivial_disc_has_the_median_area_of_the_subjects_of_other_sets() -> None:
    made = benchmark(4, 8, 12)
    truth = square_frame_mask(made.sets[0].pictures[0].masks["cat"], 16)
    disc = trivial_masks(truth[None], ["subject"], (64 + 144) / 2 / 256)[0]
    assert disc_iou(made, "s0") == pytest.approx(iou(disc, truth))


def test_the_trivial_disc_of_a_single_set_has_the_usual_area() -> None:
    truth = square_frame_mask(benchmark(8).sets[0].pictures[0].masks["cat"], 16)
    disc = trivial_masks(truth[None], ["subject"], USUAL_AREA)[0]
    assert disc_iou(benchmark(8), "s0") == pytest.approx(iou(disc, truth))


def test_a_subjects_area_is_a_share_of_the_square_frame() -> None:
    one = square_set("wide", 8)
    wide = {name: np.pad(mask, ((0, 0), (8, 8))) for name, mask in one.pictures[0].masks.items()}
    picture = replace(one.pictures[0], pixels=np.zeros((16, 32, 3), np.uint8), masks=wide)
    assert subject_areas(replace(one, pictures=(picture,)), 16) == [64 / 256]


def test_a_subject_outside_the_square_frame_has_no_area() -> None:
    one = square_set("wide", 4)
    wide = {name: np.pad(mask, ((0, 0), (0, 16))) for name, mask in one.pictures[0].masks.items()}
    picture = replace(one.pictures[0], pixels=np.zeros((16, 32, 3), np.uint8), masks=wide)
    assert subject_areas(replace(one, pictures=(picture,)), 16) == []


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
