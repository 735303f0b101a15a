"""How each compared method learns, and the class words alone."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.backbone import Backbone, encode_prompts, sample, tokenize
from conceptloom.evaluation.methods import METHODS, draw_class_words, learn_request, method_config
from conceptloom.generation import DEFAULTS
from tiny_sets import tiny_benchmark_set


@pytest.mark.parametrize("method", ["gt", "fixed", "paper", "literal", "refined"])
def test_a_method_of_the_learner_keeps_its_preset(method: str) -> None:
    from conceptloom.learning import resolve_config

    config = method_config("builtin", method, 7)  # type: ignore[arg-type]
    quiet = {"seed": 7, "preview_every": 0, "checkpoint_every": 1_000_000}
    assert config == resolve_config("builtin", {"method": method, **quiet})


def test_inversion_takes_as_many_steps_without_masks_as_em_has_and_trains_no_weights() -> None:
    config = method_config("builtin", "inversion", 0, {"em_steps": 30})
    assert (config.initializer, config.inversion_steps, config.em_steps, config.train) == (
        "inversion",
        30,
        0,
        "tokens",
    )


def test_the_class_words_have_no_configuration() -> None:
    with pytest.raises(ValueError, match="not learned"):
        method_config("builtin", "words", 0)


def test_overrides_reach_every_method_that_learns() -> None:
    for method in METHODS:
        if method != "words":
            assert method_config("builtin", method, 0, {"batch_size": 3}).batch_size == 3


def test_a_request_takes_words_kinds_and_pictures_of_the_set(tiny_backbone: Backbone) -> None:
    request = learn_request(tiny_benchmark_set(), tiny_backbone, method_config("sd", "gt", 0))
    assert [(one.name, one.kind, one.initializer) for one in request.concepts] == [
        ("pet", "subject", "cat"),
        ("place", "background", "beach"),
    ]
    assert request.pictures[0].concepts == ("pet", "place")


def test_class_words_are_drawn_as_the_base_model_draws_the_same_words(tiny_backbone: Backbone) -> None:
    settings = DEFAULTS["sd"]
    one = tiny_benchmark_set()
    drawn = list(draw_class_words(tiny_backbone, one.prompts[1], one, 2, 5))
    hidden = encode_prompts(tiny_backbone, [tokenize(tiny_backbone, "a cat on the beach", {})], None)
    negative = encode_prompts(tiny_backbone, [tokenize(tiny_backbone, "", {})], None)
    latents = sample(
        tiny_backbone,
        hidden,
        negative,
        [(5, "generate", 1)],
        guidance_scale=settings.guidance_scale,
        num_inference_steps=settings.num_inference_steps,
    )
    assert len(drawn) == 2
    assert np.abs(drawn[1].astype(int) - tiny_backbone.decode(latents)[0].astype(int)).max() <= 2


def test_refined_once_is_refined_with_the_e_step_off() -> None:
    once, refined = (method_config("builtin", name, 3) for name in ("refined-once", "refined"))
    assert once.mask_update_every is None
    assert once.model_copy(update={"mask_update_every": refined.mask_update_every}) == refined
