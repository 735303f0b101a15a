import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptloom.masks import normalise_by_maximum, resize_maps, threshold


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
