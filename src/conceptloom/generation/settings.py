"""How images are sampled, with one row of defaults per family of base models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from conceptloom.backbone import family_of
from conceptloom.errors import ConfigError


@dataclass(frozen=True)
class SampleSettings:
    """What decides how a prompt becomes an image, beside its seed.

    Attributes:
        guidance_scale: of classifier-free guidance; 1 is none and takes half the time.
        num_inference_steps: steps of the denoising loop.
        batch_size: images drawn at a time; it changes speed and memory, never an image.
        negative_prompt: what to lead away from; it may name concepts.

    Raises:
        ConfigError: a number out of range, or a negative prompt that could do nothing.
    """

    guidance_scale: float
    num_inference_steps: int
    batch_size: int
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.guidance_scale) and self.guidance_scale >= 1):
            raise ConfigError(
                f"the guidance scale is {self.guidance_scale:g}: choose 1 (no guidance) or more"
            )
        if self.negative_prompt and self.guidance_scale == 1:
            raise ConfigError(
                "a negative prompt does nothing at guidance scale 1: raise that or leave it out"
            )
        if self.num_inference_steps < 1:
            raise ConfigError(f"the number of steps is {self.num_inference_steps}: choose 1 or more")
        if self.batch_size < 1:
            raise ConfigError(f"the batch size is {self.batch_size}: choose 1 or more")


DEFAULTS: Mapping[str, SampleSettings] = {
    "builtin": SampleSettings(guidance_scale=3.0, num_inference_steps=25, batch_size=4),
    "sd": SampleSettings(guidance_scale=7.5, num_inference_steps=30, batch_size=1),
}
"""By family: our own models ("builtin"), and Stable Diffusion 1 and 2 ("sd"), which is every other model."""


def resolve_settings(
    version: str | None,
    *,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    batch_size: int | None = None,
    negative_prompt: str = "",
) -> SampleSettings:
    """The defaults of the base model with this `version` ("builtin-1", None), with what is given on top.

    Raises `ConfigError` for a number out of range.
    """
    given: dict[str, Any] = {
        "guidance_scale": guidance_scale,
        "num_inference_steps": num_inference_steps,
        "batch_size": batch_size,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return replace(DEFAULTS[family_of(version)], negative_prompt=negative_prompt, **changes)
