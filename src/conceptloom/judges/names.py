"""A judge without training: which known drawing matches a picture best by normalised cross-correlation in Lab.

Every drawing is laid over the picture at several sizes, both ways round, at every position; its score is the best
correlation. Drawing and picture are compared as differences from the mean colour of a ring around the silhouette, so
that shape counts as much as colour: a drawing that melts into what surrounds it explains nothing.
The judge knows nothing but the drawings: it can be wrong, but it cannot have been taught to agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from conceptloom.pictures.colour import rgb_to_lab
from conceptloom.scenes.sprites import Sprite

_RING_PX = 2


@dataclass(frozen=True)
class NameCheckConfig:
    """Working side of the picture and the drawings' sizes in pixels of that side."""

    side_px: int = 40
    sizes_px: tuple[int, ...] = (12, 14, 16, 18, 20, 22, 24)


class NameCheck:
    """Scores pictures against a fixed list of drawings."""

    def __init__(self, sprites: Sequence[Sprite], config: NameCheckConfig | None = None) -> None:
        self.sprites = tuple(sprites)
        self.config = config or NameCheckConfig()
        self.templates = [_templates(self.sprites, size) for size in self.config.sizes_px]

    @torch.no_grad()
    def scores(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Best correlation of every drawing in one picture (H, W, 3): shape (number of sprites,), -1 to 1."""
        side = self.config.side_px
        small = Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX)
        lab = torch.from_numpy(rgb_to_lab(np.asarray(small))).permute(2, 0, 1)  # (3, side, side)
        best = torch.full((len(self.sprites),), -1.0)
        for template in self.templates:
            correlation = _contrast_correlation(lab, template).flatten(1).view(2, len(self.sprites), -1)
            best = torch.maximum(best, correlation.amax(dim=(0, 2)))
        return best.numpy()

    def best_by_noun(self, scores: NDArray[np.float32]) -> dict[str, float]:
        """The best score among the drawings of each noun."""
        best: dict[str, float] = {}
        for sprite, score in zip(self.sprites, scores, strict=True):
            best[sprite.noun] = max(best.get(sprite.noun, -1.0), float(score))
        return best


@dataclass(frozen=True, eq=False)
class _Template:
    """Drawings of one size, both ways round: Lab inside the silhouette, the silhouette, the ring around it."""

    lab: Tensor  # (2N, 3, s, s), zero outside
    inside: Tensor  # (2N, 1, s, s)
    ring: Tensor  # (2N, 1, s, s)


def _templates(sprites: Sequence[Sprite], size: int) -> _Template:
    labs, insides = [], []
    for sprite in sprites:
        image = Image.fromarray(sprite.rgba).resize((size, size), Image.Resampling.BOX)
        rgba = np.pad(np.asarray(image), ((_RING_PX, _RING_PX), (_RING_PX, _RING_PX), (0, 0)))
        insides.append(rgba[..., 3] > 127)
        labs.append(rgb_to_lab(rgba[..., :3]) * insides[-1][..., None])
    lab = torch.from_numpy(np.stack(labs)).permute(0, 3, 1, 2)
    inside = torch.from_numpy(np.stack(insides))[:, None].float()
    lab, inside = torch.cat([lab, lab.flip(-1)]), torch.cat([inside, inside.flip(-1)])
    ring = F.max_pool2d(inside, 2 * _RING_PX + 1, 1, _RING_PX) - inside
    return _Template(lab.contiguous(), inside.contiguous(), ring.contiguous())


def _contrast_correlation(lab: Tensor, template: _Template) -> Tensor:
    """Correlation of picture and drawings after taking the ring's mean colour off both: (2N, h, w).

    With r the ring's mean, I the picture and T the drawing, sums over the silhouette:
    <I - r, T - r> / sqrt((|I - r|^2 + |I - r|^2 over the ring) |T - r|^2).
    """
    area = template.inside.sum((1, 2, 3))[:, None, None]
    ring_area = template.ring.sum((1, 2, 3)).clamp_min(1)[:, None, None]
    energy = (lab**2).sum(0)[None, None]
    channels = lab[:, None]  # (3, 1, H, W): each channel on its own
    ring_mean = F.conv2d(channels, template.ring) / ring_area  # (3, 2N, h, w)
    inside_sum = F.conv2d(channels, template.inside)
    squared_mean = (ring_mean**2).sum(0)
    colour_sum = template.lab.sum((2, 3)).T[..., None, None]  # (3, 2N, 1, 1)
    ring_colour = (ring_mean * colour_sum).sum(0)
    ring_inside = (ring_mean * inside_sum).sum(0)
    cross = F.conv2d(lab[None], template.lab)[0] - ring_colour - ring_inside + squared_mean * area
    picture = F.conv2d(energy, template.inside)[0] - 2 * ring_inside + squared_mean * area
    around = F.conv2d(energy, template.ring)[0] - squared_mean * ring_area
    drawing = (template.lab**2).sum((1, 2, 3))[:, None, None] - 2 * ring_colour + squared_mean * area
    # One squared Lab unit a pixel keeps a flat window from dividing by nothing.
    norm = (picture.clamp_min(0) + around.clamp_min(0) + area) * (drawing.clamp_min(0) + area)
    return cross / norm.sqrt()
