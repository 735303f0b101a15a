"""Pictures made ready for learning: the model's square view, cached latent moments, prompts, mask grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from conceptloom.backbone import Backbone, Moments
from conceptloom.concepts import Concept
from conceptloom.errors import PictureError
from conceptloom.learning.config import CRFSettings
from conceptloom.learning.draws import Source
from conceptloom.learning.phrases import LoosePrompt, names_a_side, split_prompt, subset_prompt
from conceptloom.learning.request import LearningPicture, LearnRequest
from conceptloom.learning.torch_crf import crf_on
from conceptloom.masks import DenseCRF, Held, area_to_grid, hard_grid
from conceptloom.pictures import Hint, square_frame, square_frame_mask


@dataclass(frozen=True, eq=False)
class LearningExample:
    """One picture as the learner sees it."""

    name: str
    frame: npt.NDArray[np.uint8]
    """(side, side, 3) sRGB, the model's square view."""
    picture_size: tuple[int, int]
    """(H, W) of the user's picture."""
    moments: Moments
    """Latent moments, batch 2: plain, mirrored."""
    concepts: tuple[Concept, ...]
    own_prompt: LoosePrompt | None
    may_flip: bool
    given_masks: npt.NDArray[np.bool_] | None
    """(K, side, side) the user's masks, with method gt."""
    held: Held | None
    """What the user said of where the concepts are, (K, side, side); None where nothing."""
    crf_settings: CRFSettings

    @cached_property
    def crf(self) -> DenseCRF:
        """The picture's DenseCRF; its lattices are built once."""
        return crf_on(self.moments.mean.device, self.frame, self.crf_settings.crf_config())

    @property
    def source(self) -> Source:
        """What a draw must know of this picture."""
        return Source(len(self.concepts), self.may_flip)

    def prompt(self, concepts: Sequence[int]) -> str:
        """Prompt naming the concepts of these indices."""
        return subset_prompt(self.own_prompt, [self.concepts[index] for index in concepts])

    @property
    def full_prompt(self) -> str:
        """Prompt naming every concept of the picture."""
        return self.prompt(range(len(self.concepts)))


@dataclass(frozen=True, eq=False)
class MaskGrids:
    """One picture's masks on the grids the losses use."""

    masks: npt.NDArray[np.bool_]
    """(K, side, side)."""
    latent: npt.NDArray[np.bool_]
    """(K, h, w): by area, cut at 0.5, never without a cell."""
    attention: Tensor
    """(K, n, n) float32: covered share of each cell (Eq. 4)."""
    _unions: dict[tuple[int, ...], Tensor] = field(default_factory=dict, init=False)

    def union(self, concepts: tuple[int, ...]) -> Tensor:
        """(h, w) bool: the union of these concepts' masks by area, cut at 0.5, and what each has alone (Eq. 3)."""
        key = tuple(sorted(concepts))
        if key not in self._unions:
            chosen = list(key)
            whole = np.logical_or.reduce(self.masks[chosen], axis=0, keepdims=True)
            cells = hard_grid(whole, self.latent.shape[1:])[0] | self.latent[chosen].any(axis=0)
            self._unions[key] = torch.from_numpy(cells).to(self.attention.device)
        return self._unions[key]


def prepare_examples(request: LearnRequest, backbone: Backbone) -> tuple[LearningExample, ...]:
    """Frame and encode every picture of `request`, one at a time so that memory does not grow with their number."""
    return tuple(_prepare(entry, request, backbone) for entry in request.pictures)


def require_inside(request: LearnRequest, side: int) -> None:
    """Raise `PictureError` where a mask or hint leaves its concept no place in the square that the model sees."""
    for entry in request.pictures:
        _given_masks(entry, request, side)
        _held(entry, side)


def mask_grids(
    masks: npt.NDArray[np.bool_],
    latent_side: int,
    attention_side: int,
    device: torch.device,
    targets: npt.NDArray[np.float32] | None = None,
) -> MaskGrids:
    """Bring masks (K, H, W) to the latent grid and to the grid of Eq. 4's attention maps.

    Eq. 4 takes other `targets` (K, H, W) in 0..1 than the masks where they are given.
    """
    attention = area_to_grid(masks if targets is None else targets, (attention_side, attention_side))
    return MaskGrids(
        masks,
        hard_grid(masks, (latent_side, latent_side)),
        torch.from_numpy(np.ascontiguousarray(attention, dtype=np.float32)).to(device),
    )


def _prepare(entry: LearningPicture, request: LearnRequest, backbone: Backbone) -> LearningExample:
    picture = entry.picture
    frame = square_frame(picture.pixels, backbone.size)
    both = np.stack([frame, frame[:, ::-1]])  # (2, side, side, 3)
    height, width = picture.pixels.shape[:2]
    return LearningExample(
        name=picture.name,
        frame=frame,
        picture_size=(height, width),
        moments=backbone.encode_moments(both),
        concepts=tuple(request.concept(name) for name in entry.concepts),
        own_prompt=None if entry.prompt is None else split_prompt(entry.prompt),
        may_flip=not names_a_side(entry.prompt),
        given_masks=_given_masks(entry, request, backbone.size),
        held=_held(entry, backbone.size),
        crf_settings=request.config.crf,
    )


def _given_masks(entry: LearningPicture, request: LearnRequest, side: int) -> npt.NDArray[np.bool_] | None:
    if request.config.method != "gt":
        return None
    return np.stack([_framed_mask(entry, name, side) for name in entry.concepts])


def _held(entry: LearningPicture, side: int) -> Held | None:
    hints = {name: hint.framed(side) for name, hint in entry.picture.hints.items()}
    if not hints:
        return None
    for name, hint in hints.items():
        if hint.is_not.all():
            raise PictureError(
                f"the hints for '{name}' in '{entry.picture.name}' leave it no place in the centre square the model"
                " sees: crop the picture so that the concept is inside it"
            )
    nothing = np.zeros((side, side), dtype=np.bool_)
    said = [hints.get(name, Hint(nothing, nothing)) for name in entry.concepts]
    return Held(np.stack([hint.is_it for hint in said]), np.stack([hint.is_not for hint in said]))


def _framed_mask(entry: LearningPicture, name: str, side: int) -> npt.NDArray[np.bool_]:
    mask = square_frame_mask(entry.picture.masks[name], side)
    if not mask.any():
        raise PictureError(
            f"the mask of '{name}' in '{entry.picture.name}' lies outside the centre square the model sees:"
            " crop the picture so that the concept is inside it"
        )
    return mask
