"""A picture's parts, without words: cells that look at the same places belong together.

Axis legend: N cells of an n x n grid, H W pixels, C segments.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage

from conceptloom.masks.crf import DenseCRF, soft_energies
from conceptloom.masks.maps import FloatArray, resize_maps

SHARPNESS = 0.4
"""Temperature of the CRF's unary on segments."""


def affinity_segments(affinity: FloatArray, count: int) -> npt.NDArray[np.int64]:
    """At most `count` segments of the grid, numbers (n, n) from 0, by Ward's clustering.

    The distance of two cells is Hellinger's, between the distributions of where each looks in two steps.

    Args:
        affinity: (N, N) self-attention, rows sum to 1.
        count: 1 or more.

    Raises:
        ValueError: for an affinity that is no square of a square number.
    """
    side = round(len(affinity) ** 0.5)
    if affinity.ndim != 2 or affinity.shape[0] != affinity.shape[1] or side * side != len(affinity):
        raise ValueError(f"affinity has shape {affinity.shape}: expected (n*n, n*n) of an n x n grid")
    looks = np.sqrt(affinity @ affinity)
    numbers = fcluster(linkage(looks, "ward"), count, "maxclust") - 1
    segments: npt.NDArray[np.int64] = numbers.astype(np.int64).reshape(side, side)
    return segments


def segment_pixels(segments: npt.NDArray[np.int64], crf: DenseCRF) -> npt.NDArray[np.int64]:
    """Segments (n, n) at the picture's pixels, numbers (H, W): one CRF over all of them decides along edges."""
    count = int(segments.max()) + 1
    if count == 1:
        return np.zeros(crf.size, dtype=np.int64)
    cells = (segments[None] == np.arange(count)[:, None, None]).astype(np.float32)  # (C, n, n)
    found = crf.infer(soft_energies(resize_maps(cells, crf.size), SHARPNESS, label_axis=0))
    pixels: npt.NDArray[np.int64] = found.argmax(axis=0)
    return pixels
