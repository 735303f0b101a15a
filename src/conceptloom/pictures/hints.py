"""What a user says about where one concept is in one picture: a mask, a box or strokes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from conceptloom.errors import PictureError
from conceptloom.pictures.decoding import read_marks
from conceptloom.pictures.framing import square_frame_share

BoolArray = npt.NDArray[np.bool_]

GREY = (128, 128, 128)
"""Seen where a file of strokes is transparent: it says nothing."""
_DARKEST_WHITE, _LIGHTEST_BLACK = 224, 31
"""A stroke may have soft edges, but not be mistaken for grey."""


@dataclass(frozen=True, eq=False)
class Hint:
    """Pixels that are the concept and pixels that are not, bool (H, W) each and disjoint; of others nothing is said."""

    is_it: BoolArray
    is_not: BoolArray

    def __post_init__(self) -> None:
        assert self.is_it.shape == self.is_not.shape, f"{self.is_it.shape} and {self.is_not.shape} differ"
        assert not (self.is_it & self.is_not).any(), "a pixel can't be the concept and not be it"

    def framed(self, side: int) -> Hint:
        """The hint as `square_frame` shows its picture, (side, side).

        A pixel says what most of its area says; what says nothing does not count, so that thin strokes stay.
        """
        yes, no = square_frame_share(self.is_it, side), square_frame_share(self.is_not, side)
        is_it = (yes > 0) & (yes >= no)
        return Hint(is_it, (no > 0) & ~is_it)


def box_hint(box: tuple[float, float, float, float], size: tuple[int, int]) -> Hint:
    """A box that the concept does not leave.

    Args:
        box: (left, top, right, bottom) in pixels of the picture; right and bottom are not part of it.
        size: (H, W) of the picture.

    Raises:
        PictureError: the box is empty or reaches beyond the picture.
    """
    left, top, right, bottom = box
    height, width = size
    given = ",".join(f"{value:g}" for value in box)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise PictureError(
            f"box {given} is not within the picture of {width} x {height} px: give LEFT,TOP,RIGHT,BOTTOM in its pixels"
        )
    inside = np.zeros(size, dtype=np.bool_)
    inside[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    return Hint(np.zeros(size, dtype=np.bool_), ~inside)


def load_strokes(path: str | Path, size: tuple[int, int]) -> Hint:
    """Read strokes for a picture of ``size`` (H, W): white is the concept, black is not, all else says nothing.

    Raises ``PictureError`` where the file cannot be read, has another size, or holds no stroke.
    """
    path = Path(path)
    pixels = read_marks(path, GREY)
    if pixels.shape[:2] != size:
        height, width = pixels.shape[:2]
        raise PictureError(
            f"strokes {path} are {width} x {height} px, the picture {size[1]} x {size[0]}: save them at its size"
        )
    is_it: BoolArray = pixels.min(axis=2) >= _DARKEST_WHITE
    is_not: BoolArray = pixels.max(axis=2) <= _LIGHTEST_BLACK
    if not (is_it.any() or is_not.any()):
        raise PictureError(
            f"strokes {path} hold neither white nor black: paint white where the concept is, black where it is not,"
            " on a grey or transparent ground"
        )
    return Hint(is_it, is_not)


def combined(first: Hint, second: Hint) -> Hint:
    """What both say together.

    Raises:
        PictureError: one calls a pixel the concept and the other one does not.
    """
    is_it, is_not = first.is_it | second.is_it, first.is_not | second.is_not
    both = int(np.count_nonzero(is_it & is_not))
    if both:
        raise PictureError(
            f"its hints disagree about {both} pixels: keep masks, boxes and strokes of a concept consistent"
        )
    return Hint(is_it, is_not)
