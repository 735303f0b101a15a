"""Pictures of the built-in model by fixed noise, as the golden ones in `golden/builtin.png` were made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from conceptloom.backbone import Backbone, encode_prompts, sample, tokenize

GOLDEN = Path(__file__).parent / "golden" / "builtin.png"
PROMPTS = ("a penguin on snow", "a house in front of mountain", "an apple and a banana on wood")


def draw(backbone: Backbone, prompt: str) -> npt.NDArray[np.uint8]:
    """One picture (H, W, 3) of a prompt in ten steps."""
    hidden = encode_prompts(backbone, [tokenize(backbone, prompt, {}), tokenize(backbone, "", {})], None)
    latents = sample(
        backbone, hidden[:1], hidden[1:], [(0, "test")], guidance_scale=3.0, num_inference_steps=10
    )
    return backbone.decode(latents)[0]


def golden_sheet(backbone: Backbone) -> npt.NDArray[np.uint8]:
    """The pictures of all prompts, side by side."""
    return np.concatenate([draw(backbone, prompt) for prompt in PROMPTS], axis=1)
