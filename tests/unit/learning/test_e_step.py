"""From maps to masks, and averages of maps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conceptloom.backbone import Backbone
from conceptloom.concepts import Concept
from conceptloom.learning import LearningPicture, LearnRequest, batches, resolve_config
from conceptloom.learning.draws import Draw
from conceptloom.learning.e_step import (
    MeanMaps,
    RunningAverages,
    collapsed,
    fresh_maps,
    initial_maps,
    map_weights,
    masks_from,
    same_things,
    signal_share,
)
from conceptloom.learning.initialise import starting_rows
from conceptloom.learning.trainer import prepare_material
from conceptloom.masks import Held
from conceptloom.pictures import Picture

KEY = ("em", 0, 0)


def first(*maps: list[list[float]]) -> list[MeanMaps]:
    return [MeanMaps(np.array(maps, dtype=np.float32), np.ones(len(maps), dtype=np.int64))]


def test_a_running_average_forgets_at_its_decay() -> None:
    averages = RunningAverages.starting_from(first([[1.0, 0.0]]), 0.5)  # starts with weight 2
    averages.add(Draw(0, (0,), False, 10, KEY), np.array([[[0.0, 1.0]]], dtype=np.float32), 1.0, 0.5)
    np.testing.assert_allclose(averages.maps(0).maps, [[[0.5, 0.5]]])


def test_a_running_average_stays_when_the_same_map_comes_again_at_any_weight() -> None:
    averages = RunningAverages.starting_from(first([[0.2, 0.8]]), 0.9)
    for weight in (1.0, 0.3, 0.0, 0.7):
        averages.add(Draw(0, (0,), False, 10, KEY), np.array([[[0.2, 0.8]]], dtype=np.float32), weight, 0.9)
    np.testing.assert_allclose(averages.maps(0).maps, [[[0.2, 0.8]]], rtol=1e-6)


def test_a_map_at_pure_noise_counts_for_nothing() -> None:
    averages = RunningAverages.starting_from(first([[0.2, 0.8]]), 0.9)
    weight = float(signal_share(torch.tensor([-float("inf")])))
    averages.add(Draw(0, (0,), False, 999, KEY), np.array([[[9.0, 9.0]]], dtype=np.float32), weight, 0.9)
    np.testing.assert_allclose(averages.maps(0).maps, [[[0.2, 0.8]]], rtol=1e-6)


def test_a_running_average_starts_as_if_maps_of_the_usual_weight_had_come_forever() -> None:
    averages = RunningAverages.starting_from(first([[0.2, 0.8]]), 0.75, 0.5)
    averages.add(Draw(0, (0,), False, 10, KEY), np.array([[[1.0, 0.0]]], dtype=np.float32), 0.5, 0.75)
    np.testing.assert_allclose(averages.weights[0], [2.0])  # 0.5 / (1 - 0.75) again
    np.testing.assert_allclose(averages.maps(0).maps, [[[0.4, 0.6]]], rtol=1e-6)


@pytest.mark.parametrize("weighting", ["signal", "uniform"])
def test_maps_outside_of_the_timestep_range_count_for_nothing(
    weighting: str, tiny_backbone: Backbone
) -> None:
    changes = {"running_average_weighting": weighting, "timestep_range": (0.3, 0.7)}
    weights = map_weights(torch.tensor([299, 300, 699, 700]), tiny_backbone, resolve_config("sd", changes))
    assert (weights > 0).tolist() == [False, True, True, False]
    if weighting == "signal":
        torch.testing.assert_close(
            weights[1:3], signal_share(tiny_backbone.log_snr(torch.tensor([300, 699])))
        )


def test_signal_share_is_the_signals_part_of_the_variance() -> None:
    alpha_bar = torch.tensor([0.9, 0.5, 0.1])
    torch.testing.assert_close(signal_share(torch.log(alpha_bar / (1 - alpha_bar))), alpha_bar)


def test_maps_of_mirrored_draws_are_mirrored_back() -> None:
    averages = RunningAverages.starting_from(first([[0.0, 0.0, 0.0]]), 0.0)
    averages.add(Draw(0, (0,), True, 10, KEY), np.array([[[1.0, 2.0, 3.0]]], dtype=np.float32), 1.0, 0.0)
    np.testing.assert_array_equal(averages.maps(0).maps, [[[3.0, 2.0, 1.0]]])


def test_each_concept_updates_its_own_average_only() -> None:
    averages = RunningAverages.starting_from(first([[1.0]], [[2.0]], [[3.0]]), 0.5)
    averages.add(Draw(0, (2, 0), False, 10, KEY), np.array([[[7.0]], [[5.0]]], dtype=np.float32), 2.0, 0.5)
    np.testing.assert_allclose(averages.maps(0).maps.ravel(), [(1 + 2 * 5) / 3, 2.0, (3 + 2 * 7) / 3])
    assert averages.counts[0].tolist() == [2, 1, 2]


def test_collapsed_masks_are_empty_full_or_the_same() -> None:
    masks = np.zeros((6, 8, 8), dtype=bool)
    masks[1] = True
    masks[2, :4], masks[3, :4], masks[4, 4:], masks[5, 2:6, 2:6] = True, True, True, True
    assert collapsed(masks) == (0, 1, 2, 3)


def test_a_lone_concept_may_fill_its_picture() -> None:
    assert collapsed(np.ones((1, 4, 4), dtype=bool)) == ()


@pytest.fixture
def request_(tmp_path: Path) -> LearnRequest:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    names = ("cat", "dog")
    return LearnRequest(
        (LearningPicture(Picture("one", None, pixels), names),),
        tuple(Concept(name, "subject", name) for name in names),
        resolve_config("sd", {"initial_timesteps": 5, "e_step_timesteps": 6, "crf": {"iterations": 1}}),
    )


def changed(request: LearnRequest, **values: Any) -> LearnRequest:
    return LearnRequest(request.pictures, request.concepts, request.config.model_copy(update=values))


def test_chunks_of_timesteps_give_the_maps_of_one_pass(
    request_: LearnRequest, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    material = prepare_material(request_, tiny_backbone)
    rows = starting_rows(tiny_backbone, request_.concepts, request_.config)
    whole = initial_maps(material, rows, 0, request_.config)
    monkeypatch.setattr(batches, "CELLS_PER_PASS", 2 * 16 * 16)
    np.testing.assert_allclose(initial_maps(material, rows, 0, request_.config).maps, whole.maps, rtol=1e-4)


def test_maps_are_a_mean_of_probabilities(request_: LearnRequest, tiny_backbone: Backbone) -> None:
    material = prepare_material(request_, tiny_backbone)
    rows = starting_rows(tiny_backbone, request_.concepts, request_.config)
    maps = initial_maps(material, rows, 0, request_.config).maps
    assert maps.shape == (2, 16, 16)
    assert maps.min() >= 0
    assert maps.sum(axis=0).max() <= 1 + 1e-5


def test_the_e_steps_noise_differs_from_step_to_step_and_is_repeatable(
    request_: LearnRequest, tiny_backbone: Backbone
) -> None:
    material = prepare_material(request_, tiny_backbone)
    rows = starting_rows(tiny_backbone, request_.concepts, request_.config)
    one, two, again = (fresh_maps(material, rows, 0, request_.config, step, ()).maps for step in (1, 2, 1))
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(one, again)


def test_own_timesteps_are_those_drawn_for_the_picture(
    request_: LearnRequest, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = changed(request_, e_step_timesteps="own")
    material = prepare_material(own, tiny_backbone)
    seen: list[int] = []
    original = tiny_backbone.predict

    def predict(noisy_latents: torch.Tensor, timesteps: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        seen.extend(timesteps.tolist())
        return original(noisy_latents, timesteps, hidden)

    monkeypatch.setattr(tiny_backbone, "predict", predict)
    draws = [Draw(0, (0,), False, 123, KEY), Draw(1, (0,), False, 5, KEY), Draw(0, (1,), True, 456, KEY)]
    rows = starting_rows(tiny_backbone, own.concepts, own.config)
    fresh_maps(material, rows, 0, own.config, 0, draws)
    assert seen == [123, 456]


def test_subset_prompts_average_each_concept_over_the_prompts_that_name_it(
    request_: LearnRequest, tiny_backbone: Backbone
) -> None:
    subset = changed(request_, e_step_prompt="subset")
    material = prepare_material(subset, tiny_backbone)
    mean = fresh_maps(
        material, starting_rows(tiny_backbone, subset.concepts, subset.config), 0, subset.config, 0, ()
    )
    assert mean.counts.min() >= 1
    assert mean.counts.max() <= 6
    assert mean.counts.sum() < 12


def test_a_concept_no_prompt_named_keeps_its_mask(request_: LearnRequest, tiny_backbone: Backbone) -> None:
    material = prepare_material(request_, tiny_backbone)
    previous = np.zeros((2, 64, 64), dtype=bool)
    previous[0, :10], previous[1, :, :20] = True, True
    maps = np.zeros((2, 16, 16), dtype=np.float32)
    maps[0, 8:] = 1.0
    update = masks_from(material.examples[0], MeanMaps(maps, np.array([3, 0])), request_.config, previous)
    np.testing.assert_array_equal(update.masks[1], previous[1])
    assert update.masks[0, 40:].mean() > 0.9
    assert update.rescued.tolist() == [False, False]


def test_a_planted_map_comes_back_as_the_planted_mask(
    request_: LearnRequest, tiny_backbone: Backbone
) -> None:
    example = prepare_material(request_, tiny_backbone).examples[0]
    planted = np.zeros((2, 16, 16), dtype=np.float32)
    planted[0, 2:9, 3:8], planted[1, 6:15, 9:15] = 0.02, 0.005
    update = masks_from(example, MeanMaps(planted, np.array([1, 1])), request_.config, None)
    truth = (planted > 0).repeat(4, axis=1).repeat(4, axis=2)
    for mask, true in zip(update.masks, truth, strict=True):
        assert (mask & true).sum() / (mask | true).sum() > 0.8


def _same_maps() -> MeanMaps:
    maps = np.zeros((2, 16, 16), dtype=np.float32)
    maps[:, 3:7, 4:9] = np.array([1.0, 0.3], dtype=np.float32)[:, None, None]
    return MeanMaps(maps, np.array([1, 1]), np.eye(256, dtype=np.float32))


def test_two_subjects_whose_maps_are_alike_point_at_the_same_thing(
    request_: LearnRequest, tiny_backbone: Backbone
) -> None:
    example = prepare_material(request_, tiny_backbone).examples[0]
    assert same_things(example, _same_maps(), request_.config) == (("cat", "dog"),)


def test_subjects_whose_maps_differ_point_at_different_things(
    request_: LearnRequest, tiny_backbone: Backbone
) -> None:
    example = prepare_material(request_, tiny_backbone).examples[0]
    mean = _same_maps()
    mean.maps[1] = np.roll(mean.maps[1], 6, axis=1)
    assert same_things(example, mean, request_.config) == ()


def test_a_subject_with_a_hint_points_where_the_hint_says(
    request_: LearnRequest, tiny_backbone: Backbone
) -> None:
    example = prepare_material(request_, tiny_backbone).examples[0]
    is_it = np.zeros((2, 64, 64), dtype=bool)
    is_it[0, :8, :8] = True
    hinted = replace(example, held=Held(is_it, np.zeros_like(is_it)))
    assert same_things(hinted, _same_maps(), request_.config) == ()
