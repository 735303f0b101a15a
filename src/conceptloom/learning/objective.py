"""One forward pass of a batch: its loss, and the attention maps it came with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from conceptloom.backbone import Backbone, encode_prompts, record_attention
from conceptloom.learning.batches import Batch, Material, Prompts
from conceptloom.learning.config import LearnConfig
from conceptloom.learning.losses import attention_loss, denoising_loss, masked_denoising_loss


@dataclass(frozen=True, eq=False)
class Objective:
    """A batch's loss (scalar with a graph), its parts as numbers, and its maps where they were asked for."""

    loss: Tensor
    parts: Mapping[str, float]
    maps: Tensor | None = None
    """(B, K, h, w) detached, mean over heads and the chosen layers."""
    gradient_norm: float = 0.0
    """Before clipping, once it has been descended; NaN where the step was not finite and nothing moved."""

    @property
    def is_finite(self) -> bool:
        """Whether its step was finite; where it was not, nothing has moved."""
        return math.isfinite(self.gradient_norm)

    def weighed(self, weight: float) -> Objective:
        """Loss and parts times `weight`."""
        parts = {name: weight * value for name, value in self.parts.items()}
        return Objective(weight * self.loss, parts, self.maps)


def encode(backbone: Backbone, prompts: Prompts, rows: Tensor | None) -> Tensor:
    """(B, S, D) hidden states: each distinct prompt goes through the text encoder once."""
    return encode_prompts(backbone, prompts.distinct, rows)[prompts.of_element]


def concept_objective(
    material: Material, rows: Tensor | None, batch: Batch, config: LearnConfig, *, with_maps: bool = False
) -> Objective:
    """Eq. 3 + `lambda_attn` Eq. 4 of a batch with masks, Eq. 1 of a batch without.

    Args:
        material: what stays the same over the run.
        rows: (R, D) placeholder rows; None when the prompts name no concept.
        batch: the step's tensors.
        config: `mask_loss_norm` and `lambda_attn` are read.
        with_maps: also return the forward pass's own maps (for the running average).
    """
    backbone = material.backbone
    hidden_states = encode(backbone, batch.prompts, rows)
    if batch.union is None or batch.attention_masks is None:
        prediction = backbone.predict(batch.noisy_latents, batch.timesteps, hidden_states)
        loss = denoising_loss(prediction, batch.target).mean()
        return Objective(loss, {"loss": float(loss.detach())})

    recorded = material.loss_layers | material.map_layers if with_maps else material.loss_layers
    with record_attention(backbone, batch.prompts.selector, lambda layer: layer.name in recorded) as record:
        prediction = backbone.predict(batch.noisy_latents, batch.timesteps, hidden_states)
    loss_maps = torch.stack([record.maps[name] for name in sorted(material.loss_layers)]).mean(dim=0)
    masked = masked_denoising_loss(prediction, batch.target, batch.union, config.mask_loss_norm).mean()
    attention = attention_loss(loss_maps, batch.attention_masks, batch.present).mean()
    loss = masked + config.lambda_attn * attention
    maps = None
    if with_maps:
        maps = average_layers(record.maps, material.map_layers, backbone.latent_shape[-1])
    parts = {
        "loss": float(loss.detach()),
        "mask": float(masked.detach()),
        "attention": float(attention.detach()),
    }
    return Objective(loss, parts, maps)


def in_parts(
    material: Material, rows: Tensor | None, batch: Batch, config: LearnConfig, *, with_maps: bool = False
) -> Iterator[Objective]:
    """`concept_objective` of the batch as summands, each with a graph of its own: one, or one a picture where memory is
    short.
    """
    size = 1 if material.is_thrifty else len(batch.timesteps)
    for part, share in batch.in_parts(size):
        yield concept_objective(material, rows, part, config, with_maps=with_maps).weighed(share)


def average_layers(maps: Mapping[str, Tensor], layers: frozenset[str], side: int) -> Tensor:
    """Equal mean over `layers`, each resized bilinearly to the latent grid.

    Args:
        maps: (B, K, n*n) per layer name.
        layers: names to average.
        side: side of the latent grid.

    Returns:
        (B, K, side, side) float32, detached.
    """
    resized = []
    for name in sorted(layers):
        layer = maps[name].detach().float()
        n = round(layer.shape[-1] ** 0.5)
        square = layer.unflatten(-1, (n, n))  # (B, K, n*n) -> (B, K, n, n)
        if n != side:
            square = F.interpolate(square, size=(side, side), mode="bilinear", align_corners=False)
        resized.append(square)
    return torch.stack(resized).mean(dim=0)
