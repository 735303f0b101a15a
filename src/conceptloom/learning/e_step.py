"""Stage 2 and the E-step: from tokens to masks. Axis legend: B batch, K concepts, h w latent cells."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from conceptloom.backbone import Backbone, encode_prompts, record_affinity, record_attention
from conceptloom.errors import DivergedError
from conceptloom.learning.batches import Material, moments_of
from conceptloom.learning.config import LearnConfig
from conceptloom.learning.draws import Draw, draw_subset, draw_timesteps
from conceptloom.learning.example import LearningExample
from conceptloom.learning.objective import average_layers
from conceptloom.masks import MaskUpdate, coinciding, iou, propagate, update_masks
from conceptloom.seeding import noise, numpy_generator

SAME_MASK_IOU = 0.95
"""Above it two concepts' masks count as the same one."""
SAME_THING = 0.82
"""Correlation above which two subjects' first maps show one thing: then one of the masks is wrong in four of five pairs
(docs/LOG.md)."""


@dataclass(frozen=True, eq=False)
class MeanMaps:
    """Attention maps of one picture's concepts, and over how many passes each was averaged."""

    maps: npt.NDArray[np.float32]
    """(K, h, w)."""
    counts: npt.NDArray[np.int64]
    """(K,); a concept with 0 was in no prompt, its map is all zero."""
    affinity: npt.NDArray[np.float32] | None = None
    """(n*n, n*n) the picture's self-attention, along which maps are propagated; rows sum to 1."""


def initial_maps(material: Material, rows: Tensor, picture: int, config: LearnConfig) -> MeanMaps:
    """Stage 2: maps under the picture's full prompt, averaged over `initial_timesteps` random timesteps.

    With `propagation_steps` they come with the self-attention of the same passes, which serves the whole run.
    Raises `DivergedError` where they are not finite.
    """
    return _initial_maps(
        material, rows, picture, config, config.initial_timesteps, ("initial masks", picture)
    )


def halves_of_initial_maps(
    material: Material, rows: Tensor, picture: int, config: LearnConfig
) -> tuple[MeanMaps, MeanMaps]:
    """Maps as `initial_maps` makes them from two independent halves of the timesteps and noise."""
    count = max(1, config.initial_timesteps // 2)
    one, other = (
        _initial_maps(material, rows, picture, config, count, ("initial masks", picture, "half", half))
        for half in (0, 1)
    )
    return one, other


def mean_of(halves: Sequence[MeanMaps]) -> MeanMaps:
    """Mean of maps of one picture that were averaged over equally many passes."""
    affinities = [half.affinity for half in halves if half.affinity is not None]
    affinity = np.stack(affinities).mean(axis=0) if affinities else None
    maps = np.stack([half.maps for half in halves]).mean(axis=0)
    return MeanMaps(maps, np.stack([half.counts for half in halves]).sum(axis=0), affinity)


def _initial_maps(
    material: Material,
    rows: Tensor,
    picture: int,
    config: LearnConfig,
    count: int,
    key: tuple[int | str, ...],
) -> MeanMaps:
    generator = numpy_generator(config.seed, key[0], "timesteps", *key[1:])
    timesteps = draw_timesteps(generator, count, material.backbone.num_train_timesteps, config.timestep_range)
    everything = tuple(range(len(material.examples[picture].concepts)))
    with_affinity = config.propagation_steps > 0
    mean = _mean_maps(
        material, rows, picture, timesteps, [everything] * count, key, with_affinity=with_affinity
    )
    if not np.isfinite(mean.maps).all():
        raise DivergedError(
            f"the attention to '{material.examples[picture].name}' is not finite before anything is learned:"
            " use --dtype float32"
        )
    return mean


def fresh_maps(
    material: Material, rows: Tensor, picture: int, config: LearnConfig, step: int, draws: Sequence[Draw]
) -> MeanMaps:
    """A fresh E-step after M-step `step`: maps under full or subset prompts, at new or the draws' timesteps.

    All randomness comes from the E-step's own generator.
    """
    key = ("e-step", step, picture)
    if config.e_step_timesteps == "own":
        timesteps = tuple(draw.timestep for draw in draws if draw.picture == picture)
    else:
        generator = numpy_generator(config.seed, *key, "timesteps")
        timesteps = draw_timesteps(
            generator,
            config.e_step_timesteps,
            material.backbone.num_train_timesteps,
            config.timestep_range,
        )
    count = len(material.examples[picture].concepts)
    if config.e_step_prompt == "full":
        subsets = [tuple(range(count))] * len(timesteps)
    else:
        generator = numpy_generator(config.seed, *key, "subsets")
        subsets = [draw_subset(generator, count) for _ in timesteps]
    return _mean_maps(material, rows, picture, timesteps, subsets, key)


@dataclass(frozen=True, eq=False)
class RunningAverages:
    """Per picture and concept, the decaying average of the M-step's own un-flipped maps.

    Weighted sums and weights decay together, so an average is unbiased from its first map on.
    """

    sums: list[npt.NDArray[np.float32]]
    """(K, h, w) per picture."""
    weights: list[npt.NDArray[np.float32]]
    """(K,) per picture."""
    counts: list[npt.NDArray[np.int64]]
    """(K,) maps averaged so far, per picture."""

    @classmethod
    def starting_from(cls, first: Sequence[MeanMaps], decay: float, weight: float = 1.0) -> RunningAverages:
        """Start with the maps of stage 2 at the weight to which a sum of maps of the usual `weight` tends."""
        started = np.float32(weight / (1.0 - decay))
        return cls(
            [mean.maps * started for mean in first],
            [np.full(len(mean.maps), started, dtype=np.float32) for mean in first],
            [np.ones(len(mean.maps), dtype=np.int64) for mean in first],
        )

    def add(self, draw: Draw, maps: npt.NDArray[np.float32], weight: float, decay: float) -> None:
        """Let one batch element's maps (drawn concepts, h, w) count; each concept updates its own average only."""
        sums, weights = self.sums[draw.picture], self.weights[draw.picture]
        chosen = list(draw.concepts)
        unflipped = maps[..., ::-1] if draw.flip else maps
        sums[chosen] = np.float32(decay) * sums[chosen] + np.float32(weight) * unflipped
        weights[chosen] = np.float32(decay) * weights[chosen] + np.float32(weight)
        self.counts[draw.picture][chosen] += 1

    def maps(self, picture: int) -> MeanMaps:
        """The averages of one picture's concepts."""
        return MeanMaps(self.sums[picture] / self.weights[picture][:, None, None], self.counts[picture])


def map_weights(timesteps: Tensor, backbone: Backbone, config: LearnConfig) -> Tensor:
    """(B,) what maps at these timesteps (B,) count in a running average: nothing outside of `timestep_range`."""
    if config.running_average_weighting == "signal":
        weights = signal_share(backbone.log_snr(timesteps.to(backbone.device))).float().cpu()
    else:
        weights = torch.ones(len(timesteps))
    count = backbone.num_train_timesteps
    first, last = (round(share * count) for share in config.timestep_range)
    steps = timesteps.cpu()
    return torch.where((first <= steps) & (steps < last), weights, 0.0)


def signal_share(log_snr: Tensor) -> Tensor:
    """Share of the signal in a noisy latent's variance, `snr / (1 + snr)`: near 0 at high noise, near 1 at low."""
    return torch.sigmoid(log_snr)


def masks_from(
    example: LearningExample, mean: MeanMaps, config: LearnConfig, previous: npt.NDArray[np.bool_] | None
) -> MaskUpdate:
    """Propagation, threshold, DenseCRF and rescue rules; a concept that was in no prompt keeps its previous mask.

    Args:
        example: the picture.
        mean: its concepts' maps and, where maps are propagated, its affinity.
        config: the mask rules and `propagation_steps` are read.
        previous: (K, side, side) masks of the last E-step, None at stage 2.
    """
    several = len(example.concepts) > 1
    seen = mean.counts > 0
    maps, rules = mean.maps, config.mask_rules
    if mean.affinity is not None:
        maps = propagate(maps, mean.affinity, config.propagation_steps)
    if previous is None:
        seen = np.ones_like(seen)
    chosen = [example.concepts[k] for k in np.flatnonzero(seen).tolist()]
    backgrounds, patterns = (
        [k for k, concept in enumerate(chosen) if concept.kind == kind] for kind in ("background", "pattern")
    )
    before = None if previous is None else previous[seen]
    held = None if example.held is None else example.held.only(seen)
    update = update_masks(maps[seen], example.crf, rules, before, several, backgrounds, held, patterns)
    if previous is None or seen.all():
        return update
    masks, rescued = previous.copy(), np.zeros(len(seen), dtype=np.bool_)
    probabilities = previous.astype(np.float32)
    overlap = np.ones(len(seen), dtype=np.float32)
    masks[seen], probabilities[seen] = update.masks, update.probabilities
    rescued[seen], overlap[seen] = update.rescued, update.overlap
    return MaskUpdate(masks, probabilities, rescued, overlap)


def same_things(example: LearningExample, mean: MeanMaps, config: LearnConfig) -> tuple[tuple[str, str], ...]:
    """Names of subjects, pair by pair, whose words point at the same thing, and of which nothing else is known.

    Told of propagated maps alone, for which it was measured; arguments as for `masks_from`.
    """
    if mean.affinity is None:
        return ()
    free = [k for k, concept in enumerate(example.concepts) if concept.kind == "subject"]
    if example.held is not None:
        known = example.held.is_it | example.held.is_not
        free = [k for k in free if not known[k].any()]
    maps = propagate(mean.maps, mean.affinity, config.propagation_steps)
    names = [example.concepts[k].name for k in free]
    return tuple((names[one], names[other]) for one, other in coinciding(maps[free], SAME_THING))


def same_thing_notice(one: str, other: str, picture: str) -> str:
    """What to say of a pair of `same_things`."""
    return (
        f"the words of <{one}> and <{other}> point at the same thing in '{picture}', so one of their masks is likely"
        " wrong: a --box or --stroke for one of them helps"
    )


def collapsed(masks: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    """Indices of masks (K, H, W) that are empty, full beside others, or the same as another's."""
    count = len(masks)
    wrong = set()
    for k in range(count):
        if not masks[k].any() or (count > 1 and masks[k].all()):
            wrong.add(k)
        for other in range(k):
            if iou(masks[k], masks[other]) > SAME_MASK_IOU:
                wrong |= {k, other}
    return tuple(sorted(wrong))


@torch.no_grad()
def _mean_maps(
    material: Material,
    rows: Tensor,
    picture: int,
    timesteps: Sequence[int],
    subsets: Sequence[tuple[int, ...]],
    key: tuple[int | str, ...],
    *,
    with_affinity: bool = False,
) -> MeanMaps:
    backbone, example = material.backbone, material.examples[picture]
    tokens = [concept.placeholder_token for concept in example.concepts]
    prompts = material.prompts(
        [example.prompt(subset) for subset in subsets],
        [[token if k in subset else None for k, token in enumerate(tokens)] for subset in subsets],
    )
    hidden_states = encode_prompts(backbone, prompts.distinct, rows)
    count, (channels, h, w) = len(timesteps), backbone.latent_shape
    drawn = noise((2, count, channels, h, w), material.seed, *key, "noise").to(backbone.device)
    plain = moments_of(example.moments, 0)
    total = torch.zeros(len(tokens), h, w, device=backbone.device)
    looked: list[Tensor] = []
    times = torch.tensor(timesteps, device=backbone.device)
    for chunk in torch.arange(count, device=backbone.device).split(material.passes_at_once):
        latents = plain.sample(drawn[0, chunk])
        noisy_latents = backbone.add_noise(latents, drawn[1, chunk], times[chunk])
        selector = prompts.selector[chunk]
        recording_affinity = record_affinity(backbone) if with_affinity else nullcontext(dict[str, Tensor]())
        with (
            record_attention(backbone, selector, lambda layer: layer.name in material.map_layers) as record,
            recording_affinity as affinities,
        ):
            backbone.predict(noisy_latents, times[chunk], hidden_states[prompts.of_element[chunk]])
        total += average_layers(record.maps, material.map_layers, w).sum(dim=0)  # (B, K, h, w) -> (K, h, w)
        looked += [layer.sum(dim=0) / (count * len(affinities)) for layer in affinities.values()]
    counts = np.array([sum(k in subset for subset in subsets) for k in range(len(tokens))], dtype=np.int64)
    maps = total.cpu().numpy() / np.maximum(counts, 1)[:, None, None].astype(np.float32)
    affinity = torch.stack(looked).sum(dim=0).cpu().numpy() if looked else None
    return MeanMaps(maps.astype(np.float32), counts, affinity)
