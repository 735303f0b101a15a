"""The optimiser of every training here: Muon for weight matrices and kernels, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from pytorch_optimizer import Muon
from pytorch_optimizer.optimizer.utils import zero_power_via_gram_newton_schulz
from torch import Tensor, nn


class Float32Muon(Muon):
    """Muon that iterates in float32: its own float16 is twenty times slower on a CPU without it (docs/LOG.md)."""

    @staticmethod
    def _orthogonalize(group: Mapping[str, Any], updates: list[Tensor]) -> list[Tensor]:
        """The polar factors of `updates`, matrices or kernels of one shape up to transposition, flattened to 2-D.

        By Gram matrices, so that wide kernels cost half the time (docs/LOG.md), and all in one product.
        """
        matrices = [update.flatten(1) for update in updates]
        is_tall = [matrix.shape[0] > matrix.shape[1] for matrix in matrices]
        polar = partial(
            zero_power_via_gram_newton_schulz,
            num_steps=group["ns_steps"],
            weights=group["ns_coeffs"],
            dtype=torch.float32,
            reset_steps=group["ns_reset_steps"],
        )
        found = polar(
            torch.stack([one.mT if tall else one for one, tall in zip(matrices, is_tall, strict=True)])
        )
        return [one.mT if tall else one for one, tall in zip(found.unbind(), is_tall, strict=True)]


def build_optimizer(
    module: nn.Module, muon_lr: float, adamw_lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Muon on hidden matrices and convolution kernels (flattened to 2-D), AdamW on norms, biases and embeddings.

    Each group keeps its full rate under ``base_lr`` for ``scale_rates``.
    """
    embeddings = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in module.parameters():
        is_matrix = parameter.ndim >= 2 and id(parameter) not in embeddings
        (matrices if is_matrix else others).append(parameter)
    groups = [
        {
            "params": matrices,
            "use_muon": True,
            "lr": muon_lr,
            "base_lr": muon_lr,
            "weight_decay": weight_decay,
        },
        {
            "params": others,
            "use_muon": False,
            "lr": adamw_lr,
            "base_lr": adamw_lr,
            "weight_decay": 0.0,
            "betas": (0.9, 0.99),
        },
    ]
    optimizer: torch.optim.Optimizer = Float32Muon(groups, foreach=True)
    return optimizer


def scale_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to ``factor`` times its full rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
