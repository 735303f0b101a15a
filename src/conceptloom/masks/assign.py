"""Evidence to masks: a DenseCRF per concept or one for all. Axis legend: K concepts, h w cells, H W pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

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
Assigned = tuple[BoolArray, BoolArray, FloatArray]
"""Unrefined masks, refined masks and probabilities, (K, H, W) each."""

HELD_ENERGY = np.float32(1000)
"""Makes a label impossible: the pairs of a CRF with usual weights pull with some tens at most."""

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
    `piece_peak` lets a piece of a subject's mask stay if its highest evidence is at least this share of the mask's.
    `hole_share` gives a subject holes of its mask up to this share of the mask's area, where no other concept is.
    """

    tau: float
    normalise: Normalise = "maximum"
    competition: bool = False
    joint: bool = False
    temperature: float | None = None
    background_is_rest: bool = False
    piece_peak: float = 0.0
    hole_share: float = 0.0


@dataclass(frozen=True, eq=False)
class Held:
    """What is known of the masks beforehand, bool (K, H, W) each: pixels that are a concept, and that are not."""

    is_it: BoolArray
    is_not: BoolArray

    def applied(self, masks: BoolArray) -> BoolArray:
        """Masks (K, H, W) with all that is known."""
        return np.logical_and(masks | self.is_it, ~self.is_not)

    def only(self, chosen: BoolArray) -> Held:
        """Of the chosen (K,) concepts."""
        return Held(self.is_it[chosen], self.is_not[chosen])

    @property
    def settled(self) -> BoolArray:
        """(K,): whose mask is known pixel by pixel."""
        return np.array([known.all() for known in self.is_it | self.is_not], dtype=np.bool_)


def evidence_of(
    maps: FloatArray, size: tuple[int, int], rules: MaskRules, held: Held | None = None
) -> FloatArray:
    """Evidence (K, H, W) of maps (K, h, w): resized, normalised, and competing where the rules say so.

    Where a concept is known not to be, its map is as low as anywhere else, so that it stands out where it may be.

    Raises:
        ValueError: for negative or non-finite maps.
    """
    resized = resize_maps(maps, size)
    if held is not None:
        resized = resized.copy()
        for values, is_not in zip(resized, held.is_not, strict=True):
            if is_not.any() and not is_not.all():
                values[is_not] = values[~is_not].min()
    evidence = NORMALISED[rules.normalise](resized)
    return compete(evidence) if rules.competition else evidence


def assign(
    evidence: FloatArray,
    crf: DenseCRF,
    rules: MaskRules,
    behind: BoolArray,
    whole: BoolArray,
    held: Held | None,
) -> Assigned:
    """Masks of evidence (K, H, W); with the joint CRF those `behind` (K,) share what no other concept wins.

    `whole` (K,) are things, whose pieces and holes the rules speak of.
    """
    if not rules.joint:
        assigned = _tidied(_one_by_one(evidence, crf, rules, held), evidence, rules, whole, held)
    elif behind.any():
        assigned = _with_backgrounds(evidence, crf, rules, behind, whole, held)
    else:
        assigned = _tidied(_jointly(evidence, crf, rules, _pulls(held, behind)), evidence, rules, whole, held)
    if held is None:
        return assigned
    unrefined, masks, probabilities = assigned
    probabilities[held.is_it], probabilities[held.is_not] = 1.0, 0.0
    return held.applied(unrefined), held.applied(masks), probabilities


def _one_by_one(evidence: FloatArray, crf: DenseCRF, rules: MaskRules, held: Held | None) -> Assigned:
    """Unrefined masks, refined masks and probabilities (K, H, W) of a binary CRF per concept."""
    unrefined = threshold(evidence, rules.tau)
    if rules.temperature is None:
        unaries = binary_unary(unrefined)
    else:
        rest = np.full_like(evidence, rules.tau)
        unaries = soft_energies(np.stack([rest, evidence], axis=1), rules.temperature, label_axis=1)
    if held is not None:
        unaries[:, 0][held.is_it] += HELD_ENERGY
        unaries[:, 1][held.is_not] += HELD_ENERGY
    found = crf.infer_binary(unaries)
    return unrefined, found[:, 1] > found[:, 0], found[:, 1].copy()


def _jointly(evidence: FloatArray, crf: DenseCRF, rules: MaskRules, pulls: FloatArray | None) -> Assigned:
    """Unrefined masks, refined masks and probabilities (K, H, W) of one CRF over the rest and all concepts.

    `pulls` (K+1, H, W) are energies on top of the unary's, the rest first.
    """
    stack = np.concatenate([np.full_like(evidence[:1], rules.tau), evidence])  # (K+1, H, W), the rest first
    unrefined = threshold(evidence, rules.tau)
    if rules.temperature is None:
        unary = joint_unary(unrefined)
    else:
        unary = soft_energies(stack, rules.temperature, label_axis=0)
        unrefined = _winners(stack)
    found = crf.infer(unary if pulls is None else unary + pulls)
    return unrefined, _winners(found), found[1:].copy()


def _with_backgrounds(
    evidence: FloatArray,
    crf: DenseCRF,
    rules: MaskRules,
    behind: BoolArray,
    whole: BoolArray,
    held: Held | None,
) -> Assigned:
    """As `_jointly` for all but the backgrounds (`behind`, (K,)), which share the rest among them."""
    owner = np.zeros_like(evidence, dtype=np.bool_)  # (K, H, W): which background the rest of a pixel goes to
    owner[behind] = evidence[behind].argmax(axis=0) == np.arange(behind.sum())[:, None, None]
    unrefined, masks = owner.copy(), owner.copy()
    probabilities = owner.astype(np.float32)
    if not behind.all():
        others, known = evidence[~behind], None if held is None else held.only(~behind)
        joint = _jointly(others, crf, rules, _pulls(held, behind))
        found = _tidied(joint, others, rules, whole[~behind], known)
        unrefined[~behind], masks[~behind], probabilities[~behind] = found
        unrefined[behind] &= ~found[0].any(axis=0)
        masks[behind] &= ~found[1].any(axis=0)
        probabilities[behind] *= 1 - found[2].sum(axis=0)
    return unrefined, masks, probabilities


def _tidied(
    assigned: Assigned, evidence: FloatArray, rules: MaskRules, whole: BoolArray, held: Held | None
) -> Assigned:
    """The same without pieces that are hardly evident and without small holes, in masks of what is `whole` (K,).

    A piece with a pixel that is known to be the concept stays, and a hole with one that is known not to be.
    What a mask gives away has probability 0, what it takes 1.
    """
    unrefined, masks, probabilities = assigned
    held = held or Held(np.zeros_like(masks), np.zeros_like(masks))
    tidy = masks.copy()
    things = np.flatnonzero(whole & masks.any(axis=(1, 2))).tolist()
    for k in things if rules.piece_peak > 0 else ():
        tidy[k] = _evident_pieces(masks[k], evidence[k], rules.piece_peak, held.is_it[k])
    for k in things if rules.hole_share > 0 else ():
        holes = _small_holes(tidy[k], rules.hole_share, held.is_not[k])
        tidy[k] |= holes & ~np.delete(tidy, k, axis=0).any(axis=0)
    return unrefined, tidy, np.where(tidy == masks, probabilities, tidy.astype(np.float32))


def _evident_pieces(mask: BoolArray, evidence: FloatArray, share: float, known: BoolArray) -> BoolArray:
    """The pieces of a mask (H, W) that hold what is `known`, or evidence of at least a share of the mask's highest.

    Pieces hang together over edges and corners.
    """
    pieces, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=np.bool_))
    each = np.arange(1, count + 1)
    highest = ndimage.maximum(evidence, pieces, each)
    least = min(share * highest.max(), highest.max())  # the latter where all evidence is negative
    evident: BoolArray = np.concatenate([[False], (highest >= least) | np.isin(each, pieces[known])])[pieces]
    return evident


def _small_holes(mask: BoolArray, share: float, known: BoolArray) -> BoolArray:
    """The holes of a mask (H, W) that hold nothing `known` and whose area is at most a share of the mask's."""
    holes, count = ndimage.label(ndimage.binary_fill_holes(mask) & ~mask)
    each = np.arange(1, count + 1)
    areas = ndimage.sum_labels(np.ones_like(holes), holes, each)
    small: BoolArray = np.concatenate(
        [[False], (areas <= share * mask.sum()) & ~np.isin(each, holes[known])]
    )[holes]
    return small


def _pulls(held: Held | None, behind: BoolArray) -> FloatArray | None:
    """Energies by which what is held pulls the joint CRF's labels: the rest first, then all not `behind` (K,)."""
    if held is None:
        return None
    is_it = np.concatenate([held.is_it[behind].any(axis=0, keepdims=True), held.is_it])[[True, *~behind]]
    lone = behind.sum() == 1  # of several backgrounds another one may still own the pixel
    no_rest = held.is_not[behind].any(axis=0, keepdims=True) & lone
    is_not = np.concatenate([no_rest, held.is_not])[[True, *~behind]]
    claimed = is_it.any(axis=0, keepdims=True)
    pulls: FloatArray = HELD_ENERGY * (is_not | (claimed & ~is_it)).astype(np.float32)
    return pulls


def _winners(values: FloatArray) -> BoolArray:
    """(K, H, W): where each label of values (K+1, H, W) but the first has the highest; of equals the first wins."""
    labels = np.arange(1, len(values))[:, None, None]
    winners: BoolArray = values.argmax(axis=0)[None] == labels
    return winners
