"""From draws to tensors. Axis legend: B batch, K concepts, c channels, h w latent cells, S text tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from conceptloom.backbone import (
    AttentionLayer,
    Backbone,
    Moments,
    TokenizedPrompt,
    selector_for,
    tokenize,
)
from conceptloom.errors import ConfigError
from conceptloom.learning.config import Layers
from conceptloom.learning.draws import Draw
from conceptloom.learning.example import LearningExample, MaskGrids
from conceptloom.seeding import noise

CELLS_PER_PASS = 65536
"""Latent cells in one gradient-free pass: the built-in model does any E-step at once, a 64x64 grid 16 at a time."""

ATTENTION_LOSS_SIDE = 16
"""Eq. 4 acts on the 16x16 maps of the down and up blocks; a model without them uses the side nearest to 16."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts of a batch, each distinct one once."""

    distinct: tuple[TokenizedPrompt, ...]
    of_element: Tensor
    """(B,) index into `distinct`."""
    selector: Tensor
    """(B, K, S) averages the columns of each concept's tokens; zero rows where an element has fewer concepts."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Input and targets of one step."""

    noisy_latents: Tensor
    timesteps: Tensor
    target: Tensor
    """(B, c, h, w) each, timesteps (B,) int64."""
    prompts: Prompts
    present: Tensor
    """(B, K) bool."""
    union: Tensor | None
    """(B, h, w) bool union of the drawn concepts' masks; None asks for Eq. 1."""
    attention_masks: Tensor | None
    """(B, K, n*n) share of each cell covered."""

    def in_parts(self, size: int) -> Iterator[tuple[Batch, float]]:
        """The batch in parts of at most `size` elements, each with its share of the whole."""
        count = len(self.timesteps)
        for first in range(0, count, size):
            rows = slice(first, first + size)
            prompts = replace(
                self.prompts,
                of_element=self.prompts.of_element[rows],
                selector=self.prompts.selector[rows],
            )
            part = Batch(
                noisy_latents=self.noisy_latents[rows],
                timesteps=self.timesteps[rows],
                target=self.target[rows],
                prompts=prompts,
                present=self.present[rows],
                union=None if self.union is None else self.union[rows],
                attention_masks=None if self.attention_masks is None else self.attention_masks[rows],
            )
            yield part, len(part.timesteps) / count


@dataclass(frozen=True, eq=False)
class Material:
    """What stays the same over a run: model, examples, their latents on the device, layers, tokenised prompts."""

    backbone: Backbone
    examples: tuple[LearningExample, ...]
    placeholders: Mapping[str, int]
    seed: int
    loss_layers: frozenset[str]
    map_layers: frozenset[str]
    validation_prompt: str
    is_thrifty: bool = False
    """Whether one picture at a time goes through the U-Net, because the memory did not suffice for a batch."""
    _tokenized: dict[str, TokenizedPrompt] = field(default_factory=dict)

    @property
    def latent_side(self) -> int:
        """Side of the latent grid, on which maps are averaged and Eq. 3 is masked."""
        return self.backbone.latent_shape[-1]

    @property
    def loss_side(self) -> int:
        """Side of the maps Eq. 4 acts on."""
        return attention_loss_side(self.backbone.cross_attention_layers)

    @property
    def passes_at_once(self) -> int:
        """How many latents go through the U-Net together where no gradient is kept."""
        return 1 if self.is_thrifty else passes_at_once(self.backbone)

    def tokenized(self, prompt: str) -> TokenizedPrompt:
        """`prompt` as token ids, remembered."""
        if prompt not in self._tokenized:
            self._tokenized[prompt] = tokenize(self.backbone, prompt, self.placeholders)
        return self._tokenized[prompt]

    def prompts(self, texts: Sequence[str], concepts: Sequence[Sequence[str | None]]) -> Prompts:
        """Prompts of a batch and the selector of each element's placeholder tokens, in the given order.

        Args:
            texts: one prompt per element.
            concepts: per element the placeholder tokens whose maps are wanted; None leaves a zero row.
        """
        order = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        elements = [self.tokenized(text) for text in texts]
        device = self.backbone.device
        return Prompts(
            tuple(self.tokenized(text) for text in order),
            torch.tensor([order[text] for text in texts], device=device),
            selector_for(elements, concepts).to(device),
        )

    def batch(self, draws: Sequence[Draw], grids: Sequence[MaskGrids] | None) -> Batch:
        """Tensors for `draws`; without `grids` (stage 1) nothing is masked."""
        backbone = self.backbone
        shape = backbone.latent_shape
        latents, noises = [], []
        for draw in draws:
            latents.append(
                moments_of(self.examples[draw.picture].moments, int(draw.flip)).sample(
                    noise((1, *shape), self.seed, "latents", *draw.key).to(backbone.device)
                )
            )
            noises.append(noise((1, *shape), self.seed, "noise", *draw.key).to(backbone.device))
        clean, added = torch.cat(latents), torch.cat(noises)
        timesteps = torch.tensor([draw.timestep for draw in draws], device=backbone.device)
        width = max(len(draw.concepts) for draw in draws)
        present = torch.zeros(len(draws), width, dtype=torch.bool)
        for b, draw in enumerate(draws):
            present[b, : len(draw.concepts)] = True
        return Batch(
            noisy_latents=backbone.add_noise(clean, added, timesteps),
            timesteps=timesteps,
            target=backbone.target(clean, added, timesteps),
            prompts=self.prompts(
                [self.examples[draw.picture].prompt(draw.concepts) for draw in draws],
                [
                    [self.examples[draw.picture].concepts[index].placeholder_token for index in draw.concepts]
                    for draw in draws
                ],
            ),
            present=present.to(backbone.device),
            union=None if grids is None else union_of(draws, grids),
            attention_masks=None if grids is None else attention_masks_of(draws, grids, width),
        )


def passes_at_once(backbone: Backbone) -> int:
    """How many latents go through the U-Net together where no gradient is kept and memory is not short."""
    _, h, w = backbone.latent_shape
    return max(1, CELLS_PER_PASS // (h * w))


def moments_of(moments: Moments, index: int) -> Moments:
    """One entry of a batch of moments; of an example's, 0 is plain and 1 mirrored."""
    return Moments(moments.mean[index : index + 1], moments.std[index : index + 1])


def union_of(draws: Sequence[Draw], grids: Sequence[MaskGrids]) -> Tensor:
    """(B, h, w) bool: Eq. 3's union over each element's drawn concepts, mirrored with the picture."""
    unions = []
    for draw in draws:
        union = grids[draw.picture].union(draw.concepts)
        unions.append(union.flip(-1) if draw.flip else union)
    return torch.stack(unions)


def attention_masks_of(draws: Sequence[Draw], grids: Sequence[MaskGrids], width: int) -> Tensor:
    """(B, K, n*n) float32: Eq. 4's masks in each element's drawn order, zero rows up to `width` concepts."""
    side = grids[0].attention.shape[-1]
    masks = grids[0].attention.new_zeros(len(draws), width, side, side)
    for b, draw in enumerate(draws):
        drawn = grids[draw.picture].attention[list(draw.concepts)]
        masks[b, : len(draw.concepts)] = drawn.flip(-1) if draw.flip else drawn
    return masks.flatten(2)  # (B, K, n, n) -> (B, K, n*n)


def attention_loss_side(layers: Sequence[AttentionLayer]) -> int:
    """Side of the maps Eq. 4 acts on: the one nearest to 16 among down and up blocks, the larger of two equal."""
    sides = {layer.side for layer in layers if layer.place in ("down", "up")}
    return min(sides, key=lambda side: (abs(side - ATTENTION_LOSS_SIDE), -side))


def loss_layers(layers: Sequence[AttentionLayer]) -> frozenset[str]:
    """Names of the layers Eq. 4 acts on."""
    side = attention_loss_side(layers)
    return frozenset(layer.name for layer in layers if layer.place in ("down", "up") and layer.side == side)


def map_layers(layers: Sequence[AttentionLayer], chosen: Layers) -> frozenset[str]:
    """Names of the layers averaged into a map; raises `ConfigError` when the base model has none of them."""
    side = attention_loss_side(layers)
    accepts: dict[Layers, Callable[[AttentionLayer], bool]] = {
        "all": lambda layer: True,
        "up": lambda layer: layer.place == "up",
        "up_16": lambda layer: layer.place == "up" and layer.side == side,
        "down": lambda layer: layer.place == "down",
        "mid": lambda layer: layer.place == "mid",
        "up_down": lambda layer: layer.place in ("up", "down"),
    }
    names = frozenset(layer.name for layer in layers if accepts[chosen](layer))
    if not names:
        raise ConfigError(
            f"configuration key 'layers': the base model has no cross-attention in '{chosen}'; use 'all'"
        )
    return names
