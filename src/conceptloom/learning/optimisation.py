"""Descending a loss: AdamW at a constant rate, clipped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from conceptloom.errors import RunError

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

    def descend(self, loss: Tensor, where: str) -> None:
        """One step down `loss`, a scalar with a graph.

        Raises `RunError` naming the step `where` (as "EM step 37") when loss or gradient is not finite; every
        parameter is then as it was.
        """
        # Not backward(): gradients of what this optimiser does not move are neither computed nor left behind.
        gradients = torch.autograd.grad(loss * self._loss_scale, self._parameters, allow_unused=True)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = (
                gradient if gradient is None or self._loss_scale == 1.0 else gradient / self._loss_scale
            )
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm))
        value = float(loss.detach())
        if not (math.isfinite(norm) and math.isfinite(value)):
            self._optimizer.zero_grad()
            raise RunError(
                f"the loss is no longer finite at {where} (loss {value:g}, gradient norm {norm:g}):"
                " lower the rate or use --dtype float32, and start again"
            )
        self._optimizer.step()
        self._optimizer.zero_grad()

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
