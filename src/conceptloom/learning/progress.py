"""What a learning run reports while it runs. Events only: whoever iterates decides what to show or write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from conceptloom.concepts import ConceptSet

Stage = Literal["prior", "tokens", "masks", "em", "joint"]
STAGES: tuple[Stage, ...] = ("prior", "tokens", "masks", "em", "joint")


@dataclass(frozen=True, eq=False)
class Progress:
    """Common to all events: the stage, the steps of it that are done, and how many it has."""

    stage: Stage
    step: int
    total: int


@dataclass(frozen=True, eq=False)
class Resumed(Progress):
    """The run goes on from a checkpoint; `skipped` says which newer ones were damaged, and how."""

    skipped: tuple[str, ...] = ()
    masks: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    """As in `MasksUpdated`, by picture, where stage 2 is done."""


@dataclass(frozen=True, eq=False)
class StepDone(Progress):
    """One step is done, and all else about it has been said.

    `losses` by name ("loss", "mask", "attention", "prior"), means over the batch; those that are not finite are left
    out.
    """

    losses: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class MasksUpdated(Progress):
    """One picture has new masks (stage 2 or an E-step)."""

    picture: str
    concepts: tuple[str, ...]
    masks: npt.NDArray[np.bool_]
    """(K, side, side) in the model's square view of the picture."""
    maps: npt.NDArray[np.float32] | None
    """(K, h, w) attention the masks were made from, in latent cells; None for the user's masks."""
    overlap: tuple[float, ...]
    """IoU between each thresholded map and its refined mask."""
    rescued: tuple[str, ...]
    """Concepts whose new mask was refused."""
    collapsed: tuple[str, ...]
    """Concepts whose mask is empty, full though others are in the picture, or the same as another's."""


@dataclass(frozen=True, eq=False)
class Noticed(Progress):
    """The run goes on otherwise than it was asked to; `text` says how and why in one line."""

    text: str


@dataclass(frozen=True, eq=False)
class SamplesDrawn(Progress):
    """Sample images of the validation prompt under the present tokens and weights."""

    prompt: str
    images: npt.NDArray[np.uint8]
    """(B, H, W, 3) sRGB."""


@dataclass(frozen=True, eq=False)
class DriftMeasured(Progress):
    """Denoising loss on the base model's images of other nouns before and after, with the same noise."""

    prompts: tuple[str, ...]
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class CheckpointSaved(Progress):
    """A complete checkpoint lies in `folder`."""

    folder: Path


@dataclass(frozen=True, eq=False)
class Finished(Progress):
    """The run is over; `concept_set` is what it learned, not yet saved."""

    concept_set: ConceptSet
