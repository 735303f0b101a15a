"""Defaults by family and what is refused."""

from __future__ import annotations

import math

import pytest

from conceptloom.errors import ConfigError
from conceptloom.generation import DEFAULTS, SampleSettings, resolve_settings


@pytest.mark.parametrize(
    ("version", "family"), [("builtin-1", "builtin"), ("builtin-3", "builtin"), (None, "sd")]
)
def test_a_base_model_takes_the_defaults_of_its_family(version: str | None, family: str) -> None:
    assert resolve_settings(version) == DEFAULTS[family]


def test_what_is_given_stands_over_the_defaults_one_by_one() -> None:
    settings = resolve_settings(None, guidance_scale=2.0, negative_prompt="blurred")
    default = DEFAULTS["sd"]
    assert settings == SampleSettings(2.0, default.num_inference_steps, default.batch_size, "blurred")


@pytest.mark.parametrize(
    "given",
    [
        {"guidance_scale": 0.5},
        {"guidance_scale": math.nan},
        {"guidance_scale": math.inf},
        {"num_inference_steps": 0},
        {"num_inference_steps": -3},
        {"batch_size": 0},
    ],
)
def test_a_number_out_of_range_is_refused_naming_it(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"is {next(iter(given.values())):g}: choose 1"):
        resolve_settings(None, **given)  # type: ignore[arg-type]


def test_a_negative_prompt_without_guidance_is_refused_because_it_would_do_nothing() -> None:
    with pytest.raises(ConfigError, match="does nothing at guidance scale 1"):
        resolve_settings(None, guidance_scale=1.0, negative_prompt="snow")
