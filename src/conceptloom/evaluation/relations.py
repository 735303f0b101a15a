"""Whether two things stand in a relation, as far as their boxes can show.

The rules follow how `scenes.composer` places related drawings, which is what the built-in model was taught the words
by. A box shows neither which way a thing looks nor what hides what: for "facing", "holding", "behind" and "in front
of" a rule is only what must hold of the boxes if the relation does.

A box is (left, top, right, bottom) in pixels, downwards; S is the subject's, O the object's. Offsets are between
centres, in units of the mean of the two boxes' longer sides; overlaps are in units of the smaller width or height.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from conceptloom.scenes.captions import RELATIONS

Box = tuple[float, float, float, float]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

APART = 0.15
"""Largest overlap of things that are beside each other, or one above the other."""
SIDE_BY_SIDE = 0.5
"""Least overlap of the heights of neighbours."""
NEAR = 1.4
"""Largest sideways offset of neighbours: about 1 where they touch."""
ONE_HEIGHT = 0.15
"""Largest vertical offset of things at one height."""
ASIDE = 0.25
"""Least sideways offset of a thing that is at another's side."""
IN_LINE = 1 / 3
"""Largest sideways offset of a rider from its mount."""
REACH = 0.4
"""How far a rider's lower edge may be below its mount's upper edge, as a share of the mount's height."""
WITHIN = 0.8
"""Least overlap of the heights of a thing and its holder."""
NO_LARGER = 1.1
"""Largest area of a held thing, as a share of its holder's."""


def relation_holds(relation: str, subject_box: Box, object_box: Box) -> bool:
    """Whether the boxes are as the relation has them.

    - "left of", "right of": S's centre is on that side of O's; the widths overlap by at most `APART`; the heights
      overlap at all.
    - "next to": one of these, with heights that overlap by at least `SIDE_BY_SIDE`, no farther off than `NEAR`.
    - "facing": next to each other at one height (`ONE_HEIGHT`). Which way they look is not tested.
    - "above": S's centre is above O's; the heights overlap by at most `APART`; the widths overlap at all.
    - "riding": S's centre is above O's, in line with it (`IN_LINE`); S's lower edge is between O's upper edge and
      `REACH` below it.
    - "holding": O touches S or overlaps it, is no larger (`NO_LARGER`), at S's side (`ASIDE`), at its height
      (`ONE_HEIGHT`, `WITHIN`). Whether it is in a hand is not tested.
    - "behind": the boxes overlap, at each other's side (`ASIDE`), S's centre above O's, so farther off on common
      ground. That O hides a part of S is not tested.
    - "in front of": the same with S and O exchanged.

    Raises:
        ValueError: an unknown relation, or a box without area.
    """
    pair = np.asarray([subject_box, object_box], np.float64)
    return bool(_holds(relation, pair[0], pair[1]))


def relation_chance(relation: str, boxes: Sequence[tuple[Box, Box]]) -> float | None:
    """How often the relation holds between things that know nothing of each other: its chance level.

    The share of ordered pairs of a subject's box in one image and an object's box in *another* in which it holds.
    Where things are by habit is kept; what the two of one image have to do with each other is not.

    Args:
        relation: the relation.
        boxes: the subject's and the object's box by image. Of images that were asked for this relation, obedience
            would count as habit: take those that were asked for others.

    Returns:
        A share 0..1; None for fewer than two images.

    Raises:
        ValueError: as `relation_holds`.
    """
    if len(boxes) < 2:
        return None
    pairs = np.asarray(boxes, np.float64)  # (N, 2, 4)
    holds = _holds(relation, pairs[:, None, 0], pairs[None, :, 1])  # (N, N)
    return float(holds[~np.eye(len(pairs), dtype=np.bool_)].mean())


def _holds(relation: str, s: FloatArray, o: FloatArray) -> BoolArray:
    """For boxes (..., 4) of subjects and objects, broadcast against each other: bool (...)."""
    if relation not in RELATIONS:
        raise ValueError(f"'{relation}' is no relation that boxes can show: expected one of {RELATIONS}")
    size_s, size_o = s[..., 2:] - s[..., :2], o[..., 2:] - o[..., :2]  # (..., 2): across, down
    if not ((size_s > 0).all() and (size_o > 0).all()):
        raise ValueError("a box without area: expected left < right and top < bottom")
    longer = size_s.max(-1, keepdims=True) + size_o.max(-1, keepdims=True)
    dx, dy = np.moveaxis((s[..., :2] + s[..., 2:] - o[..., :2] - o[..., 2:]) / longer, -1, 0)
    shared = np.minimum(s[..., 2:], o[..., 2:]) - np.maximum(s[..., :2], o[..., :2])
    across, down = np.moveaxis(shared / np.minimum(size_s, size_o), -1, 0)
    beside = (across <= APART) & (down > 0)
    neighbours = beside & (down >= SIDE_BY_SIDE) & (abs(dx) <= NEAR)
    overlapping = (across > 0) & (down > 0) & (abs(dx) >= ASIDE)
    held: BoolArray
    match relation:
        case "left of":
            held = beside & (dx < 0)
        case "right of":
            held = beside & (dx > 0)
        case "next to":
            held = neighbours
        case "facing":
            held = neighbours & (abs(dy) <= ONE_HEIGHT)
        case "above":
            held = (down <= APART) & (across > 0) & (dy < 0)
        case "riding":
            reach = (s[..., 3] - o[..., 1]) / size_o[..., 1]
            held = (dy < 0) & (abs(dx) <= IN_LINE) & (reach >= 0) & (reach <= REACH)
        case "holding":
            no_larger = size_o.prod(-1) <= NO_LARGER * size_s.prod(-1)
            at_its_height = (abs(dy) <= ONE_HEIGHT) & (down >= WITHIN)
            held = no_larger & (across >= 0) & (abs(dx) >= ASIDE) & at_its_height
        case "behind":
            held = overlapping & (dy < 0)
        case "in front of":
            held = overlapping & (dy > 0)
    return held
