"""The mask half of an E-step: threshold, DenseCRF, rescue rules. Axis legend: K concepts, h w cells, H W pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conceptloom.masks.crf import DenseCRF, binary_unary
from conceptloom.masks.maps import FloatArray, normalise_by_maximum, resize_maps, threshold

BoolArray = npt.NDArray[np.bool_]

RESCUE_IOU = 0.5
"""A refined mask that overlaps its input less than this is not trusted (CutLER's rule)."""

RESCUE_SHARE = 0.05
"""Share of a map's highest pixels taken when nothing else is left."""


@dataclass(frozen=True, eq=False)
class MaskUpdate:
    """New masks of one picture's concepts and how they came about."""

    masks: BoolArray
    """(K, H, W)."""
    rescued: BoolArray
    """(K,): the refined mask was refused and another one stands in its place."""
    overlap: npt.NDArray[np.float32]
    """(K,): IoU of the thresholded and the refined mask."""


def update_masks(
    maps: FloatArray, crf: DenseCRF, tau: float, previous: BoolArray | None, others_present: bool
) -> MaskUpdate:
    """Threshold maps and refine each concept's mask with a two-label CRF of its own, so masks may overlap.

    A refined mask is refused if it overlaps its input by an IoU under 0.5, is empty, or is full while the picture has
    other concepts. Then the previous mask stays; at stage 2 the unrefined one, or the top 5 % of the map if that is
    empty too.

    Args:
        maps: (K, h, w) attention maps, 0 or more, at any resolution.
        crf: the CRF of the picture (H, W).
        tau: threshold on a map divided by its maximum.
        previous: (K, H, W) masks of the last E-step; None at stage 2.
        others_present: whether the picture has further concepts.

    Raises:
        ValueError: for maps or previous masks of a wrong shape, and for negative or non-finite maps.
    """
    if maps.ndim != 3:
        raise ValueError(f"maps have shape {maps.shape}: expected (K, h, w)")
    expected = (len(maps), *crf.size)
    if previous is not None and previous.shape != expected:
        raise ValueError(f"previous masks have shape {previous.shape}: maps and picture need {expected}")
    resized = normalise_by_maximum(resize_maps(maps, crf.size))
    unrefined = threshold(resized, tau)
    probabilities = crf.infer_binary(binary_unary(unrefined))
    masks = probabilities[:, 1] > probabilities[:, 0]
    overlap = np.array(
        [iou(before, after) for before, after in zip(unrefined, masks, strict=True)], dtype=np.float32
    )
    empty, full = ~masks.any(axis=(1, 2)), masks.all(axis=(1, 2))
    rescued = (overlap < RESCUE_IOU) | empty | (full & others_present)
    for k in np.flatnonzero(rescued):
        if previous is not None:
            masks[k] = previous[k]
        elif unrefined[k].any():
            masks[k] = unrefined[k]
        else:
            masks[k] = _highest_pixels(resized[k], RESCUE_SHARE)
    return MaskUpdate(masks, rescued, overlap)


def iou(a: BoolArray, b: BoolArray) -> float:
    """Intersection over union of two masks of one shape, 0..1; two empty masks agree fully (1.0).

    Raises:
        ValueError: for masks of different shapes.
    """
    if a.shape != b.shape:
        raise ValueError(f"masks of shapes {a.shape} and {b.shape} can't be compared: expected one shape")
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def _highest_pixels(values: FloatArray, share: float) -> BoolArray:
    """The `share` of pixels (H, W) with the highest values, at least one; among equals the first."""
    count = max(1, math.ceil(share * values.size))
    mask = np.zeros(values.size, dtype=np.bool_)
    mask[np.argsort(-values, axis=None, kind="stable")[:count]] = True
    return mask.reshape(values.shape)
