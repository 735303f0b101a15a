"""Scores of masks drawn by hand, where every number can be counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from conceptloom.evaluation.mask_metrics import (
    MaskScore,
    boundary_iou,
    mask_iou,
    oracle_masks,
    score_mask,
    swapped,
    trivial_masks,
)
from conceptloom.masks import CRFConfig, iou

BoolArray = NDArray[np.bool_]
MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))
WITHOUT_PAIRWISE = CRFConfig(gaussian_weight=0.0, bilateral_weight=0.0)


def _box(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (40, 40)) -> BoolArray:
    mask = np.zeros(size, np.bool_)
    mask[top:bottom, left:right] = True
    return mask


EMPTY, FULL, BOX = _box(0, 0, 0, 0), _box(0, 0, 40, 40), _box(10, 10, 30, 30)


def test_boxes_that_share_half_of_each_score_a_third() -> None:
    assert float(mask_iou(BOX, _box(10, 20, 30, 40))) == pytest.approx(1 / 3)


def test_two_empty_masks_agree_fully() -> None:
    assert float(mask_iou(EMPTY, EMPTY)) == 1


def test_an_empty_prediction_scores_zero_against_a_true_mask() -> None:
    assert float(mask_iou(EMPTY, BOX)) == 0


def test_a_prediction_scores_zero_against_an_empty_true_mask() -> None:
    assert float(mask_iou(BOX, EMPTY)) == 0


def test_stacks_of_masks_are_scored_one_by_one() -> None:
    predicted, truth = np.stack([BOX, EMPTY, FULL, EMPTY]), np.stack([BOX, EMPTY, BOX, BOX])
    np.testing.assert_allclose(mask_iou(predicted, truth), [1, 1, 0.25, 0])


def test_leading_axes_of_masks_are_kept() -> None:
    masks = np.random.default_rng(0).random((2, 3, 5, 7)) < 0.5
    scores = mask_iou(masks, masks[:, ::-1])
    assert scores.shape == (2, 3)
    assert scores[1, 0] == iou(masks[1, 0], masks[1, 2])


def test_no_masks_have_no_scores() -> None:
    assert mask_iou(np.zeros((0, 4, 4), np.bool_), np.zeros((0, 4, 4), np.bool_)).shape == (0,)


@pytest.mark.parametrize(("a", "b"), [((4, 5), (5, 4)), ((2, 4, 4), (4, 4)), ((4,), (4,))])
def test_masks_of_different_shapes_have_no_iou(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="can't be compared"):
        mask_iou(np.zeros(a, np.bool_), np.zeros(b, np.bool_))


# The diagonal of 40 x 40 is 56.6 pixels: a ratio of 0.02 is 1 pixel, 0.05 is 3.


def test_a_mask_s_boundary_agrees_with_itself() -> None:
    assert float(boundary_iou(BOX, BOX)) == 1


def test_a_box_one_pixel_smaller_all_round_shares_no_thin_boundary() -> None:
    assert float(boundary_iou(_box(11, 11, 29, 29), BOX)) == 0


def test_a_thicker_boundary_forgives_one_pixel() -> None:
    """Rings between sides 20 and 14, 18 and 12: shared 18^2 - 14^2, together 20^2 - 12^2."""
    score = float(boundary_iou(_box(11, 11, 29, 29), BOX, 0.05))
    assert score == pytest.approx((18**2 - 14**2) / (20**2 - 12**2))


def test_a_hole_has_a_boundary_of_its_own() -> None:
    """The outline's ring has 20^2 - 18^2 pixels, the hole's 6^2 - 4^2."""
    holed = BOX & ~_box(18, 18, 22, 22)
    assert float(boundary_iou(holed, BOX)) == pytest.approx(76 / (76 + 20))


def test_the_picture_s_border_counts_as_outline() -> None:
    """The whole picture's boundary is its frame, of which the left half's has 40 + 2 x 19 pixels."""
    half = _box(0, 0, 40, 20)
    shared, inner_edge, rest = 40 + 2 * 19, 38, 40 + 2 * 19
    assert float(boundary_iou(half, FULL)) == pytest.approx(shared / (shared + inner_edge + rest))


def test_a_small_picture_still_has_one_pixel_of_boundary() -> None:
    assert float(boundary_iou(np.ones((5, 5), np.bool_), np.ones((5, 5), np.bool_), 1e-6)) == 1
    ring = np.ones((5, 5), np.bool_)
    ring[1:4, 1:4] = False
    assert float(boundary_iou(ring, np.ones((5, 5), np.bool_), 1e-6)) == 1


def test_a_boundary_wider_than_the_masks_leaves_plain_iou() -> None:
    other = _box(12, 14, 35, 31)
    assert float(boundary_iou(BOX, other, 0.5)) == pytest.approx(iou(BOX, other))


def test_a_wrong_edge_of_a_large_mask_costs_more_than_in_iou() -> None:
    large = _box(2, 2, 38, 38)
    shaved = _box(3, 3, 37, 37)
    assert float(boundary_iou(shaved, large, 0.05)) < iou(shaved, large)


@pytest.mark.parametrize(("a", "b", "score"), [(EMPTY, EMPTY, 1), (EMPTY, BOX, 0), (BOX, EMPTY, 0)])
def test_boundaries_of_empty_masks_follow_the_rules_of_iou(a: BoolArray, b: BoolArray, score: float) -> None:
    assert float(boundary_iou(a, b)) == score


def test_boundaries_in_a_stack_do_not_touch_each_other() -> None:
    predicted, truth = np.stack([[BOX, FULL], [EMPTY, BOX]]), np.stack([[FULL, BOX], [BOX, BOX]])
    together = boundary_iou(predicted, truth, 0.05)
    apart = [[float(boundary_iou(predicted[i, k], truth[i, k], 0.05)) for k in range(2)] for i in range(2)]
    np.testing.assert_array_equal(together, apart)


@given(masks=MASKS, ratio=st.sampled_from([0.02, 0.06, 0.12]), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_a_chessboard_distance_transform_finds_the_same_boundaries(
    masks: BoolArray, ratio: float, seed: int
) -> None:
    other = masks ^ (np.random.default_rng(seed).random(masks.shape) < 0.1)
    width = max(1, round(ratio * float(np.hypot(*masks.shape))))

    def boundary(mask: BoolArray) -> BoolArray:
        depth = ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1]
        return (depth > 0) & (depth <= width)

    assert float(boundary_iou(masks, other, ratio)) == iou(boundary(masks), boundary(other))


@given(masks=MASKS)
@settings(max_examples=30, deadline=None)
def test_turning_or_mirroring_both_masks_keeps_boundary_iou(masks: BoolArray) -> None:
    other = np.roll(masks, 1, axis=0)
    score = float(boundary_iou(masks, other, 0.1))
    assert float(boundary_iou(np.rot90(masks), np.rot90(other), 0.1)) == score
    assert float(boundary_iou(masks[:, ::-1], other[:, ::-1], 0.1)) == score
    assert float(boundary_iou(other, masks, 0.1)) == score


def test_a_shaved_box_is_scored_by_both_measures() -> None:
    score = score_mask(_box(11, 11, 29, 29), BOX)
    assert score == MaskScore(18**2 / 20**2, 0.0, False, False, False)


def test_an_empty_prediction_is_counted() -> None:
    assert score_mask(EMPTY, BOX) == MaskScore(0.0, 0.0, True, False, False)


def test_an_empty_truth_is_counted() -> None:
    assert score_mask(BOX, EMPTY) == MaskScore(0.0, 0.0, False, True, False)


def test_two_empty_masks_agree_and_are_counted() -> None:
    assert score_mask(EMPTY, EMPTY) == MaskScore(1.0, 1.0, True, True, False)


def test_a_full_prediction_is_counted() -> None:
    score = score_mask(FULL, BOX)
    assert score.iou == 0.25
    assert score.full_prediction


def test_a_full_truth_is_not_a_full_prediction() -> None:
    assert not score_mask(BOX, FULL).full_prediction


def _scene() -> tuple[BoolArray, NDArray[np.uint8]]:
    """A disc that fits no grid, and what is behind it; flat colours with slight noise."""
    row, column = np.mgrid[:64, :64]
    disc = np.hypot(row - 27.3, column - 36.1) < 15
    pixels = np.where(disc[..., None], [200, 80, 60], [60, 120, 170])
    pixels = pixels + np.random.default_rng(0).normal(0, 2, pixels.shape)
    return np.stack([disc, ~disc]), pixels.clip(0, 255).astype(np.uint8)


def test_masks_that_follow_the_grid_come_back_whole_where_the_crf_does_nothing() -> None:
    truth = np.stack([_box(0, 0, 40, 20), _box(0, 20, 40, 40)])
    oracle = oracle_masks(truth, np.zeros((40, 40, 3), np.uint8), (4, 4), WITHOUT_PAIRWISE)
    np.testing.assert_array_equal(oracle.unrefined, truth)
    np.testing.assert_array_equal(oracle.refined, truth)


def test_an_oracle_on_the_picture_s_own_grid_loses_nothing() -> None:
    truth, pixels = _scene()
    np.testing.assert_array_equal(oracle_masks(truth, pixels, (64, 64), CRFConfig()).unrefined, truth)


def test_an_oracle_on_a_coarser_grid_loses_more() -> None:
    truth, pixels = _scene()
    coarse, fine = (oracle_masks(truth, pixels, (n, n), CRFConfig()).unrefined for n in (8, 16))
    assert (mask_iou(coarse, truth) < mask_iou(fine, truth)).all()
    assert (mask_iou(fine, truth) < 1).all()


def test_the_crf_repairs_what_the_grid_lost() -> None:
    truth, pixels = _scene()
    oracle = oracle_masks(truth, pixels, (8, 8), CRFConfig())
    assert (mask_iou(oracle.refined, truth) > mask_iou(oracle.unrefined, truth)).all()
    assert (mask_iou(oracle.refined, truth) > 0.99).all()


def test_an_oracle_keeps_an_empty_true_mask_empty() -> None:
    truth, pixels = _scene()
    oracle = oracle_masks(np.concatenate([truth, np.zeros_like(truth[:1])]), pixels, (8, 8), CRFConfig())
    assert not oracle.refined[2].any()
    assert not oracle.unrefined[2].any()
    assert oracle.refined[:2].any(axis=(1, 2)).all()


def test_a_subject_smaller_than_a_cell_is_not_lost() -> None:
    dot = _box(14, 14, 16, 16)
    oracle = oracle_masks(np.stack([dot, ~dot]), np.zeros((40, 40, 3), np.uint8), (4, 4), WITHOUT_PAIRWISE)
    np.testing.assert_array_equal(oracle.refined, oracle.unrefined)
    assert oracle.unrefined[0, 14:16, 14:16].all()


def test_an_oracle_refuses_a_picture_of_another_size() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        oracle_masks(BOX[None], np.zeros((20, 40, 3), np.uint8), (4, 4), CRFConfig())


def test_trivial_backgrounds_and_patterns_are_the_whole_picture() -> None:
    masks = trivial_masks(np.stack([BOX, EMPTY]), ["background", "pattern"], 0.1)
    np.testing.assert_array_equal(masks, np.stack([FULL, FULL]))


def test_trivial_subjects_are_one_disc_whatever_the_truth() -> None:
    masks = trivial_masks(np.stack([BOX, EMPTY]), ["subject", "subject"], 0.1)
    np.testing.assert_array_equal(masks[0], masks[1])


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (61, 45)])
@pytest.mark.parametrize("area", [0.02, 0.09, 0.3, 0.9])
def test_the_trivial_disc_has_the_area_asked_for(size: tuple[int, int], area: float) -> None:
    disc = trivial_masks(np.zeros((1, *size), np.bool_), ["subject"], area)[0]
    assert disc.mean() == pytest.approx(area, abs=24 / disc.size)  # pixels equally far from the centre


def test_the_trivial_disc_is_round_and_centred() -> None:
    disc = trivial_masks(np.zeros((1, 96, 128), np.bool_), ["subject"], 0.1)[0]
    row, column = np.nonzero(disc)
    radius = np.sqrt(0.1 * disc.size / np.pi)
    assert (row.mean(), column.mean()) == pytest.approx((47.5, 63.5))
    assert np.hypot(row - 47.5, column - 63.5).max() == pytest.approx(radius, abs=0.5)
    np.testing.assert_array_equal(disc, disc[::-1, ::-1])


@pytest.mark.parametrize(
    ("kinds", "area"), [(["subject"], 0.1), (["subject"] * 2, 0.0), (["subject"] * 2, 9.0)]
)
def test_kinds_and_areas_that_do_not_fit_are_refused(kinds, area: float) -> None:
    with pytest.raises(ValueError, match="expected a kind for each"):
        trivial_masks(np.stack([BOX, BOX]), kinds, area)


LEFT, MIDDLE, RIGHT = _box(5, 0, 35, 12), _box(5, 14, 35, 26), _box(5, 28, 35, 40)


def _of(*masks: BoolArray) -> BoolArray:
    return np.stack(masks)


def test_masks_in_their_places_are_not_swapped() -> None:
    truth = _of(LEFT, RIGHT)
    assert not swapped(truth, truth)


def test_two_exchanged_masks_are_swapped() -> None:
    assert swapped(_of(RIGHT, LEFT), _of(LEFT, RIGHT))


def test_two_exchanged_masks_of_three_are_swapped() -> None:
    truth = _of(LEFT, MIDDLE, RIGHT)
    assert swapped(truth[[0, 2, 1]], truth)


def test_three_masks_exchanged_in_a_ring_are_swapped() -> None:
    truth = _of(LEFT, MIDDLE, RIGHT)
    assert swapped(truth[[1, 2, 0]], truth)


def test_rough_masks_on_each_other_s_places_are_swapped() -> None:
    predicted = _of(_box(0, 22, 40, 40), _box(0, 0, 30, 20))
    assert swapped(predicted, _of(LEFT, RIGHT))


def test_two_masks_on_one_subject_are_not_swapped() -> None:
    assert not swapped(_of(RIGHT, RIGHT), _of(LEFT, RIGHT))


def test_a_stray_mask_is_not_swapped_though_exchanging_them_would_score_higher_in_sum() -> None:
    """IoU .3 and .625 for the first, 0 and .1 for the second: the second stays on its own truth."""
    first = _box(0, 0, 10, 10)
    second = _box(0, 10, 10, 20)
    truth = _of(first, second)
    stray = _box(0, 4, 10, 20)
    kept = _box(0, 19, 10, 20)
    overlap = [[iou(mask, other) for other in truth] for mask in (stray, kept)]
    assert overlap[0][1] + overlap[1][0] > overlap[0][0] + overlap[1][1]
    assert not swapped(_of(stray, kept), truth)


def test_two_masks_over_both_subjects_are_not_swapped() -> None:
    both = LEFT | RIGHT
    assert not swapped(_of(both, both), _of(LEFT, RIGHT))


def test_empty_masks_are_not_swapped() -> None:
    assert not swapped(_of(EMPTY, EMPTY), _of(LEFT, RIGHT))


def test_one_subject_alone_is_not_swapped() -> None:
    assert not swapped(_of(RIGHT), _of(LEFT))


@given(
    predicted=hnp.arrays(np.bool_, (4, 3, 3)),
    truth=hnp.arrays(np.bool_, (4, 3, 3)),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_swapped_is_a_ring_in_the_graph_of_who_overlaps_whom_more_than_its_own(
    predicted: BoolArray, truth: BoolArray, seed: int
) -> None:
    better = np.array(
        [
            [iou(mask, other) > iou(mask, own) for other in truth]
            for mask, own in zip(predicted, truth, strict=True)
        ]
    )
    reachable = np.linalg.matrix_power(np.eye(4) + better, 4) > 0
    ring = bool((better & reachable.T).any())
    assert swapped(predicted, truth) == ring
    order = np.random.default_rng(seed).permutation(4)
    assert swapped(predicted[order], truth[order]) == ring


def test_swapped_refuses_different_numbers_of_subjects() -> None:
    with pytest.raises(ValueError, match="expected one"):
        swapped(_of(BOX, BOX), _of(BOX, BOX, BOX))
