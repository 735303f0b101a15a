"""The methods that are compared: how each one's learning is configured, and the base model's class words alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from conceptloom.backbone import Backbone, encode_prompts, sample, tokenize
from conceptloom.evaluation.benchmark import BenchmarkSet, TestPrompt
from conceptloom.generation import resolve_settings
from conceptloom.learning import LearnConfig, LearnRequest, build_request, resolve_config

MethodName = Literal["gt", "fixed", "paper", "refined", "refined-once", "literal", "inversion", "words"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
WITHOUT_MASKS: frozenset[MethodName] = frozenset({"inversion", "words"})
"""Methods that find no masks."""
FINDS_ONCE: frozenset[MethodName] = frozenset({"fixed", "refined-once"})
"""Methods whose masks are known before the first step."""
OURS: tuple[MethodName, ...] = ("paper", "refined")
"""Methods that are voted for; see `our_method` for the rest."""
BASELINE: MethodName = "fixed"
TRUTH: MethodName = "gt"


def our_method(methods: Collection[str]) -> MethodName | None:
    """Whose images the figures show and whose two seeds make the neutral margin: the first of `OURS` among methods."""
    return next((method for method in OURS if method in methods), None)


def finds_masks(method: MethodName) -> bool:
    """Whether its masks are its own: some need none, and `gt` is given the true ones."""
    return method not in WITHOUT_MASKS and method != TRUTH


def method_config(
    family: str, method: MethodName, seed: int, overrides: Mapping[str, Any] | None = None
) -> LearnConfig:
    """Configuration of one run of `method`, silent and without previews.

    "inversion" is textual inversion: as many steps of Eq. 1 without masks as EM has, and no joint stage. "refined-once"
    is `refined` with EM off: its first masks stay, so that what EM adds is told from what the E-step adds.

    Raises:
        ConfigError: an unknown family, key or value.
        ValueError: "words", which learns nothing.
    """
    if method == "words":
        raise ValueError("the class words alone are not learned")
    # A unit that is interrupted starts again, so checkpoints would only cost time.
    quiet = {"seed": seed, "preview_every": 0, "checkpoint_every": 1_000_000}
    if method == "refined-once":
        once = {"method": "refined", "mask_update_every": None}
        return resolve_config(family, {**quiet, **(overrides or {}), **once})
    if method != "inversion":
        return resolve_config(family, {**quiet, "method": method, **(overrides or {})})
    steps = resolve_config(family, {"method": "fixed", **(overrides or {})}).em_steps
    without_masks = {
        "method": "fixed",
        "initializer": "inversion",
        "inversion_steps": max(steps, 1),
        "em_steps": 0,
        "train": "tokens",
    }
    return resolve_config(family, {**quiet, **(overrides or {}), **without_masks})


def learn_request(one: BenchmarkSet, backbone: Backbone, config: LearnConfig) -> LearnRequest:
    """What a run on `one` is asked to learn; true masks are handed over for `gt` only."""
    return build_request(
        one.pictures,
        one.words,
        config,
        contains=one.contains,
        prompts=one.captions,
        kinds=one.kinds,
        backgrounds=backbone.backgrounds,
    )


def draw_class_words(
    backbone: Backbone, prompt: TestPrompt, one: BenchmarkSet, num: int, seed: int
) -> Iterator[npt.NDArray[np.uint8]]:
    """The base model's own `num` images (H, W, 3) of a prompt of `one` with class words, nothing learned.

    They start from the noise that `generation.generate` takes for the same seed and image number.
    """
    settings = resolve_settings(backbone.version)
    negative = encode_prompts(backbone, [tokenize(backbone, "", {})], None)
    text = prompt.class_words_text(one.class_words)
    hidden = encode_prompts(backbone, [tokenize(backbone, text, {})], None)
    for start in range(0, num, settings.batch_size):
        indices = range(start, min(start + settings.batch_size, num))
        with torch.no_grad():
            latents = sample(
                backbone,
                hidden.expand(len(indices), -1, -1),
                negative,
                [(seed, "generate", index) for index in indices],
                guidance_scale=settings.guidance_scale,
                num_inference_steps=settings.num_inference_steps,
            )
        yield from backbone.decode(latents)
