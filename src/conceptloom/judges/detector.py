"""A built-in judge: which known drawings a picture holds, where, how sure it is, and what is behind them.

Two of them ship. ``selector`` may choose among generations; ``examiner`` only measures, so nothing that makes or
chooses pictures may load it. Architecture, seed and augmentations differ, so that one's mistakes are not the other's.

Axes: N detections, S known drawings, D embedding, H W pixels, h w cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from conceptloom.judges.networks import STRIDE, JudgeNetwork, Thresholds, load_network

JudgeName = Literal["examiner", "selector"]
JUDGES: tuple[JudgeName, ...] = ("examiner", "selector")
MOST_DETECTIONS = 12
SAME_PLACE_IOU = 0.6
GREY = 128
CROP_SHARE = 0.45
"""The longer side of a crop that `Judge.describe` looks at, as a share of the picture: a usual size of a drawing."""

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Detections:
    """What a judge sees in one picture, the surest first.

    ``boxes`` (N, 4): left, top, right, bottom in pixels of the picture; ``objectness`` (N,) in [0, 1];
    ``scores`` (N, S): probability of each drawing in ``sprites`` if it is one of them; ``intact`` (N,): probability
    that it is a whole drawing and not a damaged one or a fusion of several; ``confidence`` (N,): the best score times
    ``intact``; ``unknown`` (N,): confidence below the judge's threshold; ``embeddings`` (N, D): unit vectors.
    """

    sprites: tuple[str, ...]
    boxes: Floats
    objectness: Floats
    scores: Floats
    intact: Floats
    confidence: Floats
    unknown: NDArray[np.bool_]
    embeddings: Floats

    def __len__(self) -> int:
        return len(self.boxes)

    def names(self) -> tuple[str | None, ...]:
        """For each detection the best drawing as ``noun/family``; None where it is unknown."""
        best = self.scores.argmax(1) if len(self) else []
        return tuple(
            None if unknown else self.sprites[int(index)]
            for index, unknown in zip(best, self.unknown, strict=True)
        )

    def by_noun(self) -> dict[str, Floats]:
        """The probability (N,) of each noun: the sum over its drawings, which exclude one another."""
        return self._summed(0)

    def by_family(self) -> dict[str, Floats]:
        """The probability (N,) of each style: the sum over the drawings of that family."""
        return self._summed(1)

    def _summed(self, part: int) -> dict[str, Floats]:
        words = [sprite.split("/")[part] for sprite in self.sprites]
        return {
            word: self.scores[:, [index for index, own in enumerate(words) if own == word]].sum(1)
            for word in sorted(set(words))
        }


class Judge:
    """A trained network with its thresholds; looks at one picture (H, W, 3) uint8 at a time."""

    def __init__(self, network: JudgeNetwork, thresholds: Thresholds | None = None) -> None:
        self.network = network.eval().requires_grad_(False)
        self.thresholds = thresholds or Thresholds()
        self.sprites = network.vocabulary.sprites
        self.backgrounds = network.vocabulary.backgrounds
        self.side_px = network.config.side_px

    def detect(self, pixels: Pixels) -> Detections:
        """Every drawing in the picture, by falling objectness; at most `MOST_DETECTIONS`."""
        image, scale = _square(pixels, self.side_px)
        with torch.inference_mode():
            maps = self.network(_model_input(image))
            boxes, heat = decode(maps.heat[0].sigmoid(), maps.edges[0], self.thresholds.object)
            embeddings, intact = self.network.identify(maps.features, boxes[None])
            scores = self.network.names(embeddings[0]).softmax(-1).numpy()
        whole = intact[0].sigmoid().numpy()
        confidence = scores.max(1, initial=0.0) * whole
        height, width = pixels.shape[:2]
        return Detections(
            sprites=self.sprites,
            boxes=np.clip(boxes.numpy() / scale, 0, [width, height, width, height]).astype(np.float32),
            objectness=heat.numpy(),
            scores=scores,
            intact=whole,
            confidence=confidence,
            unknown=confidence < self.thresholds.known,
            embeddings=embeddings[0].numpy(),
        )

    def describe(self, pixels: Pixels, mask: NDArray[np.bool_] | None = None) -> Floats:
        """The unit embedding (D,) of a crop, or of what ``mask`` (H, W) covers, on grey: of its look, not its place.

        Raises ``ValueError`` for an empty mask.
        """
        crop = pixels if mask is None else masked_crop(pixels, mask)
        longest = round(CROP_SHARE * self.side_px)
        small = _resized(crop, longest / max(crop.shape[:2]))
        height, width = small.shape[:2]
        top, left = (self.side_px - height) // 2, (self.side_px - width) // 2
        canvas = np.full((self.side_px, self.side_px, 3), GREY, np.uint8)
        canvas[top : top + height, left : left + width] = small
        box = torch.tensor([[[left, top, left + width, top + height]]], dtype=torch.float32)
        with torch.inference_mode():
            features = self.network(_model_input(canvas)).features
            embeddings, _ = self.network.identify(features, box)
        found: Floats = embeddings[0, 0].numpy()
        return found

    def background(self, pixels: Pixels) -> dict[str, float]:
        """The probability of each word for what is behind the drawings."""
        image, _ = _square(pixels, self.side_px)
        with torch.inference_mode():
            probabilities = self.network(_model_input(image)).background[0].softmax(-1)
        return dict(zip(self.backgrounds, probabilities.tolist(), strict=True))

    def overview(self, pixels: Pixels) -> Floats:
        """Features (P,) of the picture as a whole, for distances between sets of pictures."""
        image, _ = _square(pixels, self.side_px)
        with torch.inference_mode():
            found: Floats = self.network(_model_input(image)).pooled[0].numpy()
        return found


def judge_folder(name: JudgeName) -> Path:
    """Where a judge lies inside the package."""
    return Path(str(files("conceptloom") / "data" / "judges" / name))


def load_judge(name: JudgeName, folder: Path | None = None) -> Judge:
    """The judge that ships under ``name``, or the one in ``folder``. Raises ``DataError`` when it cannot be read."""
    return Judge(*load_network(folder or judge_folder(name)))


def decode(heat: Tensor, edges: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) in pixels and their heat (N,) from heat (h, w) in [0, 1] and distances to edges (4, h, w).

    A drawing is a cell that no neighbour exceeds and whose heat is at least ``least``. Of two boxes that overlap by
    more than `SAME_PLACE_IOU` the hotter one stays.
    """
    peaks = heat * (F.max_pool2d(heat[None, None], 3, 1, 1)[0, 0] == heat)
    hottest, cells = peaks.flatten().topk(min(4 * MOST_DETECTIONS, peaks.numel()))
    cells = cells[hottest >= least]
    y, x = cells // heat.shape[1], cells % heat.shape[1]
    left, top, right, bottom = edges[:, y, x]
    cx, cy = (x + 0.5) * STRIDE, (y + 0.5) * STRIDE
    boxes = torch.stack([cx - left, cy - top, cx + right, cy + bottom], 1)
    kept = _apart(boxes)
    return boxes[kept], heat[y, x][kept]


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of every box (N, 4) with every other (M, 4): (N, M)."""
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clamp_min(0).prod(-1)
    area, other_area = ((b[:, 2:] - b[:, :2]).clamp_min(0).prod(-1) for b in (boxes, others))
    return shared / (area[:, None] + other_area[None] - shared).clamp_min(1e-6)


def masked_crop(pixels: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """The smallest crop that holds ``mask`` (H, W), grey outside it. Raises ``ValueError`` for an empty mask."""
    if mask.shape != pixels.shape[:2]:
        raise ValueError(f"the mask is {mask.shape}, the picture {pixels.shape[:2]}")
    if not mask.any():
        raise ValueError("nothing to describe: the mask is empty")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return np.where(mask[window][..., None], pixels[window], np.uint8(GREY))


def _apart(boxes: Tensor) -> list[int]:
    """Indices of the boxes, hottest first, that no hotter kept one covers."""
    overlaps = box_iou(boxes, boxes) > SAME_PLACE_IOU
    kept: list[int] = []
    for index in range(len(boxes)):
        if len(kept) < MOST_DETECTIONS and not overlaps[index, kept].any():
            kept.append(index)
    return kept


def _square(pixels: Pixels, side: int) -> tuple[Pixels, float]:
    """The picture at the judge's side, grey below or to the right where it is not square, and the scale."""
    scale = side / max(pixels.shape[:2])
    small = _resized(pixels, scale)
    canvas = np.full((side, side, 3), GREY, np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    return canvas, scale


def _resized(pixels: Pixels, scale: float) -> Pixels:
    height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
    if (height, width) == pixels.shape[:2]:
        return pixels
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), method))


def _model_input(pixels: Pixels | Sequence[Pixels]) -> Tensor:
    """uint8 (side, side, 3), or several, to float (B, 3, side, side) in [-1, 1]."""
    batch = torch.from_numpy(np.asarray(pixels, np.uint8).copy()).float().div_(127.5).sub_(1)
    batch = batch if batch.ndim == 4 else batch[None]
    return batch.permute(0, 3, 1, 2)  # channels last in memory already
