import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conceptloom.errors import ConfigError
from conceptloom.masks.lattice import build_lattice


def _points(d: int, count: int, spread: float = 3.0, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-spread, spread, (d, count)).astype(np.float32)


@given(d=st.integers(1, 6), count=st.integers(1, 200), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_barycentric_weights_are_a_convex_combination(d: int, count: int, seed: int) -> None:
    lattice = build_lattice(_points(d, count, seed=seed))
    weights = lattice.interpolation * np.sqrt(1.0 + 2.0**-d)
    assert lattice.interpolation.shape[0] == count
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-5)
    assert weights.min() >= -1e-5


@given(d=st.integers(1, 5), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_weights_change_no_faster_than_the_point_moves_in_lattice_cells(d: int, seed: int) -> None:
    step = 1e-3
    points = _points(d, 50, seed=seed)
    both = np.concatenate([points, points + np.float32(step / np.sqrt(d))], axis=1)
    weights = build_lattice(both).interpolation.toarray()
    # A weight is the difference of two coordinates of a point moved by step * sqrt(2/3) cells.
    assert np.abs(weights[:50] - weights[50:]).max() <= np.sqrt(2.0) * np.sqrt(2.0 / 3.0) * step + 1e-5


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_impulse_response_has_the_variance_of_a_unit_gaussian(d: int) -> None:
    generator = np.random.default_rng(d)
    cloud = generator.uniform(-3.5, 3.5, (d, 60_000)).astype(np.float32)
    cloud[:, 0] = 0.0
    impulse = np.zeros((cloud.shape[1], 1), dtype=np.float32)
    impulse[0] = 1.0
    response = build_lattice(cloud).filter(impulse)[:, 0]
    variance = (response * (cloud**2).sum(axis=0)).sum() / response.sum() / d
    assert variance == pytest.approx(1.0, abs=0.2)


def test_filter_is_within_a_fifth_of_the_exact_gaussian_filter_in_the_plane() -> None:
    place = np.indices((40, 40), dtype=np.float32).reshape(2, -1) / np.float32(3.0)
    squared = ((place[:, :, None] - place[:, None]) ** 2).sum(axis=0)
    exact = np.exp(-0.5 * squared)
    exact /= exact.sum(axis=1, keepdims=True)
    ours = build_lattice(place).filter(np.eye(place.shape[1], dtype=np.float32))
    ours /= ours.sum(axis=1, keepdims=True)
    assert np.abs(ours - exact).sum(axis=1).max() < 0.2


def test_channels_are_filtered_independently() -> None:
    lattice = build_lattice(_points(3, 400))
    values = np.random.default_rng(1).normal(size=(400, 5)).astype(np.float32)
    together = lattice.filter(values)
    apart = np.concatenate([lattice.filter(values[:, c : c + 1]) for c in range(5)], axis=1)
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-6)


def test_points_far_apart_do_not_mix() -> None:
    points = np.array([[0.0, 0.0, 100.0], [0.0, 0.0, -50.0]], dtype=np.float32)
    response = build_lattice(points).filter(np.array([[1.0], [2.0], [4.0]], dtype=np.float32))[:, 0]
    assert response[0] == pytest.approx(response[1])
    alone = build_lattice(points[:, 2:]).filter(np.array([[4.0]], dtype=np.float32))[0, 0]
    assert response[2] == pytest.approx(alone, rel=1e-5)


def test_scaled_filter_multiplies_on_both_sides() -> None:
    lattice = build_lattice(_points(2, 100))
    generator = np.random.default_rng(2)
    factors = generator.uniform(0.1, 2.0, 100).astype(np.float32)
    values = generator.normal(size=(100, 2)).astype(np.float32)
    expected = factors[:, None] * lattice.filter(factors[:, None] * values)
    np.testing.assert_allclose(lattice.scaled(factors).filter(values), expected, rtol=1e-4, atol=1e-6)


def test_features_too_fine_for_the_keys_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="standard deviations are too small") as caught:
        build_lattice(_points(5, 1000, spread=1e6))
    assert "\n" not in str(caught.value)
