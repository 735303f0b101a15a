"""Descending a loss: AdamW at a constant rate, clipped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import Parameter

from conceptloom.backbone import telling_of_memory
from conceptloom.learning.objective import Objective

WEIGHT_DECAY = 0.01
"""Of the model's weights, AdamW's customary value; placeholder rows have none."""

HALF_LOSS_SCALE = 1024.0
"""Keeps float16 gradients of a mean-squared error above the smallest float16 number."""


class Descent:
    """Optimiser of the placeholder rows and, where they train, of the model's weights; all of them float32."""

    def __init__(
        self,
        rows: Sequence[Parameter],
        weights: Sequence[Parameter],
        lr: float,
        clip_norm: float,
        compute_dtype: torch.dtype,
    ) -> None:
        self._parameters = [*rows, *weights]
        self._clip_norm = clip_norm
        self._loss_scale = HALF_LOSS_SCALE if compute_dtype == torch.float16 else 1.0
        groups = [
            {"params": list(rows), "weight_decay": 0.0},
            {"params": list(weights), "weight_decay": WEIGHT_DECAY},
        ]
        self._optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=lr)

    def descend(self, losses: Iterable[Tensor]) -> float:
        """One step down the sum of `losses`, scalars with a graph each, which is let go of before the next is made.

        Returns:
            The gradient's norm before clipping; NaN where it or a loss is not finite: then nothing has moved.

        Raises:
            DeviceError: no memory for the optimiser's own state. (Where it does not suffice for a loss, its error is
                passed on and nothing has moved.)
        """
        self._optimizer.zero_grad()
        value = 0.0
        for loss in losses:
            # Gradients of what this optimiser does not move are neither computed nor left behind.
            (loss * self._loss_scale).backward(inputs=self._parameters)
            value += float(loss.detach())
        if self._loss_scale != 1.0:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad /= self._loss_scale
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm))
        is_finite = math.isfinite(norm) and math.isfinite(value)
        if is_finite:
            device = self._parameters[0].device
            advice = "train lora, kv or tokens, not full (in a --config file)"
            with telling_of_memory(device, "the optimiser's step", advice):
                self._optimizer.step()
        self._optimizer.zero_grad()
        return norm if is_finite else math.nan

    def state(self) -> dict[str, Tensor]:
        """AdamW's moments and step counts by parameter index, as "0.exp_avg"; the next step changes them."""
        return {
            f"{index}.{name}": value.detach()
            for index, parameter in enumerate(self._parameters)
            for name, value in self._optimizer.state.get(parameter, {}).items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `state()` of an optimiser over the same parameters."""
        for key, value in tensors.items():
            index, _, name = key.partition(".")
            parameter = self._parameters[int(index)]
            device = "cpu" if name == "step" else parameter.device
            self._optimizer.state[parameter][name] = value.to(device, copy=True)


def descend(descent: Descent, objectives: Iterable[Objective]) -> Objective:
    """One step down the sum of `objectives`; returns the sum, without graph and with its gradient's norm."""
    summands: list[Objective] = []

    def losses() -> Iterator[Tensor]:
        for objective in objectives:
            summands.append(replace(objective, loss=objective.loss.detach()))
            yield objective.loss

    norm = descent.descend(losses())
    parts: dict[str, float] = {}
    for summand in summands:
        for name, value in summand.parts.items():
            parts[name] = parts.get(name, 0.0) + value
    maps = [summand.maps for summand in summands if summand.maps is not None]
    loss = torch.stack([summand.loss for summand in summands]).sum()
    return Objective(loss, parts, torch.cat(maps) if maps else None, norm)


def limit_norms(rows: Tensor, limit: float) -> list[int]:
    """Shorten the rows (R, D) that are longer than `limit`, in place; returns which."""
    norms = rows.norm(dim=1)
    long = (norms > limit).nonzero().flatten()
    rows[long] *= (limit / norms[long]).unsqueeze(1)
    return [int(row) for row in long]
