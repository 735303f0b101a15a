"""The one table of numbers that depend on the base model's family or on the method.

Rates, steps, lambda and batch are shared by all methods of a family. Layers, threshold and CRF scale may differ
between methods, except that `literal` keeps the start values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from conceptloom.errors import ConfigError
from conceptloom.learning.config import LearnConfig, Method, parse_config

DEFAULT_METHOD: Method = "refined"

START_MASKS: dict[str, Any] = {"layers": "all", "tau": 0.4, "crf": {"scale": 1.0}}

E_STEP: dict[str, dict[str, Any]] = {
    "gt": {"mask_update_every": None, "e_step_timesteps": 10},
    "fixed": {"mask_update_every": None, "e_step_timesteps": 10},
    "paper": {"mask_update_every": 20, "e_step_timesteps": 10},
    "literal": {"mask_update_every": 1, "e_step_timesteps": "own"},
    "refined": {
        "mask_update_every": 20,
        "e_step_source": "running_average",
        "e_step_timesteps": 20,
        "running_average_weighting": "uniform",
    },
}

REFINED_MASKS: dict[str, Any] = {
    "layers": "up_16",
    "timestep_range": (0.3, 0.7),
    "propagation_steps": 1,
    "normalise": "spread",
    "tau": 0.6,
    "unary_temperature": 2.0,
    "crf_labels": "joint",
    "background_is_rest": True,
    "piece_peak": 0.5,
    "hole_share": 0.01,
    "crf": {"scale": 2.0, "bilateral_srgb": 8.0},
}
"""What measured best for the first masks (docs/LOG.md)."""

FORGETTING: dict[int, dict[str, Any]] = {
    4: {"running_average_decay": 0.97},
    1: {"running_average_decay": 0.97**4},
}
"""By batch size: what was measured at 4 forgets as much a step at 1."""


@dataclass(frozen=True)
class FamilyPreset:
    """Numbers of one family of base models."""

    shared: Mapping[str, Any]
    joint_lr: Mapping[str, float]
    """Rate of the joint stage by what it trains."""
    masks: Mapping[str, Mapping[str, Any]]
    """Layers, threshold, CRF scale and how fast averages forget, by method."""


PRESETS: dict[str, FamilyPreset] = {
    "builtin": FamilyPreset(
        shared={
            "em_steps": 400,
            "batch_size": 4,
            "token_lr": 1e-3,
            "lambda_attn": 0.01,
            "joint_steps": 200,
            "train": "full",
            "prior_images": 8,
            "preview_every": 100,
            "sample_steps": 25,
            "sample_guidance_scale": 3.0,
        },
        joint_lr={"full": 2e-5, "lora": 5e-4, "kv": 1e-4},
        masks={
            "gt": START_MASKS,
            "fixed": {"layers": "up_16", "tau": 0.2, "crf": {"scale": 2.0}},
            "paper": {"layers": "all", "tau": 0.25, "crf": {"scale": 2.0}},
            "literal": START_MASKS,
            "refined": REFINED_MASKS | FORGETTING[4],
        },
    ),
    "sd": FamilyPreset(
        shared={
            "em_steps": 400,
            "batch_size": 1,
            "token_lr": 5e-4,
            "lambda_attn": 0.01,
            "joint_steps": 400,
            "train": "full",
            "prior_images": 20,
            "sample_steps": 25,
            "sample_guidance_scale": 7.5,
        },
        joint_lr={"full": 2e-6, "lora": 1e-4, "kv": 1e-5},
        masks={
            "gt": START_MASKS,
            "fixed": START_MASKS,
            "paper": START_MASKS,
            "literal": START_MASKS,
            "refined": REFINED_MASKS | FORGETTING[1],
        },
    ),
}


def resolve_config(family: str, overrides: Mapping[str, Any] | None = None) -> LearnConfig:
    """The preset of `family` for the method in `overrides` (`DEFAULT_METHOD` when it names none), `overrides` on top.

    A partial `crf` table changes only the keys it names. Raises `ConfigError` for an unknown family, key or value.
    """
    if family not in PRESETS:
        raise ConfigError(f"unknown family of base models '{family}': expected one of {', '.join(PRESETS)}")
    changes = dict(overrides or {})
    method = changes.get("method", DEFAULT_METHOD)
    if method not in get_args(Method):
        raise ConfigError(
            f"configuration key 'method': expected one of {', '.join(get_args(Method))} (got {method!r})"
        )
    preset = PRESETS[family]
    values: dict[str, Any] = {"method": method, **preset.shared, **E_STEP[method], **preset.masks[method]}
    if isinstance(changes.get("crf"), Mapping):
        changes["crf"] = {**values["crf"], **changes["crf"]}
    values.update(changes)
    trained = values["train"] if isinstance(values["train"], str) else "full"  # parse_config refuses the rest
    values.setdefault("joint_lr", preset.joint_lr.get(trained, preset.joint_lr["full"]))
    return parse_config(values)
