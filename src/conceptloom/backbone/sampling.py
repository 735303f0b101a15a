"""The denoising loop: DDIM with classifier-free guidance and noise that no batch size can change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from conceptloom.backbone.devices import with_less_memory
from conceptloom.backbone.model import Backbone
from conceptloom.backbone.schedule import clean_and_noise, ddim_step
from conceptloom.seeding import noise

SampleKey: TypeAlias = tuple[int, *tuple[int | str, ...]]
"""(seed, *key) of one sample: all its noise derives from it."""


@torch.no_grad()
def sample(
    backbone: Backbone,
    encoder_hidden_states: Tensor,
    negative: Tensor,
    seeds: Sequence[SampleKey],
    *,
    guidance_scale: float,
    num_inference_steps: int,
    eta: float = 0.0,
    guidance_rescale: float = 0.0,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Latents (B, c, h, w) float32 of a batch of prompts.

    Each sample's starting noise, and its noise at every step where eta > 0, comes from its own key, so an image does
    not depend on the batch it is drawn in. Where the memory does not suffice for all, they are drawn one by one.

    Args:
        backbone: the base model.
        encoder_hidden_states: (B, S, D) of the prompts.
        negative: (1, S, D) of the prompt to be led away from, usually the empty one.
        seeds: one key per sample.
        guidance_scale: 1 leaves `negative` out and halves the work.
        num_inference_steps: steps, spaced as the base model's scheduler says.
        eta: 0 is deterministic DDIM, 1 adds as much noise as DDPM.
        guidance_rescale: share (0 to 1) by which the guided prediction's spread is brought back to the unguided one's
            (arXiv 2305.08891, section 3.4).
        on_step: called after each step with (steps done, steps in all); an exception it raises stops the loop and
            leaves nothing behind.
    """

    def drawn(at_once: int) -> Tensor:
        latents = []
        for first in range(0, len(seeds), at_once):
            rows = slice(first, first + at_once)
            latents.append(
                _sample(
                    backbone,
                    encoder_hidden_states[rows],
                    negative,
                    seeds[rows],
                    guidance_scale,
                    num_inference_steps,
                    eta,
                    guidance_rescale,
                    _overall(on_step, first, at_once, len(seeds)),
                )
            )
        return torch.cat(latents)

    return with_less_memory(lambda: drawn(len(seeds)), lambda: drawn(1))


def _sample(
    backbone: Backbone,
    encoder_hidden_states: Tensor,
    negative: Tensor,
    seeds: Sequence[SampleKey],
    guidance_scale: float,
    num_inference_steps: int,
    eta: float,
    guidance_rescale: float,
    on_step: Callable[[int, int], None] | None,
) -> Tensor:
    schedule = backbone.noise_scheduler
    latents = _noise(backbone, seeds, "start")
    timesteps = schedule.inference_timesteps(num_inference_steps)
    for index, timestep in enumerate(timesteps):
        model_pred = _guided_prediction(
            backbone, latents, timestep, encoder_hidden_states, negative, guidance_scale, guidance_rescale
        )
        alpha_bar = schedule.alphas_cumprod[timestep]
        if index + 1 < len(timesteps):
            alpha_bar_next = schedule.alphas_cumprod[timesteps[index + 1]]
        else:
            alpha_bar_next = alpha_bar.new_tensor(schedule.final_alpha_cumprod)
        clean, eps = clean_and_noise(latents, model_pred, alpha_bar, schedule.prediction_type)
        added = _noise(backbone, seeds, "step", index) if eta > 0 else None
        latents = ddim_step(clean, eps, alpha_bar, alpha_bar_next, eta, added)
        if on_step is not None:
            on_step(index + 1, len(timesteps))
    return latents


def _overall(
    on_step: Callable[[int, int], None] | None, before: int, now: int, samples: int
) -> Callable[[int, int], None] | None:
    """Progress of `now` samples after `before` others as progress over all of them."""
    if on_step is None or now == samples:
        return on_step
    return lambda step, steps: on_step((before * steps + now * step) // samples, steps)


def _guided_prediction(
    backbone: Backbone,
    latents: Tensor,
    timestep: int,
    conditional: Tensor,
    negative: Tensor,
    guidance_scale: float,
    guidance_rescale: float,
) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598) with one pass over prompts and negatives together."""
    count = len(latents)
    if guidance_scale == 1.0:
        return backbone.predict(latents, torch.full((count,), timestep, device=latents.device), conditional)
    both = backbone.predict(
        torch.cat([latents, latents]),
        torch.full((2 * count,), timestep, device=latents.device),
        torch.cat([negative.expand(count, -1, -1), conditional]),
    )
    unguided, prompted = both.chunk(2)
    guided = unguided + guidance_scale * (prompted - unguided)
    if guidance_rescale == 0.0:
        return guided
    spread = prompted.flatten(1).std(dim=1) / guided.flatten(1).std(dim=1)  # (B,)
    return guided * (1 - guidance_rescale + guidance_rescale * spread).view(-1, 1, 1, 1)


def _noise(backbone: Backbone, seeds: Sequence[SampleKey], *key: int | str) -> Tensor:
    """(B, c, h, w) standard normal, each sample from its own generator on the CPU."""
    drawn = [noise(backbone.latent_shape, seed, *own, *key) for seed, *own in seeds]
    return torch.stack(drawn).to(backbone.device)
