"""The mask half of an E-step: threshold, DenseCRF, rescue rules. Axis legend: K concepts, h w cells, H W pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conceptloom.masks.crf import DenseCRF, binary_unary, joint_unary, soft_energies
from conceptloom.masks.maps import (
    FloatArray,
    Normalise,
    compete,
    normalise_by_maximum,
    normalise_by_range,
    normalise_by_spread,
    resize_maps,
    threshold,
)

BoolArray = npt.NDArray[np.bool_]

RESCUE_IOU = 0.5
"""A refined mask that overlaps its input less than this is not trusted (CutLER's rule)."""

RESCUE_SHARE = 0.05
"""Share of a map's highest pixels taken when nothing else is left."""


NORMALISED: dict[Normalise, Callable[[FloatArray], FloatArray]] = {
    "maximum": normalise_by_maximum,
    "range": normalise_by_range,
    "spread": normalise_by_spread,
}


@dataclass(frozen=True)
class MaskRules:
    """How maps become masks; the defaults are the paper's.

    `tau` is the evidence of the rest: a concept gets a pixel where its normalised map is above it.
    `normalise` divides by the maximum, stretches each map between its minimum and maximum ("range"), or takes standard
    deviations from its mean ("spread"); `tau` is in the same unit.
    `competition` multiplies evidence by its share of the sum over concepts (`maps.compete`).
    `joint` puts all concepts and the rest into one CRF, so that masks are disjoint; else each has a binary CRF.
    `temperature` makes the unary soft, the softmax of evidence / temperature; None takes the hard one-hot stack.
    `background_is_rest` gives a picture's background what no other concept wins, instead of evidence of its own; of
    several backgrounds each pixel goes to that with the most evidence. It needs `joint`.
    """

    tau: float
    normalise: Normalise = "maximum"
    competition: bool = False
    joint: bool = False
    temperature: float | None = None
    background_is_rest: bool = False


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


def evidence_of(maps: FloatArray, size: tuple[int, int], rules: MaskRules) -> FloatArray:
    """Evidence (K, H, W) of maps (K, h, w): resized, normalised, and competing where the rules say so.

    Raises:
        ValueError: for negative or non-finite maps.
    """
    resized = resize_maps(maps, size)
    evidence = NORMALISED[rules.normalise](resized)
    return compete(evidence) if rules.competition else evidence


def update_masks(
    maps: FloatArray,
    crf: DenseCRF,
    rules: MaskRules,
    previous: BoolArray | None,
    others_present: bool,
    backgrounds: Sequence[int] = (),
) -> MaskUpdate:
    """Threshold maps and refine the masks by the picture's DenseCRF: a two-label one each, or one for all.

    A refined mask is refused if it is empty, or full while the picture has other concepts, or, with binary CRFs, if it
    overlaps its input by an IoU under 0.5. Then the previous mask stays; at stage 2 the unrefined one, or the top 5 %
    of the evidence if that is empty too.

    Args:
        maps: (K, h, w) attention maps, 0 or more, at any resolution.
        crf: the CRF of the picture (H, W).
        rules: how maps become masks.
        previous: (K, H, W) masks of the last E-step; None at stage 2.
        others_present: whether the picture has further concepts.
        backgrounds: which of the K concepts are backgrounds.

    Raises:
        ValueError: for maps or previous masks of a wrong shape, and for negative or non-finite maps.
    """
    if maps.ndim != 3:
        raise ValueError(f"maps have shape {maps.shape}: expected (K, h, w)")
    expected = (len(maps), *crf.size)
    if previous is not None and previous.shape != expected:
        raise ValueError(f"previous masks have shape {previous.shape}: maps and picture need {expected}")
    evidence = evidence_of(maps, crf.size, rules)
    if rules.joint and rules.background_is_rest and backgrounds:
        unrefined, masks, probabilities = _assign_with_backgrounds(evidence, crf, rules, backgrounds)
    else:
        assign = _assign_jointly if rules.joint else _assign_one_by_one
        unrefined, masks, probabilities = assign(evidence, crf, rules)
    overlap = np.array(
        [iou(before, after) for before, after in zip(unrefined, masks, strict=True)], dtype=np.float32
    )
    empty, full = ~masks.any(axis=(1, 2)), masks.all(axis=(1, 2))
    rescued: BoolArray = np.logical_or(empty, full & others_present)
    if not rules.joint:
        rescued = rescued | (overlap < RESCUE_IOU)
    for k in np.flatnonzero(rescued):
        if previous is not None:
            masks[k] = previous[k]
        elif unrefined[k].any():
            masks[k] = unrefined[k]
        else:
            masks[k] = _highest_pixels(evidence[k], RESCUE_SHARE)
        probabilities[k] = masks[k]
    return MaskUpdate(masks, probabilities, rescued, overlap)


def _assign_one_by_one(
    evidence: FloatArray, crf: DenseCRF, rules: MaskRules
) -> tuple[BoolArray, BoolArray, FloatArray]:
    """Unrefined masks, refined masks and probabilities (K, H, W) of a binary CRF per concept."""
    unrefined = threshold(evidence, rules.tau)
    if rules.temperature is None:
        unaries = binary_unary(unrefined)
    else:
        rest = np.full_like(evidence, rules.tau)
        unaries = soft_energies(np.stack([rest, evidence], axis=1), rules.temperature, label_axis=1)
    found = crf.infer_binary(unaries)
    return unrefined, found[:, 1] > found[:, 0], found[:, 1].copy()


def _assign_jointly(
    evidence: FloatArray, crf: DenseCRF, rules: MaskRules
) -> tuple[BoolArray, BoolArray, FloatArray]:
    """Unrefined masks, refined masks and probabilities (K, H, W) of one CRF over the rest and all concepts."""
    stack = np.concatenate([np.full_like(evidence[:1], rules.tau), evidence])  # (K+1, H, W), the rest first
    unrefined = threshold(evidence, rules.tau)
    if rules.temperature is None:
        unary = joint_unary(unrefined)
    else:
        unary = soft_energies(stack, rules.temperature, label_axis=0)
        unrefined = _winners(stack)
    found = crf.infer(unary)
    return unrefined, _winners(found), found[1:].copy()


def _assign_with_backgrounds(
    evidence: FloatArray, crf: DenseCRF, rules: MaskRules, backgrounds: Sequence[int]
) -> tuple[BoolArray, BoolArray, FloatArray]:
    """As `_assign_jointly` for all but the backgrounds, which share the rest among them."""
    behind = np.zeros(len(evidence), dtype=np.bool_)
    behind[list(backgrounds)] = True
    owner = np.zeros_like(evidence, dtype=np.bool_)  # (K, H, W): which background the rest of a pixel goes to
    owner[behind] = evidence[behind].argmax(axis=0) == np.arange(behind.sum())[:, None, None]
    unrefined, masks = owner.copy(), owner.copy()
    probabilities = owner.astype(np.float32)
    if not behind.all():
        found = _assign_jointly(evidence[~behind], crf, rules)
        unrefined[~behind], masks[~behind], probabilities[~behind] = found
        unrefined[behind] &= ~found[0].any(axis=0)
        masks[behind] &= ~found[1].any(axis=0)
        probabilities[behind] *= 1 - found[2].sum(axis=0)
    return unrefined, masks, probabilities


def _winners(values: FloatArray) -> BoolArray:
    """(K, H, W): where each label of values (K+1, H, W) but the first has the highest; of equals the first wins."""
    labels = np.arange(1, len(values))[:, None, None]
    winners: BoolArray = values.argmax(axis=0)[None] == labels
    return winners


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
