"""Segments from self-attention."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.masks import CRFConfig, DenseCRF, iou
from conceptloom.masks.segments import affinity_segments, segment_pixels


def _planted(parts: np.ndarray, noise: float = 0.2) -> np.ndarray:
    """Affinity of a grid whose cells look mostly at their own part."""
    flat = parts.ravel()
    affinity = (flat[:, None] == flat[None]).astype(np.float32) + noise * np.random.default_rng(0).random(
        (flat.size, flat.size), dtype=np.float32
    )
    return affinity / affinity.sum(axis=1, keepdims=True)


def _three_parts() -> np.ndarray:
    parts = np.zeros((8, 8), dtype=np.int64)
    parts[1:4, 1:4], parts[4:7, 3:7] = 1, 2
    return parts


def test_planted_parts_come_back_whatever_they_are_called() -> None:
    parts = _three_parts()
    found = affinity_segments(_planted(parts), 3)
    assert len({(a, b) for a, b in zip(parts.ravel(), found.ravel(), strict=True)}) == 3


def test_one_segment_is_the_whole_grid() -> None:
    assert affinity_segments(_planted(_three_parts()), 1).max() == 0


def test_no_more_segments_than_asked_for() -> None:
    affinity = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    for count in (2, 5, 9):
        found = affinity_segments(affinity / affinity.sum(axis=1, keepdims=True), count)
        assert sorted(set(found.ravel())) == list(range(found.max() + 1))
        assert found.max() < count


def test_an_affinity_of_no_square_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(15, 15\)"):
        affinity_segments(np.ones((15, 15), dtype=np.float32), 2)


def test_at_pixels_segments_follow_the_pictures_edges() -> None:
    """The picture's square is larger than the cells say by half a cell: the CRF finds its edge."""
    pixels = np.full((64, 64, 3), (40, 60, 160), dtype=np.uint8)
    square = np.zeros((64, 64), dtype=np.bool_)
    square[12:44, 12:44] = True
    pixels[square] = (220, 120, 40)
    segments = np.zeros((8, 8), dtype=np.int64)
    segments[2:5, 2:5] = 1
    found = segment_pixels(segments, DenseCRF(pixels, CRFConfig(scale=4.0)))
    assert iou((segments == 1).repeat(8, axis=0).repeat(8, axis=1), square) < 0.6
    np.testing.assert_array_equal(found == 1, square)


def test_a_single_segment_needs_no_crf() -> None:
    crf = DenseCRF(np.zeros((10, 12, 3), dtype=np.uint8))
    assert segment_pixels(np.zeros((4, 4), dtype=np.int64), crf).shape == (10, 12)
