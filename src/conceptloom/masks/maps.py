"""Attention maps to evidence that can be compared and thresholded. Axis legend: K concepts, h w cells, H W pixels."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Normalise = Literal["maximum", "range", "spread"]


def resize_maps(maps: FloatArray, size: int | tuple[int, int]) -> FloatArray:
    """Maps (K, h, w) resized bilinearly to (K, H, W), as torch's `interpolate` with `align_corners=False` does.

    Args:
        maps: attention maps, any range.
        size: (H, W), or one number for a square.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if maps.shape[1:] == (height, width):
        return maps.astype(np.float32, copy=False)
    rows, columns = _bilinear_weights(maps.shape[1], height), _bilinear_weights(maps.shape[2], width)
    resized = rows @ maps.astype(np.float32) @ columns.T  # (H, h) (K, h, w) (w, W) -> (K, H, W)
    return resized.astype(np.float32, copy=False)


def normalise_by_maximum(maps: FloatArray) -> FloatArray:
    """Each map (K, h, w) divided by its own maximum; the minimum is not subtracted, an all-zero map stays zero.

    Raises:
        ValueError: for maps that are negative or not finite.
    """
    _require_attention(maps)
    maximum = maps.max(axis=(1, 2), keepdims=True)
    return (maps / np.where(maximum > 0, maximum, 1)).astype(np.float32, copy=False)


def normalise_by_range(maps: FloatArray) -> FloatArray:
    """Each map (K, h, w) stretched to 0..1 between its own minimum and maximum; a constant map becomes zero.

    Raises:
        ValueError: for maps that are negative or not finite.
    """
    _require_attention(maps)
    lowest = maps.min(axis=(1, 2), keepdims=True)
    width = maps.max(axis=(1, 2), keepdims=True) - lowest
    stretched: FloatArray = ((maps - lowest) / np.where(width > 0, width, 1)).astype(np.float32, copy=False)
    return stretched


def normalise_by_spread(maps: FloatArray) -> FloatArray:
    """Each map (K, h, w) less its mean, in its own standard deviations; a constant map becomes zero.

    Raises:
        ValueError: for maps that are negative or not finite.
    """
    _require_attention(maps)
    spread = maps.std(axis=(1, 2), keepdims=True)
    centred = maps - maps.mean(axis=(1, 2), keepdims=True)
    standard: FloatArray = (centred / np.where(spread > 0, spread, 1)).astype(np.float32, copy=False)
    return standard


def compete(evidence: FloatArray) -> FloatArray:
    """Evidence (K, h, w) times its share of the sum over concepts, `e_k^2 / sum_i e_i`; below 0 it counts as 0.

    Where one concept alone speaks it keeps its evidence; where several speak each loses what the others claim.
    """
    evidence = np.maximum(evidence, 0)
    total = evidence.sum(axis=0, keepdims=True)
    shares = evidence / np.where(total > 0, total, 1)
    won: FloatArray = (evidence * shares).astype(np.float32, copy=False)
    return won


def coinciding(maps: FloatArray, above: float) -> list[tuple[int, int]]:
    """Pairs of maps (K, h, w) whose correlation over cells is larger than `above`, -1..1; constant maps have none."""
    flat = (maps - maps.mean(axis=(1, 2), keepdims=True)).reshape(len(maps), maps.shape[1] * maps.shape[2])
    norms = np.linalg.norm(flat, axis=1)
    unit = flat / np.where(norms > 0, norms, 1)[:, None]
    correlations = unit @ unit.T
    return [(k, i) for k in range(len(maps)) for i in range(k + 1, len(maps)) if correlations[k, i] > above]


def propagate(maps: FloatArray, affinity: FloatArray, steps: int) -> FloatArray:
    """Maps (K, h, w) after each cell has `steps` times taken the mean of the cells that it attends to.

    Args:
        maps: attention maps; they are brought to the affinity's grid first if theirs is another one.
        affinity: (n*n, n*n) self-attention of an n x n grid, rows sum to 1.
        steps: 0 returns the maps as they are.

    Returns:
        (K, n, n), or the maps themselves for 0 steps.

    Raises:
        ValueError: for an affinity that is no square of a square number.
    """
    if steps == 0:
        return maps
    side = round(len(affinity) ** 0.5)
    if affinity.ndim != 2 or affinity.shape[0] != affinity.shape[1] or side * side != len(affinity):
        raise ValueError(f"affinity has shape {affinity.shape}: expected (n*n, n*n) of an n x n grid")
    flat = resize_maps(maps, side).reshape(len(maps), -1)
    for _ in range(steps):
        flat = flat @ affinity.T  # (K, n*n) x (n*n, n*n): row i of the affinity is where cell i looks
    return flat.reshape(len(maps), side, side).astype(np.float32, copy=False)


def threshold(evidence: FloatArray, tau: float) -> npt.NDArray[np.bool_]:
    """Cells of normalised maps (K, h, w) above `tau`."""
    return evidence > tau


def _require_attention(maps: FloatArray) -> None:
    if not np.isfinite(maps).all() or (maps < 0).any():
        raise ValueError(
            f"maps of shape {maps.shape} hold NaN, infinite or negative values: expected 0 or more"
        )


def _bilinear_weights(source: int, target: int) -> FloatArray:
    """Weights (target, source) of source samples; sample i lies at i + 0.5, the edge samples are extended outwards."""
    position = np.maximum((np.arange(target) + 0.5) * source / target - 0.5, 0.0)
    lower = position.astype(np.int64)
    upper = np.minimum(lower + 1, source - 1)
    fraction = position - lower
    weights = np.zeros((target, source), dtype=np.float32)
    rows = np.arange(target)
    np.add.at(weights, (rows, lower), 1.0 - fraction)
    np.add.at(weights, (rows, upper), fraction)
    return weights
