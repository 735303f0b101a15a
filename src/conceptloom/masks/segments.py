"""A picture's parts, without words: cells that look at the same places belong together.

Axis legend: N cells of an n x n grid, P parts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import linkage

from conceptloom.masks.maps import FloatArray

MIN_CELLS = 3
"""Smaller parts are left out: they are noise, or the seams between others."""


def part_tree(affinity: FloatArray, most: int) -> npt.NDArray[np.bool_]:
    """Parts (P, N) of every cut into 2 to `most` segments by Ward's clustering: any two are nested or disjoint.

    The distance of two cells is Hellinger's, between the distributions of where each looks in two steps.

    Args:
        affinity: (N, N) self-attention, rows sum to 1.
        most: 2 or more.

    Raises:
        ValueError: for an affinity that is no square of a square number.
    """
    cells = len(affinity)
    side = round(cells**0.5)
    if affinity.ndim != 2 or affinity.shape[1] != cells or side * side != cells:
        raise ValueError(f"affinity has shape {affinity.shape}: expected (n*n, n*n) of an n x n grid")
    merges = linkage(np.sqrt(affinity @ affinity), "ward")[:, :2].astype(np.int64)
    members = np.zeros((2 * cells - 1, cells), dtype=np.bool_)
    members[:cells] = np.eye(cells, dtype=np.bool_)
    for merge, (one, other) in enumerate(merges, start=cells):
        members[merge] = members[one] | members[other]
    # What the last merges join is what the cuts before them hold.
    parts: npt.NDArray[np.bool_] = members[np.unique(merges[-(most - 1) :])]
    large: npt.NDArray[np.bool_] = parts[parts.sum(axis=1) >= MIN_CELLS]
    return large
