"""Masks brought to the coarser grids the losses live on. Axis legend: K concepts, H W pixels, h w cells."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def area_to_grid(
    masks: npt.NDArray[np.bool_] | npt.NDArray[np.float32], grid: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Share of every cell's area that masks (K, H, W) cover, (K, h, w) in 0..1; probabilities cover in part.

    Pixels on a border between cells count for each in part, so the total area is kept for any two sizes.
    """
    height, width = masks.shape[1:]
    rows, columns = _overlap_shares(height, grid[0]), _overlap_shares(width, grid[1])
    shares = rows @ masks.astype(np.float64) @ columns.T  # (h, H) (K, H, W) (W, w) -> (K, h, w)
    return shares.astype(np.float32)


def hard_grid(masks: npt.NDArray[np.bool_], grid: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Cells (K, h, w) that masks (K, H, W) cover by half or more.

    A mask too small for that keeps the cell with its largest area, so that no concept is lost. An empty mask stays
    empty.
    """
    shares = area_to_grid(masks, grid)
    cells = shares >= 0.5
    for share, cell in zip(shares, cells, strict=True):
        if share.any() and not cell.any():
            cell.flat[share.argmax()] = True
    return cells


def _overlap_shares(pixels: int, cells: int) -> npt.NDArray[np.float64]:
    """Share (cells, pixels) of every cell's length that every pixel fills, along one axis; rows sum to 1."""
    cell = pixels / cells
    start, pixel = np.arange(cells)[:, None] * cell, np.arange(pixels)[None]
    overlap = np.minimum(start + cell, pixel + 1) - np.maximum(start, pixel)
    shares: npt.NDArray[np.float64] = np.maximum(overlap, 0.0) / cell
    return shares
