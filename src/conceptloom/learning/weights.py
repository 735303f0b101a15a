"""The model weights a run trains: lent by the base model, given back as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor
from torch.nn import Parameter

from conceptloom.backbone import (
    Backbone,
    DenseKind,
    WeightsDelta,
    add_lora,
    applied_weights,
    apply_difference,
    live_weights,
    load_lora_state,
    lora_state,
    remove_lora,
    restore_weights,
    unfreeze,
    weight_difference,
    weight_names,
    weights_state,
)
from conceptloom.errors import ConfigError
from conceptloom.learning.checkpoint import KEPT
from conceptloom.learning.config import LearnConfig


def dense_numbers(backbone: Backbone, config: LearnConfig) -> int:
    """How many numbers of the base model itself a run trains; an adapter's are few and its own."""
    if not config.trains_weights or config.train == "lora":
        return 0
    names = weight_names(backbone, "kv" if config.train == "kv" else "full")
    return sum(weight.numel() for weight in live_weights(backbone, names).values())


def disk_bytes(backbone: Backbone, config: LearnConfig) -> int:
    """What a run writes at most at one time because weights train densely; all else is small beside it.

    A checkpoint holds each weight and two AdamW moments in float32, and one is written beside those kept; the concept
    set holds a difference in float16.
    """
    return ((KEPT + 1) * 3 * 4 + 2) * dense_numbers(backbone, config)


class TrainedWeights(Protocol):
    """Weights under training. Until `begin` they act as the starting set left them, and are frozen."""

    @property
    def parameters(self) -> list[Parameter]:
        """What an optimiser moves, float32, in a fixed order; empty before `begin`."""

    def begin(self) -> None:
        """Make the weights trainable; a second call changes nothing."""

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint, to be written before the next step; empty before `begin`."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over `state()` of an earlier run, after `begin`."""

    def delta(self) -> WeightsDelta | None:
        """What a concept set keeps, against the untouched base model."""


class LoraWeights:
    """Low-rank updates of the attention projections, in U-Net and text encoder; the base weights never change."""

    def __init__(self, backbone: Backbone, rank: int, seed: int, start: WeightsDelta | None) -> None:
        self._backbone, self._rank, self._seed, self._start = backbone, rank, seed, start
        self.parameters: list[Parameter] = []
        if start is not None:
            try:
                self._add()
            except BaseException:
                self.close()
                raise
            for factor in self._factors:
                factor.requires_grad_(False)

    def begin(self) -> None:
        """Make the factors trainable, adding them where the run starts without any."""
        if self.parameters:
            return
        if self._start is None:
            self._add()
        for factor in self._factors:
            factor.requires_grad_(True)
        self.parameters = self._factors

    def state(self) -> dict[str, Tensor]:
        """The factors."""
        return lora_state(self._backbone) if self.parameters else {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Fill the factors."""
        load_lora_state(self._backbone, state)

    def delta(self) -> WeightsDelta | None:
        """The factors, with rank and alpha (equal, so that readers without alpha scale the same)."""
        if not self.parameters:
            return self._start
        return WeightsDelta("lora", lora_state(self._backbone), self._rank, float(self._rank))

    def close(self) -> None:
        """Take the factors away."""
        remove_lora(self._backbone)

    def _add(self) -> None:
        self._factors = add_lora(self._backbone, self._rank, float(self._rank), seed=self._seed)
        if self._start is not None:
            load_lora_state(self._backbone, self._start.tensors)


class DenseWeights:
    """All weights, or the keys and values of cross-attention, trained in place and put back afterwards."""

    def __init__(self, backbone: Backbone, kind: DenseKind, start: WeightsDelta | None) -> None:
        self._backbone, self._kind, self._start = backbone, kind, start
        self._kept_kind: DenseKind = (
            "full" if "full" in (kind, None if start is None else start.kind) else "kv"
        )
        self._base = weights_state(backbone, weight_names(backbone, self._kept_kind))
        self._trained: dict[str, Parameter] = {}
        if start is not None:
            apply_difference(backbone, start.tensors)

    @property
    def parameters(self) -> list[Parameter]:
        """The weights under training."""
        return list(self._trained.values())

    def begin(self) -> None:
        """Make the weights trainable."""
        if not self._trained:
            self._trained = unfreeze(self._backbone, self._kind)

    def state(self) -> dict[str, Tensor]:
        """The weights under training, whole."""
        return live_weights(self._backbone, self._trained)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Fill the weights under training."""
        for name, parameter in self._trained.items():
            parameter.data.copy_(state[name])

    def delta(self) -> WeightsDelta | None:
        """Difference to the base weights."""
        if not self._trained:
            return self._start
        trained = live_weights(self._backbone, self._base)
        return WeightsDelta(self._kept_kind, weight_difference(self._base, trained))

    def close(self) -> None:
        """Put the base weights back, bit for bit."""
        restore_weights(self._backbone, self._base)


def require_same_kind(config: LearnConfig, start: WeightsDelta | None) -> None:
    """Raise `ConfigError` where a set's weights are of another kind or rank than those that `config` trains."""
    if start is None or not config.trains_weights:
        return
    if (start.kind == "lora") != (config.train == "lora"):
        raise ConfigError(
            f"configuration key 'train': the set to learn further from keeps its weights as '{start.kind}',"
            f" not '{config.train}': set train to '{start.kind}', or to 'tokens' to leave the weights alone"
        )
    if config.train == "lora" and start.rank != config.lora_rank:
        raise ConfigError(
            f"configuration key 'lora_rank': the set to learn further from has rank {start.rank},"
            f" not {config.lora_rank}"
        )


@contextmanager
def trained_weights(
    backbone: Backbone, config: LearnConfig, start: WeightsDelta | None
) -> Iterator[TrainedWeights | None]:
    """Lend the weights that `config` trains, those of `start` applied; afterwards the base model is as before.

    Yields None when no weight moves. Raises `ConfigError` when `start` holds another kind than `config` trains.
    """
    if not config.trains_weights:
        with applied_weights(backbone, start):
            yield None
        return
    require_same_kind(config, start)
    weights: LoraWeights | DenseWeights
    if config.train == "lora":
        weights = LoraWeights(backbone, config.lora_rank, config.seed, start)
    else:
        weights = DenseWeights(backbone, "kv" if config.train == "kv" else "full", start)
    try:
        yield weights
    finally:
        weights.close()
