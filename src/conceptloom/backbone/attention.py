"""Recording cross-attention (Eq. 2: A = softmax(Q K^T / sqrt(d))) without changing what the U-Net computes.

Every cross-attention layer of a backbone computes its softmax explicitly and in float32, recorded or not. With at most
77 keys that costs little: a whole pass of a U-Net of 9.5 M parameters and its backward pass take 1.05 of the fused
kernel's time in float32 and 0.93 in bfloat16 (one core, batch 4, 32 tokens). So recording changes no digit of the
output, and a layer that gradient checkpointing recomputes after the recording has ended still repeats the same
operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptloom.backbone.model import AttentionLayer, Backbone
from conceptloom.backbone.prompts import TokenizedPrompt
from conceptloom.errors import ConfigError

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention


AFFINITY_SIDE = 32
"""Self-attention is recorded at grids of at most so many cells a side: a 64x64 grid's matrix takes 64 MB a head."""


class ExplicitAttentionProcessor:
    """Attention processor of diffusers with an explicit float32 softmax; without text it is self-attention.

    Projections are called as modules, so LoRA takes part.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend from image cells (B, h*w, C) to text tokens (B, S, D), or to the cells themselves."""
        assert attention_mask is None, "text is padded without a mask, as Stable Diffusion does"
        if encoder_hidden_states is None:
            encoder_hidden_states = hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))  # (B, h*w, C) -> (B*A, h*w, d)
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))  # (B, S, C) -> (B*A, S, d)
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        with torch.autocast(query.device.type, enabled=False):
            scores = torch.bmm(query.float(), key.float().transpose(1, 2)) * attn.scale
            probabilities = scores.softmax(dim=-1)  # (B*A, h*w, S)
        self.observe(probabilities, attn.heads)
        attended = attn.batch_to_head_dim(torch.bmm(probabilities.to(value.dtype), value))
        for layer in attn.to_out:  # projection, dropout
            attended = layer(attended)
        return attended

    def observe(self, probabilities: Tensor, heads: int) -> None:
        """Called with the probabilities (B*A, h*w, S) of each pass; keeps nothing."""


class RecordingProcessor(ExplicitAttentionProcessor):
    """Attention that keeps the mean of its heads, overwritten by each pass (checkpointing runs a layer twice)."""

    def __init__(
        self, name: str, probabilities: dict[str, Tensor], columns: Sequence[int] | None = None
    ) -> None:
        self._name = name
        self._probabilities = probabilities
        self._columns = columns

    def observe(self, probabilities: Tensor, heads: int) -> None:
        """Keep (B, h*w, S) float32 with its graph; of S only the chosen columns, if they were chosen.

        Nothing here is saved for the backward pass, so gradient checkpointing, which counts what is saved, may
        recompute the layer with another processor.
        """
        if self._columns is not None:
            probabilities = torch.stack(
                [probabilities.select(-1, column) for column in self._columns], dim=-1
            )
        self._probabilities[self._name] = probabilities.unflatten(0, (-1, heads)).mean(dim=1)


class SelectedMaps(Mapping[str, Tensor]):
    """Maps (B, K, h*w) by layer name, combined from the kept columns when asked for.

    Lazily, so that the products are no part of what gradient checkpointing recomputes.
    """

    def __init__(self, selector: Tensor, columns: Sequence[int], probabilities: Mapping[str, Tensor]) -> None:
        self._selector = selector[:, :, columns]
        self._probabilities = probabilities

    def __getitem__(self, name: str) -> Tensor:
        probabilities = self._probabilities[name]  # (B, h*w, C)
        assert len(probabilities) == len(self._selector), (
            f"selector {tuple(self._selector.shape)} (B, K, C) does not fit probabilities {tuple(probabilities.shape)}"
        )
        return torch.bmm(
            self._selector, probabilities.transpose(1, 2)
        )  # (B, K, C) x (B, C, h*w) -> (B, K, h*w)

    def __iter__(self) -> Iterator[str]:
        return iter(self._probabilities)

    def __len__(self) -> int:
        return len(self._probabilities)


@dataclass(frozen=True, eq=False)
class AttentionRecord:
    """What one pass attended to.

    Attributes:
        layers: the recorded layers, from the U-Net's input to its output.
        maps: (B, K, h*w) float32 probabilities by layer name: mean over heads, columns combined by the selector.
            Filled by the forward pass and kept after the recording; a second pass overwrites the first.
    """

    layers: tuple[AttentionLayer, ...]
    maps: Mapping[str, Tensor] = field(repr=False)


@contextmanager
def record_attention(
    backbone: Backbone, selector: Tensor, layers: Callable[[AttentionLayer], bool] | None = None
) -> Iterator[AttentionRecord]:
    """Record cross-attention of chosen tokens in every `backbone.predict` inside the ``with`` block.

    The processors are put back on leaving, also after an exception. Gradients reach the prompt's hidden states, LoRA
    and weights through the maps; the backward pass may run inside or after the block.

    Args:
        backbone: the base model.
        selector: (B, K, S) weights that combine the S token columns into K maps per batch element, see
            `selector_for`; a zero row gives a zero map, the identity gives every token's own map. Only columns with a
            weight are kept.
        layers: which layers to record; None records all.
    """
    chosen = [
        (layer, module)
        for layer, module in backbone.cross_attention_modules()
        if layers is None or layers(layer)
    ]
    before = [module.processor for _, module in chosen]
    probabilities: dict[str, Tensor] = {}
    columns = _columns_used(selector)
    maps = SelectedMaps(selector.to(backbone.device, torch.float32), columns, probabilities)
    try:
        for layer, module in chosen:
            module.processor = RecordingProcessor(layer.name, probabilities, columns)
        yield AttentionRecord(tuple(layer for layer, _ in chosen), maps)
    finally:
        for (_, module), processor in zip(chosen, before, strict=True):
            module.processor = processor


def _columns_used(selector: Tensor) -> list[int]:
    """Token columns that any map is combined from; the first where there is none, so that all maps are zero."""
    used: list[int] = selector.count_nonzero(dim=(0, 1)).nonzero().flatten().tolist()
    return used or [0]


@contextmanager
def record_affinity(backbone: Backbone) -> Iterator[Mapping[str, Tensor]]:
    """Record where each cell looks in the up path's self-attention, at its finest grid of at most 32x32 cells.

    For passes without gradients: the recorded layers compute an explicit softmax, which agrees with the fused kernel
    to floating-point noise only.

    Yields:
        (B, n*n, n*n) float32 by layer name, mean over heads, rows sum to 1; empty until the first pass.
    """
    layers = affinity_layers([layer for layer, _ in backbone.self_attention_modules()])
    chosen = [(layer, module) for layer, module in backbone.self_attention_modules() if layer in layers]
    before = [module.processor for _, module in chosen]
    probabilities: dict[str, Tensor] = {}
    try:
        for layer, module in chosen:
            module.processor = RecordingProcessor(layer.name, probabilities)
        yield probabilities
    finally:
        for (_, module), processor in zip(chosen, before, strict=True):
            module.processor = processor


def affinity_layers(layers: Sequence[AttentionLayer]) -> tuple[AttentionLayer, ...]:
    """Self-attention of the up path at its finest grid of at most 32x32 cells; there objects hold together best.

    Raises:
        ConfigError: the base model has none.
    """
    fitting = [layer for layer in layers if layer.place == "up" and layer.side <= AFFINITY_SIDE]
    if not fitting:
        raise ConfigError(
            "configuration key 'propagation_steps': the base model has no self-attention to go along; set it to 0"
        )
    finest = max(layer.side for layer in fitting)
    return tuple(layer for layer in fitting if layer.side == finest)


def selector_for(prompts: Sequence[TokenizedPrompt], placeholders: Sequence[Sequence[str | None]]) -> Tensor:
    """Selector (B, K, S) float32 on the CPU that averages the columns of each concept's tokens.

    Args:
        prompts: one per batch element.
        placeholders: per batch element the placeholder tokens whose maps are wanted, in that order; None, a token
            absent from the prompt, and the rows of elements with fewer than K tokens are zero.
    """
    width = max(len(wanted) for wanted in placeholders)
    selector = torch.zeros(len(prompts), width, len(prompts[0].ids))
    for b, (prompt, wanted) in enumerate(zip(prompts, placeholders, strict=True)):
        for k, placeholder in enumerate(wanted):
            positions = () if placeholder is None else prompt.positions.get(placeholder, ())
            for position in positions:
                selector[b, k, position] = 1.0 / len(positions)
    return selector
