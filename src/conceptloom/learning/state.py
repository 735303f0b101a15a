"""What changes while a run learns, and its way into a checkpoint and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import Parameter

from conceptloom.learning.checkpoint import Checkpoint
from conceptloom.learning.e_step import RunningAverages
from conceptloom.learning.example import MaskGrids, mask_grids
from conceptloom.learning.optimisation import Descent
from conceptloom.learning.progress import Stage
from conceptloom.learning.weights import TrainedWeights

LEARNING_STAGES: tuple[Stage, ...] = ("tokens", "masks", "em", "joint")


class LearningState:
    """Rows, masks, optimisers, running averages and counters of one run."""

    def __init__(
        self, rows: Tensor, weights: TrainedWeights | None, latent_side: int, attention_side: int
    ) -> None:
        self.rows = Parameter(rows)
        self.weights = weights
        self.done: dict[Stage, int] = dict.fromkeys(LEARNING_STAGES, 0)
        self.masks: list[npt.NDArray[np.bool_]] = []
        self.grids: list[MaskGrids] = []
        self.affinities: dict[int, npt.NDArray[np.float32]] = {}
        """Self-attention by picture, where maps are propagated."""
        self.averages: RunningAverages | None = None
        self.rescues: dict[str, dict[str, int]] = {}
        self.calm_e_steps = 0
        """E-steps in a row that hardly changed a mask."""
        self.loss_on_others: float | None = None
        """Denoising loss on images of other nouns before any weight moved."""
        self.is_thrifty = False
        """Whether memory ran out once, see `Material.is_thrifty`."""
        self.skipped_steps = 0
        """Steps that were not finite and moved nothing."""
        self.skipped_in_a_row = 0
        self.limited: dict[str, int] = {}
        """Steps by concept after which a row of it was shortened to the longest that is allowed."""
        self.descents: dict[str, Descent] = {}
        self._stage: Stage = "tokens"
        self._stored_stage: Stage | None = None
        self._stored_descents: dict[str, dict[str, Tensor]] = {}
        self._sides = (latent_side, attention_side)

    def enter(self, stage: Stage, descents: Mapping[str, Descent]) -> None:
        """Begin `stage` with its own optimisers, or go on with those a checkpoint of this stage holds."""
        self._stage, self.descents = stage, dict(descents)
        if stage == self._stored_stage:
            for name, tensors in self._stored_descents.items():
                self.descents[name].load(tensors)
            self._stored_stage, self._stored_descents = None, {}

    def set_masks(
        self,
        picture: int,
        masks: npt.NDArray[np.bool_],
        targets: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Give one picture new masks, (K, side, side), and Eq. 4 other targets than these where they are given."""
        grids = mask_grids(masks, *self._sides, self.rows.device, targets)
        if picture == len(self.masks):
            self.masks.append(masks)
            self.grids.append(grids)
        else:
            self.masks[picture], self.grids[picture] = masks, grids

    def checkpoint(self, description: Mapping[str, Any]) -> Checkpoint:
        """Everything a resumed run needs to go on bit by bit; not copied, to be written before the next step."""
        tensors: dict[str, Tensor] = {"rows": self.rows}
        for name, descent in self.descents.items():
            tensors |= {f"descent.{name}.{key}": value for key, value in descent.state().items()}
        if self.weights is not None:
            tensors |= {f"weights.{key}": value for key, value in self.weights.state().items()}
        for picture, masks in enumerate(self.masks):
            tensors[f"masks.{picture}"] = torch.from_numpy(masks.astype(np.uint8))
            tensors[f"targets.{picture}"] = self.grids[picture].attention
        for picture, affinity in self.affinities.items():
            tensors[f"affinities.{picture}"] = torch.from_numpy(affinity)
        if self.averages is not None:
            for name, arrays in vars(self.averages).items():
                for picture, array in enumerate(arrays):
                    tensors[f"averages.{name}.{picture}"] = torch.from_numpy(array.copy())
        state = {
            "stage": self._stage,
            "done": self.done,
            "rescues": self.rescues,
            "calm_e_steps": self.calm_e_steps,
            "loss_on_others": self.loss_on_others,
            "is_thrifty": self.is_thrifty,
            "skipped_steps": self.skipped_steps,
            "skipped_in_a_row": self.skipped_in_a_row,
            "limited": self.limited,
        }
        return Checkpoint(sum(self.done.values()), tensors, state, description)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint's state; optimisers follow when their stage is entered."""
        tensors, state = checkpoint.tensors, checkpoint.state
        self.rows.data.copy_(tensors["rows"])
        self._stage = self._stored_stage = state["stage"]
        self.done = {stage: int(state["done"][stage]) for stage in LEARNING_STAGES}
        self.loss_on_others = state["loss_on_others"]
        self.calm_e_steps = int(state["calm_e_steps"])
        self.is_thrifty = bool(state["is_thrifty"])
        self.skipped_steps, self.skipped_in_a_row = (
            int(state["skipped_steps"]),
            int(state["skipped_in_a_row"]),
        )
        self.limited = dict(state["limited"])
        self.rescues = {picture: dict(counts) for picture, counts in state["rescues"].items()}
        for key, value in _under("descent", tensors).items():
            name, _, inner = key.partition(".")
            self._stored_descents.setdefault(name, {})[inner] = value
        trained = _under("weights", tensors)
        if self.weights is not None and trained:
            self.weights.begin()
            self.weights.load(trained)
        masks = _under("masks", tensors)
        targets = _under("targets", tensors)
        for picture in range(len(masks)):
            self.set_masks(picture, masks[str(picture)].numpy().astype(np.bool_))
            stored = targets[str(picture)].to(self.rows.device)
            self.grids[picture] = replace(self.grids[picture], attention=stored)
        self.affinities = {
            int(picture): value.numpy().copy() for picture, value in _under("affinities", tensors).items()
        }
        averages = {name: _under(f"averages.{name}", tensors) for name in ("sums", "weights", "counts")}
        if averages["sums"]:
            lists = {
                name: [stored[str(picture)].numpy().copy() for picture in range(len(masks))]
                for name, stored in averages.items()
            }
            self.averages = RunningAverages(**lists)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
