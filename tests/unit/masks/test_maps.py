import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptloom.masks import (
    coinciding,
    compete,
    normalise_by_maximum,
    normalise_by_range,
    normalise_by_spread,
    propagate,
    resize_maps,
    threshold,
)


@given(
    source=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    target=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_resize_equals_torch_s_bilinear_interpolation(
    source: tuple[int, int], target: tuple[int, int], seed: int
) -> None:
    maps = np.random.default_rng(seed).random((2, *source), dtype=np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None], target, mode="bilinear", align_corners=False
    )[0]
    resized = resize_maps(maps, target)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected.numpy(), atol=2e-6)


def test_one_number_resizes_to_a_square() -> None:
    maps = np.random.default_rng(0).random((2, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(resize_maps(maps, 20), resize_maps(maps, (20, 20)))


def test_each_map_is_divided_by_its_own_maximum_without_subtracting_its_minimum() -> None:
    maps = np.array([[[1.0, 2.0], [4.0, 3.0]], [[0.1, 0.1], [0.2, 0.1]]], dtype=np.float32)
    expected = [[[0.25, 0.5], [1.0, 0.75]], [[0.5, 0.5], [1.0, 0.5]]]
    np.testing.assert_allclose(normalise_by_maximum(maps), expected)


def test_an_all_zero_map_stays_zero() -> None:
    np.testing.assert_array_equal(normalise_by_maximum(np.zeros((1, 3, 3), dtype=np.float32)), 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1])
def test_maps_that_are_no_attention_are_refused(value: float) -> None:
    maps = np.ones((2, 3, 4), dtype=np.float32)
    maps[1, 0, 2] = value
    with pytest.raises(ValueError, match=r"\(2, 3, 4\).*expected 0 or more"):
        normalise_by_maximum(maps)


def test_threshold_keeps_what_is_above_it() -> None:
    maps = np.array([[[0.0, 0.4, 0.41, 1.0]]], dtype=np.float32)
    np.testing.assert_array_equal(threshold(maps, 0.4), [[[False, False, True, True]]])


def test_each_map_is_stretched_between_its_own_minimum_and_maximum() -> None:
    maps = np.array([[[1.0, 2.0], [5.0, 3.0]], [[0.7, 0.7], [0.7, 0.7]]], dtype=np.float32)
    expected = [[[0.0, 0.25], [1.0, 0.5]], [[0.0, 0.0], [0.0, 0.0]]]
    np.testing.assert_allclose(normalise_by_range(maps), expected)


def test_a_map_in_standard_deviations_has_mean_0_and_spread_1_whatever_its_scale() -> None:
    maps = np.random.default_rng(0).random((2, 6, 7), dtype=np.float32)
    maps[1] = 0.01 * maps[0] + 0.3
    standard = normalise_by_spread(maps)
    np.testing.assert_allclose(standard.mean(axis=(1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(standard.std(axis=(1, 2)), 1.0, atol=1e-4)
    np.testing.assert_allclose(standard[1], standard[0], atol=1e-3)


def test_a_constant_map_has_no_spread_and_becomes_zero() -> None:
    np.testing.assert_array_equal(normalise_by_spread(np.full((1, 2, 2), 0.5, dtype=np.float32)), 0.0)


def test_evidence_below_0_takes_no_part_in_the_competition() -> None:
    evidence = np.array([[[0.8]], [[-0.6]]], dtype=np.float32)
    np.testing.assert_allclose(compete(evidence).ravel(), [0.8, 0.0], rtol=1e-6)


def test_competition_leaves_a_lone_claim_and_halves_an_even_one() -> None:
    evidence = np.array([[[0.8, 0.6, 0.0]], [[0.0, 0.6, 0.0]]], dtype=np.float32)
    np.testing.assert_allclose(compete(evidence), [[[0.8, 0.3, 0.0]], [[0.0, 0.3, 0.0]]], rtol=1e-6)


def test_a_propagated_cell_takes_the_mean_of_the_cells_it_looks_at() -> None:
    maps = np.array([[[1.0, 0.0], [0.5, 0.0]]], dtype=np.float32)
    affinity = np.eye(4, dtype=np.float32)
    affinity[1] = [0.5, 0.0, 0.5, 0.0]
    np.testing.assert_allclose(propagate(maps, affinity, 1), [[[1.0, 0.75], [0.5, 0.0]]])


def test_two_steps_of_propagation_are_one_step_twice() -> None:
    generator = np.random.default_rng(0)
    maps = generator.random((2, 4, 4), dtype=np.float32)
    affinity = generator.random((16, 16), dtype=np.float32)
    affinity /= affinity.sum(axis=1, keepdims=True)
    twice = propagate(propagate(maps, affinity, 1), affinity, 1)
    np.testing.assert_allclose(propagate(maps, affinity, 2), twice, rtol=1e-5)


def test_maps_of_another_grid_are_propagated_on_the_grid_of_the_affinity() -> None:
    maps = np.random.default_rng(0).random((1, 8, 8), dtype=np.float32)
    propagated = propagate(maps, np.eye(16, dtype=np.float32), 1)
    np.testing.assert_allclose(propagated, resize_maps(maps, 4), rtol=1e-6)


@pytest.mark.parametrize("shape", [(16, 9), (15, 15)])
def test_an_affinity_of_no_square_grid_is_refused_naming_its_shape(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"\({shape[0]}, {shape[1]}\)"):
        propagate(np.ones((1, 4, 4), dtype=np.float32), np.ones(shape, dtype=np.float32), 1)


def test_maps_coincide_by_the_correlation_that_numpy_computes() -> None:
    maps = np.random.default_rng(3).random((4, 6, 5), dtype=np.float32)
    maps[3] = 0.2 * maps[1] + 0.05 * maps[0] + 0.4
    correlations = np.corrcoef(maps.reshape(4, -1))
    for above in (-0.5, 0.0, 0.5, 0.9):
        expected = [(k, i) for k in range(4) for i in range(k + 1, 4) if correlations[k, i] > above]
        assert coinciding(maps, above) == expected


def test_no_map_and_one_map_coincide_with_nothing() -> None:
    maps = np.random.default_rng(0).random((1, 4, 4), dtype=np.float32)
    assert coinciding(maps[:0], 0.5) == coinciding(maps, 0.5) == []


def test_a_constant_map_coincides_with_nothing() -> None:
    maps = np.ones((2, 4, 4), dtype=np.float32)
    maps[1, 0, 0] = 2.0
    assert coinciding(maps, 0.5) == []
