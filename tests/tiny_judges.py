"""Judges without training, for pictures painted by hand: what they say follows from the paint.

Things are rectangles of pure colour on black; black looks like nothing and grey is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from conceptloom.judges.detector import GREY, Detections, Floats, Pixels

SPRITES = ("cat/noto", "cat/fluent", "dog/noto", "horse/noto", "horse/fluent")
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
Thing = tuple[str, tuple[int, int, int, int]]
"""A colour and where it is: left, top, right, bottom."""


def paint(*things: Thing, side: int = 40, behind: str | None = None) -> Pixels:
    """A picture with rectangles, the later ones in front."""
    canvas = np.zeros((side, side, 3), np.uint8)
    if behind is not None:
        canvas[:] = COLOURS[behind]
    for colour, (left, top, right, bottom) in things:
        canvas[top:bottom, left:right] = COLOURS[colour]
    return canvas


def box_mask(box: tuple[int, int, int, int], side: int = 40) -> npt.NDArray[np.bool_]:
    left, top, right, bottom = box
    mask = np.zeros((side, side), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


class ColourFeatures:
    """A picture's embedding is the direction of its mean colour."""

    name = "colours"

    def embed(self, pictures: Sequence[Pixels]) -> Floats:
        found = []
        for picture in pictures:
            seen = picture[(picture != GREY).any(axis=-1)].astype(np.float64)
            mean = seen.mean(axis=0) if len(seen) else np.zeros(3)
            found.append(mean / max(float(np.linalg.norm(mean)), 1e-9))
        return np.asarray(found, np.float32)


class ColourTexts(ColourFeatures):
    """Texts look like the colours they name."""

    def embed_text(self, texts: Sequence[str]) -> Floats:
        return np.concatenate(
            [
                self.embed([paint(*((word, (0, 0, 40, 40)) for word in text.split() if word in COLOURS))])
                for text in texts
            ]
        )


class PlantedLooker:
    """Sees in each picture what it was told is there; in others nothing, at the beach."""

    def __init__(self) -> None:
        self._told: dict[bytes, tuple[Detections, dict[str, float]]] = {}

    def tell(
        self, pixels: Pixels, *seen: tuple[str, tuple[int, int, int, int], float], **backgrounds: float
    ) -> Pixels:
        """Say that a picture shows drawings (name, box, probability); the rest is shared by the other drawings."""
        scores = np.zeros((len(seen), len(SPRITES)), np.float32)
        for row, (sprite, _, probability) in enumerate(seen):
            scores[row] = (1 - probability) / (len(SPRITES) - 1)
            scores[row, SPRITES.index(sprite)] = probability
        best = scores.max(axis=1, initial=0.0)
        detections = Detections(
            SPRITES,
            np.asarray([box for _, box, _ in seen], np.float32).reshape(len(seen), 4),
            np.ones(len(seen), np.float32),
            scores,
            np.ones(len(seen), np.float32),
            best,
            best < 0.5,
            np.zeros((len(seen), 2), np.float32),
        )
        self._told[pixels.tobytes()] = detections, backgrounds or {"beach": 0.6, "forest": 0.4}
        return pixels

    def detect(self, pixels: Pixels) -> Detections:
        return self._looked_up(pixels)[0]

    def background(self, pixels: Pixels) -> dict[str, float]:
        return self._looked_up(pixels)[1]

    def _looked_up(self, pixels: Pixels) -> tuple[Detections, dict[str, float]]:
        if pixels.tobytes() not in self._told:
            self.tell(pixels)
        return self._told[pixels.tobytes()]
