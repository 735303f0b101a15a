import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from scipy.special import expit, softmax

from conceptloom.errors import ConfigError
from conceptloom.masks import CRFConfig, DenseCRF, binary_unary, iou, joint_unary, soft_energies

GOLDEN = Path(__file__).parents[2] / "golden" / "crf_reference.safetensors"
GOLDEN_CASES = (
    "photo_two_labels",
    "photo_two_labels_weak_colour",
    "photo_four_labels",
    "drawing_two_labels",
    "drawing_four_labels_soft",
)
WITHOUT_PAIRWISE = CRFConfig(gaussian_weight=0.0, bilateral_weight=0.0)


def _disc(height: int, width: int) -> NDArray[np.bool_]:
    row, column = np.mgrid[:height, :width]
    return (row - 0.45 * height) ** 2 + (column - 0.55 * width) ** 2 < (0.28 * min(height, width)) ** 2


def _drawing(labels: NDArray[np.bool_], seed: int = 0) -> NDArray[np.uint8]:
    pixels = np.where(labels[..., None], [180, 90, 60], [70, 120, 160])
    noise = np.random.default_rng(seed).normal(0, 4, (*labels.shape, 3))
    return (pixels + noise).clip(0, 255).astype(np.uint8)


def _spoiled(mask: NDArray[np.bool_], seed: int = 1) -> NDArray[np.bool_]:
    """The mask shifted by two pixels, with a tenth of all pixels flipped."""
    return np.roll(mask, 2, axis=1) ^ (np.random.default_rng(seed).random(mask.shape) < 0.1)


def _own_pixels(image: NDArray[np.uint8], **numbers: float) -> CRFConfig:
    """A configuration whose standard deviations are pixels of `image` itself."""
    return CRFConfig(reference_side_px=min(image.shape[:2]), **numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_probabilities_and_labels_agree_with_pydensecrf2(case: str) -> None:
    with safe_open(GOLDEN, "numpy") as file:
        image, steps, stored = (
            file.get_tensor(f"{case}/{key}") for key in ("image", "unary", "probabilities")
        )
        numbers = json.loads(file.metadata()[case])
    reference = stored / 65535.0
    reference = np.concatenate([reference, 1.0 - reference.sum(axis=0, keepdims=True)])
    ours = DenseCRF(image, _own_pixels(image, **numbers)).infer(steps.astype(np.float32) / 64)
    assert np.abs(ours - reference).max() < 1e-3
    second, first = np.sort(reference, axis=0)[-2:]
    certain = first - second > 1e-3
    assert certain.mean() > 0.99
    np.testing.assert_array_equal(ours.argmax(axis=0)[certain], reference.argmax(axis=0)[certain])


@given(
    labels=st.integers(2, 5), height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 10_000)
)
@settings(max_examples=40, deadline=None)
def test_zero_pairwise_weights_return_the_softmax_and_argmax_of_the_unary(
    labels: int, height: int, width: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    unary = generator.permuted(np.arange(labels * height * width) % 97 / 8.0).reshape(labels, height, width)
    probabilities = DenseCRF(image, WITHOUT_PAIRWISE).infer(unary.astype(np.float32))
    np.testing.assert_allclose(probabilities, softmax(-unary, axis=0), atol=1e-6)
    best = np.take_along_axis(unary, probabilities.argmax(axis=0)[None], axis=0)[0]
    np.testing.assert_array_equal(best, unary.min(axis=0))


@given(
    labels=st.integers(2, 4), height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 10_000)
)
@settings(max_examples=30, deadline=None)
def test_probabilities_sum_to_one_for_any_picture_shape(
    labels: int, height: int, width: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    unary = generator.uniform(0, 50, (labels, height, width)).astype(np.float32)
    probabilities = DenseCRF(image).infer(unary)
    assert probabilities.shape == unary.shape
    assert probabilities.dtype == np.float32
    assert probabilities.min() >= 0.0
    np.testing.assert_allclose(probabilities.sum(axis=0), 1.0, atol=1e-5)


def test_spoiled_mask_is_repaired_along_the_picture_s_edges() -> None:
    truth = _disc(60, 90)
    image = _drawing(truth)
    spoiled = _spoiled(truth)
    refined = DenseCRF(image, _own_pixels(image)).infer_binary(binary_unary(spoiled[None]))[0].argmax(axis=0)
    assert iou(spoiled, truth) < 0.75
    assert iou(refined == 1, truth) > 0.99


def test_exact_dense_kernel_gives_the_same_labels_and_probabilities() -> None:
    """The tolerance follows from the kernels' distance.

    `reach` bounds what the lattice's error can add to a logit: the row sums of |lattice - exact|, weights included, for
    messages of size 1. With every exact logit beyond it no label can differ, and both probabilities are at least
    `expit(margin - reach)` sure.
    """
    truth = _disc(48, 48)
    image = _drawing(truth)
    crf = DenseCRF(image, _own_pixels(image))
    unary = binary_unary(_spoiled(truth)[None])[0]
    column, row = np.meshgrid(np.arange(48.0), np.arange(48.0))
    place, colour = np.stack([column, row]).reshape(2, -1), image.reshape(-1, 3).T.astype(np.float64)
    exact = _exact_kernel(place / 3.0, 7.0) + _exact_kernel(
        np.concatenate([place / 50.0, colour / 5.0]), 10.0
    )
    identity = np.eye(48 * 48, dtype=np.float32)
    lattice = sum(kernel.filter(identity) for kernel in crf._kernels)
    unary_logits = (unary[0] - unary[1]).reshape(-1).astype(np.float64)
    logits = unary_logits
    for _ in range(10):
        logits = unary_logits + exact @ np.tanh(logits / 2)

    margin, reach = np.abs(logits).min(), np.abs(lattice - exact).sum(axis=1).max()
    assert margin > reach
    ours = crf.infer(unary)[1].reshape(-1)
    np.testing.assert_array_equal(ours > 0.5, logits > 0)
    assert np.abs(ours - expit(logits)).max() < expit(reach - margin) < 0.1
    assert np.abs(ours - expit(logits)).mean() < 1e-4


def _exact_kernel(features: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """Symmetrically normalised Gaussian kernel (N, N) of features (d, N), times `weight`."""
    squares = (features**2).sum(axis=0)
    kernel = np.exp(-0.5 * (squares[:, None] + squares - 2.0 * features.T @ features))
    scale = 1.0 / np.sqrt(kernel.sum(axis=1))
    return weight * scale[:, None] * kernel * scale


@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 144)])
def test_scene_and_its_fourfold_enlargement_give_the_same_mask(height: int, width: int) -> None:
    truth = _disc(height, width)
    small_image, small_mask = _drawing(truth), _spoiled(truth)
    large_image, large_mask = (x.repeat(4, axis=0).repeat(4, axis=1) for x in (small_image, small_mask))
    small, large = (
        DenseCRF(image).infer_binary(binary_unary(mask[None]))[0].argmax(axis=0) == 1
        for image, mask in ((small_image, small_mask), (large_image, large_mask))
    )
    assert small.any()
    assert not small.all()
    assert iou(small.repeat(4, axis=0).repeat(4, axis=1), large) >= 0.97


def test_many_binary_crfs_in_one_pass_equal_one_at_a_time() -> None:
    truth = _disc(40, 56)
    image = _drawing(truth)
    crf = DenseCRF(image)
    unaries = binary_unary(np.stack([_spoiled(truth, 1), _spoiled(~truth, 2), _spoiled(truth, 3)]))
    together = crf.infer_binary(unaries)
    apart = np.stack([crf.infer(unary) for unary in unaries])
    np.testing.assert_allclose(together, apart, atol=1e-4)


def test_two_labels_by_the_general_update_equal_the_binary_one() -> None:
    """A third label of prohibitive energy leaves the other two alone."""
    truth = _disc(40, 56)
    crf = DenseCRF(_drawing(truth))
    unary = binary_unary(_spoiled(truth)[None])[0]
    three = crf.infer(np.concatenate([unary, np.full_like(unary[:1], 200.0)]))
    np.testing.assert_allclose(three[:2], crf.infer(unary), atol=1e-4)
    assert three[2].max() < 1e-6


def test_permuting_labels_permutes_probabilities() -> None:
    truth = _disc(40, 56)
    crf = DenseCRF(_drawing(truth))
    unary = np.random.default_rng(0).uniform(0, 2, (4, 40, 56)).astype(np.float32)
    order = [3, 0, 2, 1]
    np.testing.assert_allclose(crf.infer(unary[order]), crf.infer(unary)[order], atol=1e-3)


def test_inference_leaves_its_input_alone_and_repeats_bit_for_bit() -> None:
    truth = _disc(30, 30)
    crf = DenseCRF(_drawing(truth))
    unaries = binary_unary(_spoiled(truth)[None])
    kept = unaries.copy()
    first, second = crf.infer_binary(unaries), crf.infer_binary(unaries)
    np.testing.assert_array_equal(unaries, kept)
    np.testing.assert_array_equal(first, second)


def test_no_iterations_return_the_softmax_of_the_unary() -> None:
    truth = _disc(20, 30)
    unary = joint_unary(np.stack([truth, ~truth]))
    probabilities = DenseCRF(_drawing(truth), CRFConfig(iterations=0)).infer(unary)
    np.testing.assert_allclose(probabilities, softmax(-unary, axis=0), atol=1e-6)


def test_scale_multiplies_both_spatial_standard_deviations() -> None:
    truth = _disc(32, 48)
    image = _drawing(truth)
    unaries = binary_unary(_spoiled(truth)[None])
    scaled = DenseCRF(image, CRFConfig(scale=2.0)).infer_binary(unaries)
    doubled = DenseCRF(image, CRFConfig(gaussian_sxy=6.0, bilateral_sxy=100.0)).infer_binary(unaries)
    np.testing.assert_allclose(scaled, doubled, atol=1e-5)


def test_spatial_standard_deviations_follow_the_shorter_side() -> None:
    truth = _disc(32, 48)
    image = _drawing(truth)
    unaries = binary_unary(_spoiled(truth)[None])
    by_hand = CRFConfig(gaussian_sxy=3.0 * 32 / 512, bilateral_sxy=50.0 * 32 / 512, reference_side_px=32)
    for picture, energies in ((image, unaries), (image.transpose(1, 0, 2), unaries.transpose(0, 1, 3, 2))):
        np.testing.assert_allclose(
            DenseCRF(picture).infer_binary(energies),
            DenseCRF(picture, by_hand).infer_binary(energies),
            atol=1e-5,
        )


def test_binary_unary_has_cutler_s_probabilities_with_the_rest_first() -> None:
    unaries = binary_unary(np.array([[[True, False]]]))
    np.testing.assert_allclose(np.exp(-unaries[0, :, 0, 0]), [0.2689, 0.7311], atol=1e-4)
    np.testing.assert_allclose(np.exp(-unaries[0, :, 0, 1]), [0.7311, 0.2689], atol=1e-4)


@given(concepts=st.integers(1, 6), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_joint_one_hot_softmax_keeps_an_energy_gap_of_one(concepts: int, seed: int) -> None:
    owner = np.random.default_rng(seed).integers(0, concepts + 1, (5, 7))
    unary = joint_unary(owner == np.arange(1, concepts + 1)[:, None, None])
    chosen = np.take_along_axis(unary, owner[None], axis=0)
    others = unary[np.arange(concepts + 1)[:, None, None] != owner].reshape(concepts, -1)
    np.testing.assert_allclose(others.min() - chosen.max(), 1.0, atol=1e-5)
    np.testing.assert_allclose(np.exp(-unary).sum(axis=0), 1.0, atol=1e-5)


def test_joint_unary_ties_where_masks_overlap_and_gives_holes_to_the_rest() -> None:
    unary = joint_unary(np.array([[[True, True, False]], [[True, False, False]]]))
    overlap, single, hole = unary[:, 0].T
    assert overlap[1] == overlap[2] < overlap[0]
    assert single.argmin() == 1
    assert hole.argmin() == 0


def test_soft_energies_are_minus_the_log_of_the_softmax_at_their_temperature() -> None:
    evidence = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    expected = -np.log(softmax(evidence / 0.25, axis=0))
    np.testing.assert_allclose(soft_energies(evidence, 0.25, label_axis=0), expected, atol=1e-5)


def test_soft_energies_stay_finite_at_a_temperature_near_zero() -> None:
    evidence = np.array([[[0.0]], [[1.0]]], dtype=np.float32)
    assert np.isfinite(soft_energies(evidence, 1e-6, label_axis=0)).all()


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature is 0"):
        soft_energies(np.zeros((2, 1, 1), dtype=np.float32), 0, label_axis=0)


def test_wrong_shapes_are_refused_naming_both() -> None:
    crf = DenseCRF(_drawing(_disc(8, 10)))
    with pytest.raises(ValueError, match=r"\(2, 10, 8\).*\(L, 8, 10\)"):
        crf.infer(np.zeros((2, 10, 8), dtype=np.float32))
    with pytest.raises(ValueError, match=r"\(1, 8, 10\).*\(L, 8, 10\)"):
        crf.infer(np.zeros((1, 8, 10), dtype=np.float32))
    with pytest.raises(ValueError, match=r"\(3, 3, 8, 10\).*\(K, 2, 8, 10\)"):
        crf.infer_binary(np.zeros((3, 3, 8, 10), dtype=np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("labels", [2, 3])
def test_energies_that_are_not_finite_are_refused(labels: int, value: float) -> None:
    unary = np.zeros((labels, 8, 10), dtype=np.float32)
    unary[1, 3, 4] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        DenseCRF(_drawing(_disc(8, 10))).infer(unary)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 10, 3), dtype=np.float32),
        np.zeros((8, 10), dtype=np.uint8),
        np.zeros((8, 10, 4), dtype=np.uint8),
        np.zeros((0, 10, 3), dtype=np.uint8),
    ],
)
def test_images_that_are_not_8_bit_rgb_are_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"uint8 of shape \(H, W, 3\)"):
        DenseCRF(image)


@pytest.mark.parametrize(
    ("name", "value"),
    [("gaussian_sxy", 0.0), ("bilateral_weight", -1.0), ("scale", float("nan")), ("iterations", -1)],
)
def test_meaningless_settings_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        CRFConfig(**{name: value})  # type: ignore[arg-type]
