"""What a model's latent grid allows of masks: the true ones, seen through it and brought back in three ways."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from conceptloom.evaluation.mask_metrics import oracle_masks
from conceptloom.learning import LearnConfig
from conceptloom.masks import DenseCRF, MaskRules, area_to_grid, update_masks

BOUNDS = ("no CRF", "a CRF each", "one CRF")
"""The ways back; what a grid allows is the best of them."""
ONE_CRF = MaskRules(0.5, joint=True, temperature=0.25, background_is_rest=True)


def grid_bounds(
    frame: NDArray[np.uint8],
    truth: NDArray[np.bool_],
    kinds: Sequence[str],
    grid: tuple[int, int],
    config: LearnConfig,
) -> dict[str, NDArray[np.bool_]]:
    """Masks (K, H, W) from each cell's share of the true ones, by the ways of `BOUNDS`.

    Args:
        frame: (H, W, 3) uint8, the model's view of the picture.
        truth: (K, H, W) bool.
        kinds: of the K concepts.
        grid: (h, w) cells.
        config: whose CRF is taken.
    """
    settings = config.crf.crf_config()
    single = oracle_masks(truth, frame, grid, settings)
    behind = [k for k, kind in enumerate(kinds) if kind == "background"]
    shares = area_to_grid(truth, grid)
    joint = update_masks(shares, DenseCRF(frame, settings), ONE_CRF, None, True, behind).masks
    return dict(zip(BOUNDS, (single.unrefined, single.refined, joint), strict=True))
