"""Which parts of a picture are things: how well each part is expected to cover one.

Axis legend: N cells of an n x n grid, P parts, W words for things, V words for places.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from conceptloom.masks.maps import FloatArray

RING = 1 / 8
"""Width of a part's surroundings, as a share of the grid's side."""


class Weight(NamedTuple):
    """How a feature counts: standardised by `mean` and `spread`, then `linear` * x + `square` * x**2."""

    mean: float
    spread: float
    linear: float
    square: float


class Objectness(NamedTuple):
    """A quadratic in `part_features`, without mixed terms: the IoU to expect of a part."""

    constant: float
    weights: dict[str, Weight]

    def __call__(self, features: dict[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        """Expected IoU (P,) of each part with the thing that it covers best; may lie a little outside 0..1."""
        total = np.full(len(next(iter(features.values()))), self.constant)
        for name, (mean, spread, linear, square) in self.weights.items():
            standard = (features[name] - mean) / spread
            total += linear * standard + square * standard**2
        return total


OBJECTNESS = Objectness(
    0.1074,
    {
        "border": Weight(0.1314, 0.1805, -0.1438, 0.0193),
        "contrast": Weight(19.7024, 13.8298, 0.0147, 0.0158),
        "leak": Weight(0.5195, 0.1819, -0.0794, 0.0024),
        "raggedness": Weight(0.8245, 0.6777, -0.0407, 0.0053),
        "size": Weight(-2.4611, 0.9925, 0.0699, -0.0239),
        "word": Weight(1.5028, 0.9334, 0.0916, -0.0099),
    },
)
"""Fitted to the IoU of parts with the subjects of the `dev` sets (benchmarks/discovery.py fit, docs/LOG.md)."""


def part_features(
    parts: npt.NDArray[np.bool_],
    affinity: FloatArray,
    colours: FloatArray,
    thing_errors: FloatArray,
    place_errors: FloatArray,
) -> dict[str, npt.NDArray[np.float64]]:
    """What tells things from surroundings, (P,) each.

    Args:
        parts: (P, N).
        affinity: (N, N) self-attention, rows sum to 1.
        colours: (N, 3) CIE Lab.
        thing_errors: (W, N) denoising error of each cell under each word for a thing.
        place_errors: (V, N) the same under each word for a place.

    Returns:
        `word`: by how many standard deviations the best thing explains the part better than all words do on average;
        `contrast`: distance in Lab to the surroundings; `size`: logarithm of the area's share; `leak`: how much the
        part looks at the rest, relative to its area; `border`: share of the grid's border that it holds;
        `raggedness`: perimeter squared over area, 1 for a square.
    """
    side = round(len(affinity) ** 0.5)
    border = np.ones((side, side), dtype=np.bool_)
    border[1:-1, 1:-1] = False
    size = parts.sum(axis=1)
    things, places = (
        parts @ errors.T / size[:, None] for errors in (thing_errors, place_errors)
    )  # (P, N) (N, W) -> (P, W)
    words = np.concatenate([things, places], axis=1)
    leak = np.einsum("pn,nm,pm->p", parts, affinity, ~parts) / size / (1 - size / parts.shape[1])
    contrast, raggedness = np.zeros(len(parts)), np.zeros(len(parts))
    width = max(1, round(RING * side))
    for index, part in enumerate(parts):
        cells = part.reshape(side, side)
        ring = (ndimage.binary_dilation(cells, iterations=width) & ~cells).ravel()
        contrast[index] = np.linalg.norm(colours[part].mean(axis=0) - colours[ring].mean(axis=0))
        perimeter = (cells & ~ndimage.binary_erosion(cells, border_value=1)).sum()
        raggedness[index] = perimeter**2 / (16 * size[index])
    return {
        "word": (words.mean(axis=1) - things.min(axis=1)) / words.std(axis=1).clip(1e-9),
        "contrast": contrast,
        "size": np.log(size / parts.shape[1]),
        "leak": leak,
        "border": parts[:, border.ravel()].mean(axis=1),
        "raggedness": raggedness,
    }


def best_disjoint(
    parts: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64], least: float, most: int
) -> list[int]:
    """Parts (P, N) that share no cell, best first: at most `most` with scores above `least`, at least one."""
    chosen: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        if len(chosen) == most or (chosen and scores[index] < least):
            break
        if not (parts[chosen] & parts[index]).any():
            chosen.append(index)
    return chosen
