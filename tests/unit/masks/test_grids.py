import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from conceptloom.masks import area_to_grid, hard_grid

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, max_side=20))
GRIDS = st.tuples(st.integers(1, 12), st.integers(1, 12))


@given(masks=MASKS, grid=GRIDS)
@settings(max_examples=100, deadline=None)
def test_area_to_grid_preserves_total_area(masks: NDArray[np.bool_], grid: tuple[int, int]) -> None:
    shares = area_to_grid(masks, grid)
    assert shares.shape == (len(masks), *grid)
    cell_area = masks.shape[1] * masks.shape[2] / (grid[0] * grid[1])
    np.testing.assert_allclose(shares.sum(axis=(1, 2)) * cell_area, masks.sum(axis=(1, 2)), rtol=1e-5)


def test_area_to_grid_gives_known_shares_where_sizes_do_not_divide() -> None:
    masks = np.array([[[True, False, False]]])
    np.testing.assert_allclose(area_to_grid(masks, (1, 2)), [[[2 / 3, 0.0]]])
    masks = np.array([[[False, True, False]]])
    np.testing.assert_allclose(area_to_grid(masks, (1, 2)), [[[1 / 3, 1 / 3]]])


def test_a_grid_of_the_masks_own_size_returns_the_masks() -> None:
    masks = np.random.default_rng(0).random((3, 7, 11)) < 0.5
    np.testing.assert_array_equal(hard_grid(masks, (7, 11)), masks)
    np.testing.assert_allclose(area_to_grid(masks, (7, 11)), masks, atol=1e-6)


@given(masks=MASKS, grid=GRIDS)
@settings(max_examples=100, deadline=None)
def test_hard_grid_never_loses_a_concept(masks: NDArray[np.bool_], grid: tuple[int, int]) -> None:
    cells = hard_grid(masks, grid)
    np.testing.assert_array_equal(cells.any(axis=(1, 2)), masks.any(axis=(1, 2)))


def test_hard_grid_cuts_at_half_a_cell() -> None:
    masks = np.zeros((1, 2, 6), dtype=np.bool_)
    masks[0, :, 0] = True  # half of the first cell
    masks[0, 0, 2] = True  # a quarter of the second
    masks[0, :, 4:] = True  # all of the third
    np.testing.assert_array_equal(hard_grid(masks, (1, 3)), [[[True, False, True]]])


@pytest.mark.parametrize("pixel", [(0, 0), (5, 9), (11, 23)])
def test_a_mask_under_half_a_cell_keeps_its_largest_cell(pixel: tuple[int, int]) -> None:
    masks = np.zeros((1, 12, 24), dtype=np.bool_)
    masks[0][pixel] = True
    expected = np.zeros((1, 3, 4), dtype=np.bool_)
    expected[0, pixel[0] // 4, pixel[1] // 6] = True
    np.testing.assert_array_equal(hard_grid(masks, (3, 4)), expected)
