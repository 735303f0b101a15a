"""The losses under the paper's equation numbers. Axis legend: B batch, K concepts, c channels, h w latent cells."""

from __future__ import annotations

import torch
from torch import Tensor

from conceptloom.learning.config import MaskLossNorm


def denoising_loss(model_pred: Tensor, target: Tensor) -> Tensor:
    """Eq. 1, `L_LDM = E || eps - eps_theta(z_t, t, y) ||^2`, as a mean over channels and cells.

    Args:
        model_pred: (B, c, h, w) the U-Net's output.
        target: (B, c, h, w) what the base model's `prediction_type` regresses to.

    Returns:
        (B,) float32, one loss per batch element.
    """
    return (model_pred.float() - target.float()).square().mean(dim=(1, 2, 3))


def masked_denoising_loss(model_pred: Tensor, target: Tensor, union: Tensor, norm: MaskLossNorm) -> Tensor:
    """Eq. 3, `L_mask = E || eps * M - eps_theta(z_t, t) * M ||^2`, M the union of the prompt's masks.

    Args:
        model_pred: (B, c, h, w) the U-Net's output.
        target: (B, c, h, w) regression target.
        union: (B, h, w) 0 or 1 per latent cell; at least one cell is 1.
        norm: "paper" = mean over all cells, so a small concept weighs little; "area" = mean over M's cells;
            "none" = Eq. 1, M is not looked at.

    Returns:
        (B,) float32, one loss per batch element.
    """
    if norm == "none":
        return denoising_loss(model_pred, target)
    mask = union.to(torch.float32).unsqueeze(1)  # (B, h, w) -> (B, 1, h, w)
    error = ((model_pred.float() - target.float()) * mask).square()
    if norm == "paper":
        return error.mean(dim=(1, 2, 3))
    return error.sum(dim=(1, 2, 3)) / (mask.sum(dim=(1, 2, 3)) * model_pred.shape[1])


def attention_loss(maps: Tensor, masks: Tensor, present: Tensor) -> Tensor:
    """Eq. 4, `L_attn = E || C_attn(z_t, y_i) - M_i ||^2`, mean over cells, summed over the prompt's concepts.

    Each map is divided by its own maximum, through which the gradient flows too.

    Args:
        maps: (B, K, n) attention of each concept over the n cells of a grid, >= 0.
        masks: (B, K, n) share of each cell that the concept's mask covers, in [0, 1].
        present: (B, K) bool, False where a batch element's prompt has fewer than K concepts.

    Returns:
        (B,) float32, one loss per batch element.
    """
    maps = maps.float()
    tiny = torch.finfo(torch.float32).tiny
    normalised = maps / maps.amax(dim=-1, keepdim=True).clamp_min(tiny)
    error = (normalised - masks.float()).square().mean(dim=-1)  # (B, K, n) -> (B, K)
    return torch.where(present, error, torch.zeros_like(error)).sum(dim=-1)
