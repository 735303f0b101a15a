"""Concepts that nobody named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conceptloom.backbone import Backbone, encode_prompts, load_backbone, tokenize
from conceptloom.errors import ConfigError, DeviceError
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.learning.discover import (
    WORD_TIMES,
    best_word,
    cell_colours,
    denoising_errors,
    discover,
    free_name,
    looks,
)
from conceptloom.masks import iou
from conceptloom.pictures import Picture, square_frame
from conceptloom.seeding import noise
from tiny_models import out_of_memory

WORDS, PLACES = ("cat", "dog"), ("beach",)


def _picture(side: int = 90) -> Picture:
    return Picture("yard", None, np.random.default_rng(0).integers(0, 255, (70, side, 3), dtype=np.uint8))


def _latents(backbone: Backbone) -> torch.Tensor:
    return backbone.encode_moments(square_frame(_picture().pixels, backbone.size)[None]).mean


def test_proposals_are_subjects_then_the_place_each_with_a_word_a_name_and_a_mask_of_the_pictures_size(
    tiny_backbone: Backbone,
) -> None:
    found = discover(_picture(), words=WORDS, places=PLACES, base_model=tiny_backbone)
    assert 1 <= sum(one.kind == "subject" for one in found) <= 4
    for one in found:
        assert one.word in (WORDS if one.kind == "subject" else PLACES)
        assert one.name == one.segment.concept
        assert one.segment.mask.shape == (70, 90)
    assert len({one.name for one in found}) == len(found)


def test_no_more_things_than_asked_for_are_proposed(tiny_backbone: Backbone) -> None:
    found = discover(_picture(), words=WORDS, places=PLACES, most=1, base_model=tiny_backbone)
    assert [one.kind for one in found] == ["subject", "background"]


def test_the_same_seed_proposes_the_same(tiny_backbone: Backbone) -> None:
    one, other = (
        discover(_picture(), words=WORDS, places=PLACES, base_model=tiny_backbone) for _ in range(2)
    )
    assert [(a.name, a.word) for a in one] == [(b.name, b.word) for b in other]
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.segment.mask, b.segment.mask)


@pytest.mark.parametrize(
    "wrong", [{"most": 0}, {"words": ()}, {"places": ()}], ids=["no thing", "no word", "no place"]
)
def test_nothing_to_propose_from_is_refused_in_one_line(wrong: dict, tiny_backbone: Backbone) -> None:
    with pytest.raises(ConfigError) as raised:
        discover(_picture(), base_model=tiny_backbone, **wrong)
    assert "\n" not in str(raised.value)


def test_running_out_of_memory_is_told_in_one_line(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_backbone, "predict", out_of_memory)
    with pytest.raises(DeviceError, match=r"^'cpu' ran out of memory at looking for concepts: free some"):
        discover(_picture(), words=WORDS, places=PLACES, base_model=tiny_backbone)


def test_a_cells_looks_sum_to_one(tiny_backbone: Backbone) -> None:
    affinity = looks(tiny_backbone, _latents(tiny_backbone))
    np.testing.assert_allclose(affinity.sum(axis=1), 1, rtol=1e-5)
    assert affinity.min() >= 0


def test_errors_are_those_of_denoising_under_each_word_alone(tiny_backbone: Backbone) -> None:
    latents, side = _latents(tiny_backbone), tiny_backbone.latent_shape[-1]
    errors = denoising_errors(tiny_backbone, latents, WORDS, side, seed=3)
    hidden = encode_prompts(tiny_backbone, [tokenize(tiny_backbone, "dog", {})], None)
    total = torch.zeros(side * side)
    for index, share in enumerate(WORD_TIMES):
        timestep = torch.tensor([round(share * tiny_backbone.num_train_timesteps)])
        added = noise(latents.shape, 3, "discover", "words", index)
        with torch.no_grad():
            prediction = tiny_backbone.predict(
                tiny_backbone.add_noise(latents, added, timestep), timestep, hidden
            )
        target = tiny_backbone.target(latents, added, timestep)
        total += (prediction - target).square().mean(dim=1).flatten() / len(WORD_TIMES)
    np.testing.assert_allclose(errors[1], total, rtol=2e-4)
    coarse = denoising_errors(tiny_backbone, latents, WORDS, side // 2, seed=3)
    pooled = F.avg_pool2d(torch.from_numpy(errors).view(2, side, side), 2).flatten(1)
    np.testing.assert_allclose(coarse, pooled, rtol=1e-4)


def test_a_cells_colour_is_the_mean_over_its_pixels() -> None:
    frame = np.zeros((8, 8, 3), dtype=np.uint8)
    frame[:4, :4] = 255
    frame[0, 4] = 255
    np.testing.assert_allclose(cell_colours(frame, 2)[:, 0], [100, 100 / 16, 0, 0], atol=0.01)


def test_the_best_word_has_the_least_error_in_the_part() -> None:
    errors = np.array([[1.0, 9.0], [2.0, 0.0]], dtype=np.float32)
    assert best_word(errors, np.array([True, False])) == 0
    assert best_word(errors, np.array([True, True])) == 1


def test_names_are_made_from_words_and_never_twice() -> None:
    assert free_name("brick wall", {}) == "brick-wall"
    assert free_name("cat", {"cat", "cat-2"}) == "cat-3"
    assert free_name("猫", {}) == "thing"
    assert len(free_name("a" * 99, {"a" * 28})) <= 32


@pytest.mark.slow
def test_most_subjects_of_dev_scenes_are_found_by_the_built_in_model() -> None:
    backbone = load_backbone("builtin", device="cpu")
    found, true = 0, 0
    for one in builtin_benchmark("dev", 8).sets:
        picture = one.pictures[0]
        masks = [proposal.segment.mask for proposal in discover(picture, base_model=backbone)]
        kinds = {concept.name: concept.kind for concept in one.concepts}
        for name, mask in picture.masks.items():
            if kinds[name] == "subject":
                true += 1
                found += any(iou(mask, other) > 0.5 for other in masks)
    assert found / true > 0.5
