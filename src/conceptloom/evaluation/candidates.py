"""Where in an image a learned concept may be: what a detector finds, or windows laid over it where none fits.

Axes: N candidates, D embedding, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from conceptloom.evaluation.relations import Box
from conceptloom.judges.detector import GREY, Detections, Floats, Pixels
from conceptloom.judges.features import FeatureJudge

WINDOW_SHARES = (3 / 4, 1 / 2, 1 / 3)
"""Sides of the windows, as shares of the image's shorter side."""


class Looker(Protocol):
    """A detector of known drawings, as `judges.Judge` is."""

    def detect(self, pixels: Pixels) -> Detections:
        """What it sees in a picture (H, W, 3)."""
        ...

    def background(self, pixels: Pixels) -> dict[str, float]:
        """The probability of each word for what is behind the drawings."""
        ...


@dataclass(frozen=True, eq=False)
class Candidates:
    """Places in one image that may show a concept.

    Attributes:
        boxes: (N, 4) left, top, right, bottom in pixels.
        embeddings: (N, D) unit vectors of what is in them.
        whole: (D,) of the whole image.
        behind: (D,) of the image with what was detected greyed out; the whole image where nothing detects.
        detections: what the detector says of each; None for windows, of which nobody says anything.
    """

    boxes: Floats
    embeddings: Floats
    whole: Floats
    behind: Floats
    detections: Detections | None

    def box(self, index: int) -> Box:
        """One candidate's box."""
        left, top, right, bottom = self.boxes[index].tolist()
        return left, top, right, bottom


def find_candidates(pixels: Pixels, looker: Looker | None, features: FeatureJudge) -> Candidates:
    """What the looker detects in an image (H, W, 3), or its `windows` where there is no looker.

    Detections less than a pixel wide or high are dropped.
    """
    if looker is None:
        boxes = windows(pixels.shape[:2])
        found = features.embed([pixels, *(pixels[_slices(box)] for box in boxes)])
        return Candidates(boxes, found[1:], found[0], found[0], None)
    detections = _with_area(looker.detect(pixels))
    behind = pixels.copy()
    for box in detections.boxes:
        behind[_slices(box)] = GREY
    found = features.embed([pixels, behind, *(pixels[_slices(box)] for box in detections.boxes)])
    return Candidates(detections.boxes, found[2:], found[0], found[1], detections)


def windows(size: tuple[int, int]) -> Floats:
    """Square windows (N, 4) over a picture of `size` (H, W) at three scales (`WINDOW_SHARES`).

    Those of one scale overlap their neighbours by half or a little more and reach all four edges.
    """
    height, width = size
    found = []
    for share in WINDOW_SHARES:
        side = max(1, round(share * min(size)))
        tops, lefts = (_starts(length, side) for length in (height, width))
        found += [(left, top, left + side, top + side) for top in tops for left in lefts]
    return np.asarray(found, np.float32)


def _starts(length: int, side: int) -> list[int]:
    count = -(-2 * (length - side) // side) + 1
    return [round(start) for start in np.linspace(0, length - side, count).tolist()]


def _slices(box: Floats) -> tuple[slice, slice]:
    left, top = np.floor(box[:2]).astype(int).tolist()
    right, bottom = np.ceil(box[2:]).astype(int).tolist()
    return slice(max(top, 0), bottom), slice(max(left, 0), right)


def _with_area(found: Detections) -> Detections:
    kept = ((found.boxes[:, 2:] - found.boxes[:, :2]) >= 1).all(axis=1)
    return Detections(
        found.sprites,
        found.boxes[kept],
        found.objectness[kept],
        found.scores[kept],
        found.intact[kept],
        found.confidence[kept],
        found.unknown[kept],
        found.embeddings[kept],
    )
