from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from conceptloom.masks import (
    CRFConfig,
    DenseCRF,
    Held,
    MaskRules,
    all_keep,
    area_to_grid,
    evidence_of,
    iou,
    update_masks,
)

HEIGHT, WIDTH = 24, 36


class PlantedCRF(DenseCRF):
    """A CRF of a grey picture whose refined masks (K, H, W) are given beforehand."""

    def __init__(self, refined: NDArray[np.bool_]) -> None:
        weightless = CRFConfig(gaussian_weight=0.0, bilateral_weight=0.0)
        super().__init__(np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8), weightless)
        self._refined = refined

    def infer_binary(self, unaries: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([~self._refined, self._refined], axis=1).astype(np.float32)


def _columns(first: int, last: int) -> NDArray[np.bool_]:
    mask = np.zeros((1, HEIGHT, WIDTH), dtype=np.bool_)
    mask[:, :, first:last] = True
    return mask


THRESHOLDED, ELSEWHERE, PREVIOUS = _columns(0, 12), _columns(8, 24), _columns(20, 30)
EMPTY, FULL = _columns(0, 0), _columns(0, WIDTH)


def _map_of(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Maps that the threshold turns into `masks`."""
    return masks.astype(np.float32)


def test_a_trusted_refined_mask_replaces_the_previous_one() -> None:
    refined = _columns(0, 15)
    update = update_masks(
        _map_of(THRESHOLDED), PlantedCRF(refined), MaskRules(0.4), PREVIOUS, others_present=True
    )
    np.testing.assert_array_equal(update.masks, refined)
    assert not update.rescued.any()
    np.testing.assert_allclose(update.overlap, [12 / 15])


def test_refined_mask_with_an_iou_under_half_leaves_the_previous_mask() -> None:
    update = update_masks(
        _map_of(THRESHOLDED), PlantedCRF(ELSEWHERE), MaskRules(0.4), PREVIOUS, others_present=True
    )
    np.testing.assert_array_equal(update.masks, PREVIOUS)
    assert update.rescued.all()
    np.testing.assert_allclose(update.overlap, [4 / 24])


def test_refined_mask_with_an_iou_of_exactly_half_is_trusted() -> None:
    refined = _columns(0, 24)
    update = update_masks(
        _map_of(THRESHOLDED), PlantedCRF(refined), MaskRules(0.4), PREVIOUS, others_present=True
    )
    np.testing.assert_array_equal(update.masks, refined)
    assert not update.rescued.any()


def test_empty_refined_mask_leaves_the_previous_mask() -> None:
    update = update_masks(
        _map_of(THRESHOLDED), PlantedCRF(EMPTY), MaskRules(0.4), PREVIOUS, others_present=True
    )
    np.testing.assert_array_equal(update.masks, PREVIOUS)
    assert update.rescued.all()


def test_empty_refined_mask_of_an_empty_input_is_rescued_though_their_iou_is_one() -> None:
    update = update_masks(_map_of(EMPTY), PlantedCRF(EMPTY), MaskRules(0.4), PREVIOUS, others_present=True)
    np.testing.assert_array_equal(update.masks, PREVIOUS)
    assert update.rescued.all()
    np.testing.assert_array_equal(update.overlap, 1.0)


def test_full_refined_mask_leaves_the_previous_mask_beside_other_concepts() -> None:
    update = update_masks(
        _map_of(_columns(0, 30)), PlantedCRF(FULL), MaskRules(0.4), PREVIOUS, others_present=True
    )
    np.testing.assert_array_equal(update.masks, PREVIOUS)
    assert update.rescued.all()


def test_full_refined_mask_of_the_only_concept_is_trusted() -> None:
    update = update_masks(
        _map_of(_columns(0, 30)), PlantedCRF(FULL), MaskRules(0.4), PREVIOUS, others_present=False
    )
    assert update.masks.all()
    assert not update.rescued.any()


def test_rescue_at_stage_2_takes_the_unrefined_mask() -> None:
    update = update_masks(_map_of(THRESHOLDED), PlantedCRF(EMPTY), MaskRules(0.4), None, others_present=True)
    np.testing.assert_array_equal(update.masks, THRESHOLDED)
    assert update.rescued.all()


def test_rescue_at_stage_2_takes_5_percent_of_the_pixels_where_the_unrefined_mask_is_empty_too() -> None:
    update = update_masks(_map_of(EMPTY), PlantedCRF(EMPTY), MaskRules(0.4), None, others_present=True)
    assert update.masks.sum() == np.ceil(0.05 * HEIGHT * WIDTH)
    assert update.rescued.all()


def test_rescue_at_stage_2_takes_the_highest_pixels_of_the_map() -> None:
    """A threshold of 1 lets nothing through, so that the map itself has to decide."""
    maps = np.arange(HEIGHT * WIDTH, dtype=np.float32).reshape(1, HEIGHT, WIDTH)
    update = update_masks(maps, PlantedCRF(EMPTY), MaskRules(1.0), None, others_present=True)
    np.testing.assert_array_equal(np.flatnonzero(update.masks), np.arange(HEIGHT * WIDTH)[-44:])


def test_concepts_are_rescued_one_by_one() -> None:
    thresholded = np.concatenate([THRESHOLDED, THRESHOLDED])
    refined = np.concatenate([ELSEWHERE, THRESHOLDED])
    previous = np.concatenate([PREVIOUS, PREVIOUS])
    update = update_masks(
        _map_of(thresholded), PlantedCRF(refined), MaskRules(0.4), previous, others_present=True
    )
    np.testing.assert_array_equal(update.rescued, [True, False])
    np.testing.assert_array_equal(update.masks, np.concatenate([PREVIOUS, THRESHOLDED]))


def test_previous_masks_are_not_changed_or_shared() -> None:
    previous = PREVIOUS.copy()
    update = update_masks(
        _map_of(THRESHOLDED), PlantedCRF(EMPTY), MaskRules(0.4), previous, others_present=True
    )
    update.masks[:] = True
    np.testing.assert_array_equal(previous, PREVIOUS)


def test_a_planted_map_comes_back_as_the_planted_mask() -> None:
    """Two touching subjects on a ground of their own colours; maps of 16 x 16 cells with a tenth of noise."""
    height, width = 96, 144
    row, column = np.mgrid[:height, :width]
    left = (row - 50) ** 2 + (column - 45) ** 2 < 26**2
    right = (abs(row - 48) < 30) & (abs(column - 95) < 22)
    planted = np.stack([left, right, ~(left | right)])
    owner = planted.argmax(axis=0)
    generator = np.random.default_rng(0)
    colours = np.array([[190, 60, 60], [60, 120, 190], [210, 200, 120]])
    pixels = (colours[owner] + generator.normal(0, 4, (height, width, 3))).clip(0, 255).astype(np.uint8)
    maps = area_to_grid(planted, (16, 16)) + 0.1 * generator.random((3, 16, 16), dtype=np.float32)
    update = update_masks(0.02 * maps, DenseCRF(pixels), MaskRules(0.4), None, others_present=True)
    assert not update.rescued.any()
    for mask, truth in zip(update.masks, planted, strict=True):
        assert iou(mask, truth) > 0.97


def test_a_small_object_that_the_crf_erases_keeps_its_unrefined_mask() -> None:
    pixels = np.full((64, 64, 3), 128, dtype=np.uint8)
    planted = np.zeros((1, 64, 64), dtype=np.bool_)
    planted[0, 30:34, 30:34] = True
    update = update_masks(
        planted.astype(np.float32), DenseCRF(pixels), MaskRules(0.4), None, others_present=True
    )
    assert update.rescued.all()
    np.testing.assert_array_equal(update.masks, planted)


def test_no_concepts_give_no_masks() -> None:
    crf = DenseCRF(np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8))
    update = update_masks(
        np.zeros((0, 4, 4), dtype=np.float32), crf, MaskRules(0.4), None, others_present=True
    )
    assert update.masks.shape == (0, HEIGHT, WIDTH)
    assert update.rescued.shape == update.overlap.shape == (0,)


def test_previous_masks_of_another_shape_are_refused_naming_both() -> None:
    with pytest.raises(ValueError, match=r"\(1, 36, 24\).*\(1, 24, 36\)"):
        update_masks(
            _map_of(THRESHOLDED),
            PlantedCRF(EMPTY),
            MaskRules(0.4),
            PREVIOUS.transpose(0, 2, 1),
            others_present=True,
        )


def test_maps_without_a_concept_axis_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(24, 36\).*\(K, h, w\)"):
        update_masks(_map_of(THRESHOLDED)[0], PlantedCRF(EMPTY), MaskRules(0.4), None, others_present=True)


@given(a=hnp.arrays(np.bool_, (3, 5)), b=hnp.arrays(np.bool_, (3, 5)))
def test_iou_is_symmetric_and_one_only_for_equal_masks(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> None:
    assert iou(a, b) == iou(b, a)
    assert (iou(a, b) == 1.0) == np.array_equal(a, b)
    assert 0.0 <= iou(a, b) <= 1.0


def test_masks_are_kept_if_each_has_the_least_iou_with_the_one_before() -> None:
    old = np.zeros((2, 1, 4), dtype=np.bool_)
    old[0, 0, :2], old[1, 0, 2:] = True, True
    new = old.copy()
    new[1, 0, 3] = False  # IoU 1 and 1/2
    assert all_keep(new, old, 0.5)
    assert not all_keep(new, old, 0.51)


def test_iou_of_hand_made_masks_is_a_third() -> None:
    assert iou(np.array([True, True, False]), np.array([False, True, True])) == pytest.approx(1 / 3)


def test_iou_of_two_empty_masks_is_one() -> None:
    assert iou(np.zeros((2, 2), dtype=np.bool_), np.zeros((2, 2), dtype=np.bool_)) == 1.0


def test_iou_of_masks_of_different_shapes_is_refused_naming_both() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        iou(np.zeros((2, 3), dtype=np.bool_), np.zeros((3, 2), dtype=np.bool_))


JOINT = MaskRules(0.3, joint=True, temperature=0.4)
WITHOUT_PAIRWISE = CRFConfig(gaussian_weight=0.0, bilateral_weight=0.0)


def _plain_crf() -> DenseCRF:
    return DenseCRF(np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8), WITHOUT_PAIRWISE)


def _ramps() -> NDArray[np.float32]:
    """Two concepts: one falls from left to right, the other rises half as high."""
    ramp = np.broadcast_to(np.linspace(0, 1, WIDTH, dtype=np.float32), (HEIGHT, WIDTH))
    return np.stack([1 - ramp, ramp])


def test_joint_masks_are_disjoint_and_leave_the_rest_out() -> None:
    maps = np.maximum(_ramps() - 0.45, 0)
    update = update_masks(maps, _plain_crf(), JOINT, None, others_present=True)
    assert not (update.masks[0] & update.masks[1]).any()
    assert (~update.masks.any(axis=0)).any()


def test_without_pairs_a_soft_joint_crf_gives_each_pixel_to_its_strongest_evidence() -> None:
    maps = _ramps()
    evidence = evidence_of(maps, (HEIGHT, WIDTH), JOINT)
    expected = np.concatenate([np.full_like(evidence[:1], 0.3), evidence]).argmax(axis=0)
    update = update_masks(maps, _plain_crf(), JOINT, None, others_present=True)
    np.testing.assert_array_equal(update.masks, expected == np.array([1, 2])[:, None, None])


def test_without_pairs_joint_probabilities_are_the_softmax_of_evidence_over_temperature() -> None:
    maps = _ramps()
    evidence = evidence_of(maps, (HEIGHT, WIDTH), JOINT)
    scores = np.exp(np.concatenate([np.full_like(evidence[:1], 0.3), evidence]) / 0.4)
    update = update_masks(maps, _plain_crf(), JOINT, None, others_present=True)
    np.testing.assert_allclose(update.probabilities, (scores / scores.sum(axis=0))[1:], atol=1e-5)


def test_without_pairs_a_soft_binary_crf_thresholds_at_tau() -> None:
    rules = MaskRules(0.3, temperature=0.4)
    update = update_masks(_ramps(), _plain_crf(), rules, None, others_present=True)
    np.testing.assert_array_equal(update.masks, evidence_of(_ramps(), (HEIGHT, WIDTH), rules) > 0.3)


def test_a_concept_that_wins_nothing_in_the_joint_crf_keeps_its_previous_mask() -> None:
    maps = np.stack([np.ones((HEIGHT, WIDTH)), np.full((HEIGHT, WIDTH), 0.5)]).astype(np.float32)
    maps[1, 0, 0] = 1.0  # each map is divided by its own maximum
    rules = MaskRules(0.3, joint=True, competition=True, temperature=0.4)
    previous = np.concatenate([THRESHOLDED, PREVIOUS])
    update = update_masks(maps, _plain_crf(), rules, previous, others_present=True)
    np.testing.assert_array_equal(update.masks[1], PREVIOUS[0])
    assert update.rescued[1]
    np.testing.assert_array_equal(update.probabilities[1], PREVIOUS[0])


def test_evidence_stretched_by_range_has_no_floor() -> None:
    maps = _ramps() + 0.5
    evidence = evidence_of(maps, (HEIGHT, WIDTH), MaskRules(0.3, normalise="range"))
    np.testing.assert_allclose(evidence, _ramps(), atol=1e-6)


REST = MaskRules(0.3, joint=True, temperature=0.4, background_is_rest=True)


def test_a_background_gets_what_no_other_concept_wins() -> None:
    maps = np.concatenate([_ramps()[:1], np.full((1, HEIGHT, WIDTH), 9.0, dtype=np.float32)])
    update = update_masks(maps, _plain_crf(), REST, None, True, backgrounds=[1])
    np.testing.assert_array_equal(update.masks[0], evidence_of(maps, (HEIGHT, WIDTH), REST)[0] > 0.3)
    np.testing.assert_array_equal(update.masks[1], ~update.masks[0])
    np.testing.assert_allclose(update.probabilities.sum(axis=0), 1.0, atol=1e-6)


def test_of_two_backgrounds_each_gets_the_rest_where_it_has_more_evidence() -> None:
    subject = np.zeros((1, HEIGHT, WIDTH), dtype=np.float32)
    subject[0, :6, :6] = 1.0
    update = update_masks(
        np.concatenate([_ramps(), subject]), _plain_crf(), REST, None, True, backgrounds=[0, 1]
    )
    expected = np.zeros((3, HEIGHT, WIDTH), dtype=np.bool_)
    expected[2] = update.masks[2]
    expected[0, :, : WIDTH // 2], expected[1, :, WIDTH // 2 :] = True, True
    expected[:2] &= ~update.masks[2]
    assert update.masks[2].any()
    np.testing.assert_array_equal(update.masks, expected)


def test_a_background_alone_in_its_picture_is_the_whole_picture() -> None:
    update = update_masks(_ramps()[:1], _plain_crf(), REST, None, False, backgrounds=[0])
    assert update.masks.all()
    assert not update.rescued.any()


TIDIED = replace(REST, normalise="spread", temperature=2.0, piece_peak=0.5, hole_share=0.5)
RULES = {
    "binary": MaskRules(0.3),
    "soft": MaskRules(0.3, temperature=0.4),
    "joint": MaskRules(0.3, joint=True, temperature=0.4),
    "joint, hard": MaskRules(0.3, joint=True),
    "background is the rest": REST,
    "spread": MaskRules(0.3, normalise="spread", joint=True, temperature=2.0, background_is_rest=True),
    "tidied": TIDIED,
}


def _held(is_it: dict[int, NDArray[np.bool_]], is_not: dict[int, NDArray[np.bool_]], count: int = 3) -> Held:
    nothing = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    return Held(
        np.stack([is_it.get(k, nothing) for k in range(count)]),
        np.stack([is_not.get(k, nothing) for k in range(count)]),
    )


def _three_maps() -> NDArray[np.float32]:
    return np.random.default_rng(5).random((3, 8, 12), dtype=np.float32)


def _picture_crf() -> DenseCRF:
    pixels = np.random.default_rng(6).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return DenseCRF(pixels, CRFConfig(iterations=3))


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("concept", [0, 2], ids=["subject", "background"])
def test_what_is_held_is_in_the_masks_under_all_rules(rules: MaskRules, concept: int) -> None:
    is_it, is_not = _columns(3, 6)[0], _columns(20, 33)[0]
    held = _held({concept: is_it}, {concept: is_not})
    update = update_masks(_three_maps(), _picture_crf(), rules, None, True, backgrounds=[2], held=held)
    assert update.masks[concept][is_it].all()
    assert not update.masks[concept][is_not].any()
    assert (update.probabilities[concept][is_it] == 1).all()
    assert (update.probabilities[concept][is_not] == 0).all()


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_a_whole_mask_that_is_held_comes_back_as_it_was_given(rules: MaskRules) -> None:
    mask = _columns(5, 17)[0]
    held = _held({1: mask}, {1: ~mask})
    update = update_masks(_three_maps(), _picture_crf(), rules, None, True, backgrounds=[2], held=held)
    np.testing.assert_array_equal(update.masks[1], mask)
    assert not update.rescued[1]


@pytest.mark.parametrize("rules", [REST, TIDIED], ids=["plain", "tidied"])
def test_in_one_crf_no_other_concept_takes_what_is_held(rules: MaskRules) -> None:
    mask = _columns(5, 9)[0] | _columns(20, 23)[0]
    held = _held({1: mask}, {1: ~mask})
    update = update_masks(_three_maps(), _picture_crf(), rules, None, True, backgrounds=[2], held=held)
    np.testing.assert_array_equal(update.masks.sum(axis=0), 1)


def _stroke(column: int) -> NDArray[np.bool_]:
    stroke = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    stroke[HEIGHT // 2, column] = True
    return stroke


def test_a_hardly_evident_piece_stays_whole_if_a_stroke_is_in_it() -> None:
    both = _columns(2, 8) | _columns(20, 23)
    rules = MaskRules(0.4, piece_peak=0.5)
    held = _held({0: _stroke(21)}, {}, count=1)
    update = update_masks(_two_pieces((1.0, 0.1)), PlantedCRF(both), rules, None, True, held=held)
    np.testing.assert_array_equal(update.masks, both)


def test_a_hole_with_a_stroke_that_says_it_is_not_the_subject_stays_the_background_s() -> None:
    ring = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    ring[2:12, 2:14] = True
    ring[5:8, 5:9] = False
    maps = np.stack([ring, ~ring]).astype(np.float32)
    not_it = np.zeros_like(ring)
    not_it[6, 6] = True
    for held, filled in ((_held({}, {}, count=2), True), (_held({}, {0: not_it}, count=2), False)):
        update = update_masks(maps, _plain_crf(), TIDIED, None, True, backgrounds=[1], held=held)
        assert update.masks[0, 5:8, 5:9].all() == filled
        np.testing.assert_array_equal(update.masks[1], ~update.masks[0])


def test_with_one_crf_what_stands_in_takes_nothing_from_other_subjects() -> None:
    maps = np.zeros((3, HEIGHT, WIDTH), dtype=np.float32)
    maps[0, :, :15], maps[1, :, 5:10], maps[2] = 1.0, 0.8, 0.5
    previous = np.concatenate([_columns(0, 15), _columns(10, 20), _columns(20, WIDTH)])
    update = update_masks(maps, _plain_crf(), REST, previous, True, backgrounds=[2])
    assert update.rescued.tolist() == [False, True, False]
    np.testing.assert_array_equal(update.masks[1], _columns(15, 20)[0])
    np.testing.assert_array_equal(update.masks.sum(axis=0), 1)


def test_a_background_that_a_stand_in_would_leave_nothing_of_is_rescued_too() -> None:
    maps = np.zeros((3, HEIGHT, WIDTH), dtype=np.float32)
    maps[0, :, :20], maps[1, :, 5:10], maps[2] = 1.0, 0.8, 0.5
    previous = np.concatenate([_columns(0, 10), _columns(15, WIDTH), _columns(10, 15)])
    update = update_masks(maps, _plain_crf(), REST, previous, True, backgrounds=[2])
    assert update.rescued.tolist() == [False, True, True]
    assert update.masks[2].mean() == pytest.approx(0.05, abs=0.01)
    np.testing.assert_array_equal(update.probabilities[2], update.masks[2])


def test_of_a_picture_that_others_have_whole_a_stand_in_gets_its_most_evident_pixels() -> None:
    maps = np.stack([np.ones((HEIGHT, WIDTH)), np.zeros((HEIGHT, WIDTH))]).astype(np.float32)
    maps[1, 3, 4] = 0.2
    held = _held({0: np.ones((HEIGHT, WIDTH), dtype=np.bool_)}, {}, count=2)
    update = update_masks(maps, _plain_crf(), REST, None, True, held=held)
    assert update.rescued.tolist() == [False, True]
    assert update.masks[1, 3, 4]
    assert update.masks[1].mean() == pytest.approx(0.05, abs=0.01)


def test_a_background_that_is_said_not_to_be_somewhere_leaves_it_to_the_others() -> None:
    hole = _columns(10, 20)[0]
    update = update_masks(
        _three_maps(), _plain_crf(), REST, None, True, backgrounds=[2], held=_held({}, {2: hole})
    )
    assert update.masks[:2, hole].any(axis=0).all()


def test_a_concept_is_found_in_its_box_though_its_map_is_highest_elsewhere() -> None:
    maps = np.zeros((1, HEIGHT, WIDTH), dtype=np.float32)
    maps[0, 5:10, 5:10], maps[0, 5:10, 25:30] = 0.1, 1.0
    held = _held({}, {0: ~_columns(0, 18)[0]}, count=1)
    update = update_masks(maps, _plain_crf(), MaskRules(0.3), None, True, held=held)
    np.testing.assert_array_equal(update.masks[0], maps[0] == np.float32(0.1))


def test_a_refused_mask_is_replaced_within_its_box() -> None:
    box = _columns(0, 18)[0]
    held = _held({}, {0: ~box}, count=1)
    flat = np.zeros((1, HEIGHT, WIDTH), dtype=np.float32)
    update = update_masks(flat, PlantedCRF(EMPTY), MaskRules(0.4), _columns(25, 30), True, held=held)
    assert update.rescued.all()
    assert update.masks.any()
    assert not update.masks[0, ~box].any()


def _two_pieces(peaks: tuple[float, float]) -> NDArray[np.float32]:
    """A map (1, H, W) of two columns apart, each as evident as told."""
    return peaks[0] * _map_of(_columns(2, 8)) + peaks[1] * _map_of(_columns(20, 23))


@pytest.mark.parametrize(("second", "stays"), [(0.45, False), (0.55, True)])
def test_a_piece_stays_if_it_is_at_least_half_as_evident_as_the_mask(second: float, stays: bool) -> None:
    both = _columns(2, 8) | _columns(20, 23)
    rules = MaskRules(0.4, piece_peak=0.5)
    update = update_masks(_two_pieces((1.0, second)), PlantedCRF(both), rules, None, others_present=True)
    np.testing.assert_array_equal(update.masks, both if stays else _columns(2, 8))
    assert (update.probabilities[0, 0, 21] == 1) == stays


def test_pieces_that_meet_at_a_corner_are_one() -> None:
    mask = np.zeros((1, HEIGHT, WIDTH), dtype=np.bool_)
    mask[0, :6, :6] = mask[0, 6:12, 6:12] = True
    evidence = np.where(mask, np.float32(0.41), np.float32(0))
    evidence[0, 2, 2] = 1
    rules = MaskRules(0.4, piece_peak=0.9)
    np.testing.assert_array_equal(
        update_masks(evidence, PlantedCRF(mask), rules, None, others_present=True).masks, mask
    )


def test_all_pieces_of_backgrounds_and_patterns_stay() -> None:
    both = _columns(2, 8) | _columns(20, 23)
    rules = MaskRules(0.4, piece_peak=0.5)
    for kinds in ({"backgrounds": (0,)}, {"patterns": (0,)}):
        update = update_masks(_two_pieces((1.0, 0.45)), PlantedCRF(both), rules, None, True, **kinds)
        np.testing.assert_array_equal(update.masks, both)


def test_what_a_subject_gives_away_is_the_backgrounds() -> None:
    maps = np.concatenate([_two_pieces((1.0, 0.3)), np.full((1, HEIGHT, WIDTH), 0.2, dtype=np.float32)])
    rules = MaskRules(0.25, joint=True, temperature=0.01, background_is_rest=True, piece_peak=0.5)
    crf = DenseCRF(
        np.full((HEIGHT, WIDTH, 3), 128, np.uint8), CRFConfig(gaussian_weight=0, bilateral_weight=0)
    )
    update = update_masks(maps, crf, rules, None, True, backgrounds=(1,))
    np.testing.assert_array_equal(update.masks[0], _columns(2, 8)[0])
    np.testing.assert_array_equal(update.masks[1], ~_columns(2, 8)[0])


def test_a_mask_of_negative_evidence_keeps_its_most_evident_piece() -> None:
    high, low = _columns(0, 25), _columns(28, WIDTH)
    maps = np.where(high, np.float32(0.2), np.where(low, np.float32(0.1), np.float32(1)))
    rules = MaskRules(-5.0, "spread", piece_peak=0.5)
    update = update_masks(maps, PlantedCRF(high | low), rules, None, others_present=True)
    np.testing.assert_array_equal(update.masks, high)


def _with_holes() -> NDArray[np.bool_]:
    """A square of 400 with a hole of 1 and one of 9."""
    mask = np.zeros((1, HEIGHT, WIDTH), dtype=np.bool_)
    mask[0, 2:22, 4:24] = True
    mask[0, 5, 7] = mask[0, 12:15, 12:15] = False
    return mask


def test_only_holes_up_to_a_share_of_the_mask_are_filled() -> None:
    mask = _with_holes()
    rules = MaskRules(0.4, hole_share=0.01)
    update = update_masks(_map_of(mask), PlantedCRF(mask), rules, None, others_present=True)
    assert np.argwhere(update.masks[0] & ~mask[0]).tolist() == [[5, 7]]
    assert update.probabilities[0, 5, 7] == 1


def test_a_hole_that_another_concept_is_in_is_its_own() -> None:
    mask = _with_holes()
    other = np.zeros_like(mask)
    other[0, 5, 7] = True
    both = np.concatenate([mask, other])
    update = update_masks(_map_of(both), PlantedCRF(both), MaskRules(0.4, hole_share=1.0), None, True)
    assert not update.masks[0, 5, 7]
    assert update.masks[0, 13, 13]


def test_what_is_outside_is_no_hole() -> None:
    mask = _columns(4, 30)
    rules = MaskRules(0.4, hole_share=1.0)
    update = update_masks(_map_of(mask), PlantedCRF(mask), rules, None, others_present=True)
    np.testing.assert_array_equal(update.masks, mask)
