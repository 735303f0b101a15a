"""Sample images under the present tokens and weights: previews, and the base model's prior images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from conceptloom.backbone import Backbone, SampleKey, encode_prompts, sample, tokenize
from conceptloom.learning.config import LearnConfig


@torch.no_grad()
def draw_images(
    backbone: Backbone,
    prompt: str,
    rows: Tensor | None,
    placeholders: Mapping[str, int],
    seeds: Sequence[SampleKey],
    config: LearnConfig,
) -> npt.NDArray[np.uint8]:
    """One image per seed key, (B, side, side, 3) sRGB, with the configuration's steps and guidance scale."""
    conditional = encode_prompts(backbone, [tokenize(backbone, prompt, placeholders)], rows)
    negative = encode_prompts(backbone, [tokenize(backbone, "", {})], None)
    latents = sample(
        backbone,
        conditional.expand(len(seeds), -1, -1),
        negative,
        seeds,
        guidance_scale=config.sample_guidance_scale,
        num_inference_steps=config.sample_steps,
    )
    return backbone.decode(latents)
