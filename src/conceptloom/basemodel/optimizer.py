"""The optimiser of every training here: Muon for weight matrices and kernels, AdamW for the rest."""

from __future__ import annotations

import torch
from pytorch_optimizer import Muon
from torch import nn


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
            # The same update from the small Gram matrices of wide kernels: half the time (docs/LOG.md).
            "ns_method": "gram_newton_schulz",
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
    optimizer: torch.optim.Optimizer = Muon(groups, foreach=True)
    return optimizer


def scale_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to ``factor`` times its full rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
