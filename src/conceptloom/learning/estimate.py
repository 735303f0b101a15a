"""Time and memory a run will take, from timing a few of its steps before it starts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from torch.nn import Parameter

from conceptloom.backbone import Backbone, telling_of_memory, with_less_memory
from conceptloom.learning.batches import Material
from conceptloom.learning.config import LearnConfig
from conceptloom.learning.draws import draw_batch
from conceptloom.learning.e_step import initial_maps, masks_from
from conceptloom.learning.example import mask_grids
from conceptloom.learning.initialise import starting_rows
from conceptloom.learning.m_step import token_step
from conceptloom.learning.optimisation import Descent
from conceptloom.learning.prior import image_counts, missing_images
from conceptloom.learning.progress import STAGES, Progress, Stage
from conceptloom.learning.request import LearnRequest
from conceptloom.learning.trainer import SAMPLES, prepare_material
from conceptloom.learning.weights import dense_numbers, disk_bytes

TIMED_STEPS = 3
TIMED_TIMESTEPS = 4
T = TypeVar("T")

WEIGHT_GRADIENTS = 1.5
"""A backward pass with gradients of all weights against one with frozen weights (measured 149 : 218 ms)."""

WEIGHT_BYTES = 4 * 4
"""Per number trained in place: its gradient, two AdamW moments and what it was, float32 each."""


@dataclass(frozen=True)
class Estimate:
    """Seconds per stage, and the most memory and disk in use at one time."""

    seconds: Mapping[Stage, float]
    peak_bytes: int
    disk_bytes: int

    @property
    def total_seconds(self) -> float:
        """Of the whole run."""
        return sum(self.seconds.values())

    def seconds_until(self, progress: Progress) -> float:
        """From the start of the run to `progress`."""
        before = sum(self.seconds[stage] for stage in STAGES[: STAGES.index(progress.stage)])
        share = progress.step / progress.total if progress.total else 1.0
        return before + self.seconds[progress.stage] * share

    def remaining_seconds(self, progress: Progress, elapsed: float) -> float:
        """What is left at `progress` after `elapsed` seconds: the estimate, scaled by how it has held so far."""
        done = self.seconds_until(progress)
        left = self.total_seconds - done
        return left if done < 0.02 * self.total_seconds else left * elapsed / done


def estimate(request: LearnRequest, backbone: Backbone) -> Estimate:
    """Time a few steps on throw-away tokens; nothing of the run is touched, no random draw of it is used up.

    Where memory does not suffice they are timed picture by picture, as the run will then go on (`Material.is_thrifty`).
    Raises `DeviceError` when that runs out of memory, too.
    """
    advice = "choose a smaller batch_size (in a --config file) or another device"
    with telling_of_memory(backbone.device, f"batch_size {request.config.batch_size}", advice):
        material = prepare_material(request, backbone)

        def thrifty() -> Estimate:
            backbone.recompute_activations(True)
            return _estimate(request, replace(material, is_thrifty=True))

        try:
            return with_less_memory(lambda: _estimate(request, material), thrifty)
        finally:
            backbone.recompute_activations(False)


def _estimate(request: LearnRequest, material: Material) -> Estimate:
    config = request.config.model_copy(update={"initial_timesteps": TIMED_TIMESTEPS})
    backbone = material.backbone
    rows = Parameter(starting_rows(backbone, request.concepts, config, request.start))
    examples = material.examples
    pictures = len(examples)

    side = backbone.size
    grids = [
        mask_grids(
            np.ones((len(example.concepts), side, side), dtype=np.bool_),
            material.latent_side,
            material.loss_side,
            rows.device,
        )
        for example in examples
    ]
    descent = Descent([rows], [], config.token_lr, config.clip_norm, backbone.dtype)

    def timed_step(step: int) -> None:
        sources = [example.source for example in examples]
        draws = draw_batch(
            config.seed, "estimate", step, config.batch_size, sources, backbone.num_train_timesteps
        )
        token_step(material, rows, descent, material.batch(draws, grids), config)

    timed_step(0)  # the first one also pays for what libraries prepare once
    # Medians: one hiccup of a busy machine must not be taken for the pace of the whole run.
    per_step = median(_timed(partial(timed_step, 1 + step))[1] for step in range(TIMED_STEPS))

    passes_timed = [_timed(lambda: initial_maps(material, rows, 0, config)) for _ in range(TIMED_STEPS)]
    maps = passes_timed[0][0]
    per_pass = median(seconds for _, seconds in passes_timed) / TIMED_TIMESTEPS
    masks, first_crf = _timed(lambda: masks_from(examples[0], maps, config, None).masks)
    _, crf = _timed(lambda: masks_from(examples[0], maps, config, masks))
    per_image = 2 * config.sample_steps * per_pass
    previews = _previews(config.em_steps, config) * SAMPLES * per_image
    seconds: dict[Stage, float] = {
        "prior": missing_images(backbone, image_counts(request.class_words, config), config) * per_image,
        "tokens": config.inversion_steps * per_step if config.initializer == "inversion" else 0.0,
        "masks": 0.0,
        "em": config.em_steps * per_step + previews,
        "joint": 0.0,
    }
    if config.method != "gt":
        seconds["masks"] = pictures * (request.config.initial_timesteps * per_pass + first_crf)
    if config.mask_update_every is not None:
        updates = config.em_steps // config.mask_update_every
        timesteps = (
            config.batch_size / pictures if config.e_step_timesteps == "own" else config.e_step_timesteps
        )
        passes = 0.0 if config.e_step_source == "running_average" else timesteps * per_pass
        seconds["em"] += updates * pictures * (passes + crf)
    if config.trains_weights:
        per_joint = per_step * WEIGHT_GRADIENTS * (2.0 if config.prior_weight > 0 else 1.0)
        if config.weights == "alternate":
            seconds["em"] += config.em_steps * per_joint
        seconds["joint"] = (
            config.joint_steps * per_joint + _previews(config.joint_steps, config) * SAMPLES * per_image
        )
    peak = _peak_bytes(backbone) + WEIGHT_BYTES * dense_numbers(backbone, config)
    return Estimate(seconds, peak, disk_bytes(backbone, config))


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def _previews(steps: int, config: LearnConfig) -> int:
    if config.preview_every == 0 or steps == 0:
        return 0
    return -(-steps // config.preview_every)


def _peak_bytes(backbone: Backbone) -> int:
    if backbone.device.type == "cuda":
        return torch.cuda.max_memory_allocated(backbone.device)
    if (
        sys.platform == "win32"
    ):  # no peak to ask for: weights in float32 and as much again for what passes through
        parts = (backbone.unet, backbone.text_encoder, backbone.vae)
        return 8 * sum(parameter.numel() for part in parts for parameter in part.parameters())
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
