"""The mask half of an E-step: assignment, then rescue rules. Axis legend: K concepts, h w cells, H W pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conceptloom.masks.assign import Held, MaskRules, assign, evidence_of
from conceptloom.masks.crf import DenseCRF
from conceptloom.masks.maps import FloatArray

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
    probabilities: FloatArray
    """(K, H, W) of each concept by the CRF; those of a mask that was refused are the mask that stands in its place."""
    rescued: BoolArray
    """(K,): the refined mask was refused and another one stands in its place."""
    overlap: FloatArray
    """(K,): IoU of the thresholded and the refined mask."""


def update_masks(
    maps: FloatArray,
    crf: DenseCRF,
    rules: MaskRules,
    previous: BoolArray | None,
    others_present: bool,
    backgrounds: Sequence[int] = (),
    held: Held | None = None,
    patterns: Sequence[int] = (),
) -> MaskUpdate:
    """Threshold maps and refine the masks by the picture's DenseCRF: a two-label one each, or one for all.

    A refined mask is refused if it is empty, or full while the picture has other concepts, or, with binary CRFs, if it
    overlaps its input by an IoU under 0.5. Then the previous mask stays; at stage 2 the unrefined one, or the top 5 %
    of the evidence if that is empty too; with the joint CRF without what others have, so that masks stay disjoint.
    What is held is in every mask, and its neighbours in the CRF follow it.

    Args:
        maps: (K, h, w) attention maps, 0 or more, at any resolution.
        crf: the CRF of the picture (H, W).
        rules: how maps become masks.
        previous: (K, H, W) masks of the last E-step; None at stage 2.
        others_present: whether the picture has further concepts.
        backgrounds: which of the K concepts are backgrounds.
        held: what the user said.
        patterns: which of the K concepts are patterns: like backgrounds they may lie in pieces.

    Raises:
        ValueError: for maps or previous masks of a wrong shape, and for negative or non-finite maps.
    """
    if maps.ndim != 3:
        raise ValueError(f"maps have shape {maps.shape}: expected (K, h, w)")
    expected = (len(maps), *crf.size)
    if previous is not None and previous.shape != expected:
        raise ValueError(f"previous masks have shape {previous.shape}: maps and picture need {expected}")
    evidence = evidence_of(maps, crf.size, rules, held)
    behind = np.zeros(len(maps), dtype=np.bool_)
    if rules.joint and rules.background_is_rest:
        behind[list(backgrounds)] = True
    whole = np.ones(len(maps), dtype=np.bool_)
    whole[[*backgrounds, *patterns]] = False
    unrefined, masks, probabilities = assign(evidence, crf, rules, behind, whole, held)
    overlap = np.array(
        [iou(before, after) for before, after in zip(unrefined, masks, strict=True)], dtype=np.float32
    )
    empty, full = ~masks.any(axis=(1, 2)), masks.all(axis=(1, 2))
    rescued: BoolArray = np.logical_or(empty, full & others_present)
    if not rules.joint:
        rescued = rescued | (overlap < RESCUE_IOU)
    if held is not None:
        rescued = rescued & ~held.settled
    masks[rescued] = False

    def replace_refused(refused: BoolArray, rivals: BoolArray) -> None:
        for k in np.flatnonzero(refused).tolist():
            others = np.logical_or.reduce(masks[rivals], axis=0) if rules.joint else np.zeros_like(masks[k])
            masks[k] = _stand_in(k, evidence, unrefined, previous, held, others)
            probabilities[k] = masks[k]

    subjects = rescued & ~behind
    replace_refused(subjects, ~behind)
    if behind.any() and subjects.any():  # a background is what no other concept has, stand-ins included
        known = np.zeros_like(masks[behind]) if held is None else held.is_it[behind]
        masks[behind] &= known | ~masks[subjects].any(axis=0)
        probabilities[behind] *= masks[behind]
        lost = behind & ~masks.any(axis=(1, 2))
        rescued = rescued | (lost if held is None else lost & ~held.settled)
    replace_refused(rescued & behind, np.ones_like(behind))
    return MaskUpdate(masks, probabilities, rescued, overlap)


def _stand_in(
    k: int,
    evidence: FloatArray,
    unrefined: BoolArray,
    previous: BoolArray | None,
    held: Held | None,
    taken: BoolArray,
) -> BoolArray:
    """The mask (H, W) that takes the place of a refused one, with what is held in it and without what is `taken`.

    Only a concept to which others leave no pixel at all gets some of theirs.
    """
    nothing = np.zeros_like(unrefined[k])
    is_it, is_not = (nothing, nothing) if held is None else (held.is_it[k], held.is_not[k])
    mask: BoolArray = (unrefined if previous is None else previous)[k] & ~(is_not | taken)
    for closed in (is_not | taken, is_not):
        if not mask.any():
            mask = _highest_pixels(np.where(closed, -np.inf, evidence[k]), RESCUE_SHARE) & ~closed
    stands_in: BoolArray = mask | is_it
    return stands_in


def iou(a: BoolArray, b: BoolArray) -> float:
    """Intersection over union of two masks of one shape, 0..1; two empty masks agree fully (1.0).

    Raises:
        ValueError: for masks of different shapes.
    """
    if a.shape != b.shape:
        raise ValueError(f"masks of shapes {a.shape} and {b.shape} can't be compared: expected one shape")
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def all_keep(new: BoolArray, old: BoolArray, least_iou: float) -> bool:
    """Whether each of the new masks (K, H, W) has at least `least_iou` with the old one in its place."""
    return all(iou(mask, before) >= least_iou for mask, before in zip(new, old, strict=True))


def _highest_pixels(values: FloatArray, share: float) -> BoolArray:
    """The `share` of pixels (H, W) with the highest values, at least one; among equals the first."""
    count = max(1, math.ceil(share * values.size))
    mask = np.zeros(values.size, dtype=np.bool_)
    mask[np.argsort(-values, axis=None, kind="stable")[:count]] = True
    return mask.reshape(values.shape)
