from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conceptloom.pictures import square_frame, square_frame_mask, unframe_mask


def disc(side: int, radius: float = 0.3) -> np.ndarray:
    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    return np.hypot(x - 0.05, y + 0.1) < radius


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_the_frame_is_the_centre_of_a_wide_and_of_a_tall_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    np.testing.assert_array_equal(square_frame(pixels, 20), pixels[:, 5:25])
    np.testing.assert_array_equal(
        square_frame(pixels.transpose(1, 0, 2), 20), pixels.transpose(1, 0, 2)[5:25]
    )


def test_shrinking_averages_whole_cells_so_that_fine_stripes_become_grey() -> None:
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    np.testing.assert_allclose(square_frame(stripes, 32)[4:-4, 4:-4], 127.5, atol=2)


def test_a_frame_is_a_copy() -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    square_frame(pixels, 16)[:] = 255
    assert pixels.max() == 0


def test_a_mask_pixel_is_in_from_half_its_area() -> None:
    mask = np.zeros((8, 8), dtype=np.bool_)
    mask[:4, :2] = True  # 8 of 16
    mask[:4, 4:6] = True
    mask[3, 5] = False  # 7 of 16
    assert square_frame_mask(mask, 2).tolist() == [[True, False], [False, False]]


@settings(deadline=None, max_examples=60)
@given(
    mask=hnp.arrays(np.bool_, st.integers(1, 12).map(lambda side: (side, side))),
    factor=st.integers(1, 7),
    excess=st.integers(0, 9),
    tall=st.booleans(),
)
def test_unframing_and_framing_again_gives_the_same_mask(
    mask: np.ndarray, factor: int, excess: int, tall: bool
) -> None:
    side = len(mask) * factor
    size = (side + excess, side) if tall else (side, side + excess)
    whole = unframe_mask(mask, size)
    assert whole.shape == size
    np.testing.assert_array_equal(square_frame_mask(whole, len(mask)), mask)


@settings(deadline=None, max_examples=60)
@given(size=st.tuples(st.integers(8, 80), st.integers(8, 80)), side=st.integers(4, 40))
def test_outside_the_frame_nothing_is_marked_and_inside_everything(size: tuple[int, int], side: int) -> None:
    whole = unframe_mask(np.ones((side, side), dtype=np.bool_), size)
    height, width = size
    edge = min(size)
    expected = np.zeros(size, dtype=np.bool_)
    top, left = (height - edge) // 2, (width - edge) // 2
    expected[top : top + edge, left : left + edge] = True
    np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize("side", [97, 171, 301, 512, 1000])
def test_a_disc_survives_the_way_through_any_picture_size(side: int) -> None:
    framed = square_frame_mask(unframe_mask(disc(128), (side, side)), 128)
    assert iou(framed, disc(128)) > 0.96


def test_an_enlarged_mask_follows_the_outline_better_than_its_own_pixels() -> None:
    true = disc(512)
    mask = square_frame_mask(true, 64)
    blocks = mask.repeat(8, axis=0).repeat(8, axis=1)
    assert iou(unframe_mask(mask, (512, 512)), true) > iou(blocks, true)
