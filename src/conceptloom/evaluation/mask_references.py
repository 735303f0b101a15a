"""The rows that frame every mask score: `oracle`, made from perfect attention, and `trivial`, made from none.

Both are scored like a method's masks, so every table and every comparison can hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np
import numpy.typing as npt

from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet
from conceptloom.evaluation.mask_metrics import oracle_masks, score_mask, trivial_masks
from conceptloom.evaluation.mask_scores import ScoredMask
from conceptloom.masks import CRFConfig
from conceptloom.pictures import Picture, square_frame, square_frame_mask

ORACLE = "oracle"
ORACLE_NO_CRF = "oracle, no CRF"
TRIVIAL = "trivial"
USUAL_AREA = 0.1
"""Of the frame: a subject's share where no other scene says one."""

BoolArray = npt.NDArray[np.bool_]


def reference_masks(
    benchmark: Benchmark, side: int, latent_shape: tuple[int, int], crf_config: CRFConfig
) -> list[ScoredMask]:
    """`ORACLE`, `ORACLE_NO_CRF` and `TRIVIAL` masks of every picture with true masks, scored.

    Args:
        benchmark: the sets.
        side: of the model's square frame, in pixels.
        latent_shape: (h, w) of its latent grid.
        crf_config: of the method that the oracle is to bound.
    """
    scored = []
    areas = {one.name: subject_areas(one, side) for one in benchmark.sets}
    for one in benchmark.sets:
        others = [area for name, own in areas.items() if name != one.name for area in own]
        usual = median(others) if others else USUAL_AREA
        for picture in one.pictures:
            if not picture.masks:
                continue
            names = tuple(picture.masks)
            truth = np.stack([square_frame_mask(picture.masks[name], side) for name in names])
            oracle = oracle_masks(truth, square_frame(picture.pixels, side), latent_shape, crf_config)
            kinds = [one.concept(name).kind for name in names]
            rows = {
                ORACLE: oracle.refined,
                ORACLE_NO_CRF: oracle.unrefined,
                TRIVIAL: trivial_masks(truth, kinds, usual),
            }
            for method, masks in rows.items():
                scored += _scored(one, picture, method, names, masks, truth)
    return scored


def subject_areas(one: BenchmarkSet, side: int) -> list[float]:
    """Shares, 0..1, of the square frame at `side` that subjects cover, wherever the frame shows them."""
    framed = (
        square_frame_mask(mask, side)
        for picture in one.pictures
        for name, mask in picture.masks.items()
        if one.concept(name).kind == "subject"
    )
    return [float(mask.mean()) for mask in framed if mask.any()]


def _scored(
    one: BenchmarkSet,
    picture: Picture,
    method: str,
    names: Sequence[str],
    masks: BoolArray,
    truth: BoolArray,
) -> list[ScoredMask]:
    return [
        ScoredMask(one.name, method, "", 0, picture.name, one.concept(name), 0, score_mask(mask, true))
        for name, mask, true in zip(names, masks, truth, strict=True)
    ]
