"""Attention maps to thresholded masks. Axis legend: K concepts, h w latent cells, H W pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def resize_maps(maps: FloatArray, size: int | tuple[int, int]) -> FloatArray:
    """Maps (K, h, w) resized bilinearly to (K, H, W), as torch's `interpolate` with `align_corners=False` does.

    Args:
        maps: attention maps, any range.
        size: (H, W), or one number for a square.
    """
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = _bilinear_weights(maps.shape[1], height), _bilinear_weights(maps.shape[2], width)
    resized = rows @ maps.astype(np.float32) @ columns.T  # (H, h) (K, h, w) (w, W) -> (K, H, W)
    return resized.astype(np.float32, copy=False)


def normalise_by_maximum(maps: FloatArray) -> FloatArray:
    """Each map (K, h, w) divided by its own maximum; the minimum is not subtracted, an all-zero map stays zero.

    Raises:
        ValueError: for maps that are negative or not finite.
    """
    if not np.isfinite(maps).all() or (maps < 0).any():
        raise ValueError(
            f"maps of shape {maps.shape} hold NaN, infinite or negative values: expected 0 or more"
        )
    maximum = maps.max(axis=(1, 2), keepdims=True)
    return (maps / np.where(maximum > 0, maximum, 1)).astype(np.float32, copy=False)


def threshold(maps: FloatArray, tau: float) -> npt.NDArray[np.bool_]:
    """Cells of normalised maps (K, h, w) above `tau`."""
    return maps > tau


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
