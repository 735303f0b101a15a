"""Prior preservation and drift: the base model's own images of class words and of other nouns."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from conceptloom.backbone import Backbone, Moments, tokenize
from conceptloom.errors import PictureError, RunError
from conceptloom.learning.batches import Batch, Prompts, moments_of, passes_at_once
from conceptloom.learning.config import LearnConfig
from conceptloom.learning.draws import Source, draw_batch
from conceptloom.learning.losses import denoising_loss
from conceptloom.learning.objective import encode
from conceptloom.learning.progress import Progress
from conceptloom.learning.samples import draw_images
from conceptloom.pictures import load_picture, write_png
from conceptloom.runs import CACHE_VARIABLE, user_cache_dir
from conceptloom.seeding import noise

GROUP = 4
"""Images drawn at a time. Whole groups are drawn and cached, so that an image never depends on how many are asked."""

DRIFT_NOUNS = ("dog", "car", "tree", "house", "apple", "horse")
"""Everyday nouns; drift is measured on the first three that are no class word of the run."""
DRIFT_TIMESTEPS = 4
GENERIC_PROMPT = "a photo"
"""Prompt of prior images when no concept has a class word."""


@dataclass(frozen=True, eq=False)
class PriorExample:
    """One image of the base model's own, encoded, with the prompt it was drawn from."""

    moments: Moments
    """Batch 1."""
    prompt: str


def class_prompts(words: Sequence[str | None]) -> tuple[str, ...]:
    """One prompt per distinct class word, the generic prompt when there is none."""
    named = tuple(dict.fromkeys(f"a photo of {word}" for word in words if word is not None))
    return named or (GENERIC_PROMPT,)


def drift_prompts(words: Sequence[str | None]) -> tuple[str, ...]:
    """Prompts of three nouns that are no class word of the run."""
    return class_prompts([noun for noun in DRIFT_NOUNS if noun not in words][:3])


def image_counts(words: Sequence[str | None], config: LearnConfig) -> dict[str, int]:
    """How many images of the base model's own a run needs, by prompt: of class words, and of other nouns for drift."""
    if not config.trains_weights:
        return {}
    counts = dict.fromkeys(drift_prompts(words), GROUP)
    if config.prior_weight > 0:
        counts |= dict.fromkeys(class_prompts(words), config.prior_images)
    return counts


def own_images(
    backbone: Backbone, counts: Mapping[str, int], config: LearnConfig
) -> Generator[Progress, None, tuple[PriorExample, ...]]:
    """Draw (or take from the cache) so many images per prompt and encode them; yields progress per group of images."""
    groups = _groups(counts)
    examples = []
    for done, (prompt, group) in enumerate(groups):
        moments = backbone.encode_moments(_cached_group(backbone, prompt, group, config))
        for index in range(min(GROUP, counts[prompt] - group * GROUP)):
            examples.append(PriorExample(moments_of(moments, index), prompt))
        yield Progress("prior", done + 1, len(groups))
    return tuple(examples)


def missing_images(backbone: Backbone, counts: Mapping[str, int], config: LearnConfig) -> int:
    """How many images `own_images` would have to draw, the cached ones left out."""
    groups = _groups(counts)
    return GROUP * sum(
        not _is_cached(_group_paths(backbone, prompt, group, config)) for prompt, group in groups
    )


def require_cache(backbone: Backbone, counts: Mapping[str, int], config: LearnConfig) -> None:
    """Raise `RunError` where the cache folder can't take the images that `own_images` would have to draw."""
    missing = missing_images(backbone, counts, config)
    folder = user_cache_dir()
    disk = next(place for place in (folder, *folder.parents) if place.exists())
    if not missing:
        return
    if not disk.is_dir() or not os.access(disk, os.W_OK):
        raise RunError(f"the cache folder {folder} can't be written to: set {CACHE_VARIABLE} to another one")
    needed, free = missing * 3 * backbone.size**2, shutil.disk_usage(disk).free
    if free < needed:
        raise RunError(
            f"{missing} images of the base model's own need {needed / 1e6:.1f} MB in the cache folder {folder}, its"
            f" disk has {free / 1e6:.1f} MB free: make room, or set {CACHE_VARIABLE} to a folder on another disk"
        )


def prior_batch(
    backbone: Backbone, examples: Sequence[PriorExample], config: LearnConfig, stage: str, step: int
) -> Batch:
    """The step's prior images under Eq. 1, drawn in shuffled epochs with noise of their own."""
    draws = draw_batch(
        config.seed,
        f"{stage} prior",
        step,
        config.batch_size,
        [Source(1, may_flip=False)] * len(examples),
        backbone.num_train_timesteps,
    )
    chosen = [examples[draw.picture] for draw in draws]
    shape = (1, *backbone.latent_shape)
    latents = torch.cat(
        [
            example.moments.sample(noise(shape, config.seed, "latents", *draw.key).to(backbone.device))
            for example, draw in zip(chosen, draws, strict=True)
        ]
    )
    added = torch.cat([noise(shape, config.seed, "noise", *draw.key) for draw in draws]).to(backbone.device)
    timesteps = torch.tensor([draw.timestep for draw in draws], device=backbone.device)
    return Batch(
        noisy_latents=backbone.add_noise(latents, added, timesteps),
        timesteps=timesteps,
        target=backbone.target(latents, added, timesteps),
        prompts=plain_prompts(backbone, [example.prompt for example in chosen]),
        present=torch.zeros(len(draws), 0, dtype=torch.bool),
        union=None,
        attention_masks=None,
    )


def plain_prompts(backbone: Backbone, texts: Sequence[str]) -> Prompts:
    """Prompts without placeholders."""
    order = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    distinct = tuple(tokenize(backbone, text, {}) for text in order)
    of_element = torch.tensor([order[text] for text in texts], device=backbone.device)
    return Prompts(
        distinct, of_element, torch.zeros(len(texts), 0, len(distinct[0].ids), device=backbone.device)
    )


@torch.no_grad()
def prior_loss(backbone: Backbone, examples: Sequence[PriorExample], at_once: int | None = None) -> float:
    """Eq. 1 on `examples`, the same noise at every call: its growth over a run is the run's drift.

    `at_once` latents go through the U-Net together, as many as usual where it is None.
    """
    shape = (DRIFT_TIMESTEPS, *backbone.latent_shape)
    spaced = torch.linspace(0.1, 0.9, DRIFT_TIMESTEPS) * backbone.num_train_timesteps
    timesteps = spaced.long().to(backbone.device).repeat(len(examples))  # (N * T,)
    latents = torch.cat([example.moments.mean.expand(shape) for example in examples])
    added = torch.cat([noise(shape, 0, "drift", index) for index in range(len(examples))]).to(backbone.device)
    prompts = plain_prompts(
        backbone, [example.prompt for example in examples for _ in range(DRIFT_TIMESTEPS)]
    )
    hidden_states = encode(backbone, prompts, None)
    noisy_latents = backbone.add_noise(latents, added, timesteps)
    target = backbone.target(latents, added, timesteps)
    losses = []
    for chunk in torch.arange(len(timesteps)).split(at_once or passes_at_once(backbone)):
        prediction = backbone.predict(noisy_latents[chunk], timesteps[chunk], hidden_states[chunk])
        losses.append(denoising_loss(prediction, target[chunk]))
    return float(torch.cat(losses).mean())


def _groups(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(prompt, group) for prompt, count in counts.items() for group in range(-(-count // GROUP))]


def _cached_group(backbone: Backbone, prompt: str, group: int, config: LearnConfig) -> npt.NDArray[np.uint8]:
    paths = _group_paths(backbone, prompt, group, config)
    if _is_cached(paths) and (cached := _read_group(paths, backbone.size)) is not None:
        return cached
    drawn = draw_images(
        backbone, prompt, None, {}, [(0, "prior", prompt, group, i) for i in range(GROUP)], config
    )
    for path, image in zip(paths, drawn, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, image, {"prompt": prompt, "base_model": backbone.name})
    return drawn


def _read_group(paths: Sequence[Path], side: int) -> npt.NDArray[np.uint8] | None:
    """Cached images (GROUP, side, side, 3); None where one of them is damaged or of another size."""
    try:
        images = [load_picture(path).pixels for path in paths]
    except PictureError:
        return None
    return np.stack(images) if all(image.shape == (side, side, 3) for image in images) else None


def _is_cached(paths: Sequence[Path]) -> bool:
    return all(path.is_file() for path in paths)


def _group_paths(backbone: Backbone, prompt: str, group: int, config: LearnConfig) -> list[Path]:
    identity = f"{backbone.fingerprint}|{prompt}|{config.sample_steps}|{config.sample_guidance_scale}|{backbone.dtype}"
    folder = user_cache_dir() / "prior" / hashlib.sha256(identity.encode()).hexdigest()[:24]
    return [folder / f"{group * GROUP + index:04d}.png" for index in range(GROUP)]
