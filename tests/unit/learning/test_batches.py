"""From draws to tensors and losses."""

from typing import Any

import numpy as np
import pytest
import torch

from conceptloom.backbone import AttentionLayer, Backbone, tokenize
from conceptloom.concepts import Concept
from conceptloom.errors import ConfigError, PromptError
from conceptloom.learning import LearningPicture, LearnRequest, resolve_config
from conceptloom.learning.batches import Material, attention_loss_side, loss_layers, map_layers
from conceptloom.learning.draws import Draw
from conceptloom.learning.example import MaskGrids, mask_grids
from conceptloom.learning.initialise import starting_rows
from conceptloom.learning.objective import average_layers, concept_objective
from conceptloom.learning.phrases import template_prompt
from conceptloom.learning.trainer import prepare_material
from conceptloom.pictures import Picture

LAYERS = (
    AttentionLayer("d0", "down", 64),
    AttentionLayer("d1", "down", 16),
    AttentionLayer("m", "mid", 8),
    AttentionLayer("u1", "up", 16),
    AttentionLayer("u0", "up", 64),
)


def test_eq4_acts_on_the_16_maps_of_down_and_up() -> None:
    assert loss_layers(LAYERS) == {"d1", "u1"}


def test_eq4_takes_the_nearest_side_where_there_is_no_16() -> None:
    layers = [AttentionLayer(place, place, side) for place, side in (("down", 24), ("mid", 16), ("up", 8))]  # type: ignore[arg-type]
    assert attention_loss_side(layers) == 24


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ("all", "d0 d1 m u0 u1"),
        ("up", "u0 u1"),
        ("up_16", "u1"),
        ("down", "d0 d1"),
        ("mid", "m"),
        ("up_down", "d0 d1 u0 u1"),
    ],
)
def test_layers_are_chosen_by_place(chosen: str, names: str) -> None:
    assert map_layers(LAYERS, chosen) == set(names.split())  # type: ignore[arg-type]


def test_layers_the_model_does_not_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="'mid'"):
        map_layers([layer for layer in LAYERS if layer.place != "mid"], "mid")


def test_layers_of_all_sides_weigh_the_same_after_resizing() -> None:
    maps = {"coarse": torch.full((1, 1, 4), 0.2), "fine": torch.full((1, 1, 16), 0.4)}
    torch.testing.assert_close(average_layers(maps, frozenset(maps), 4), torch.full((1, 1, 4, 4), 0.3))


@pytest.fixture(scope="module")
def request_() -> LearnRequest:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    names = ("cat", "dog")
    return LearnRequest(
        (LearningPicture(Picture("one", None, pixels), names),),
        tuple(Concept(name, "subject", name) for name in names),
        resolve_config("sd", {"lambda_attn": 0.5}),
    )


@pytest.fixture(scope="module")
def material(request_: LearnRequest, tiny_backbone: Backbone) -> Material:
    return prepare_material(request_, tiny_backbone)


def grids(masks: np.ndarray) -> list[MaskGrids]:
    return [mask_grids(masks, 16, 16, torch.device("cpu"))]


def halves() -> np.ndarray:
    masks = np.zeros((2, 64, 64), dtype=bool)
    masks[0, :, :32], masks[1, :, 32:] = True, True
    return masks


def test_masks_and_latents_are_mirrored_together(material: Material) -> None:
    plain, mirrored = Draw(0, (0,), False, 10, ("em", 0, 0)), Draw(0, (0,), True, 10, ("em", 0, 0))
    batch = material.batch([plain, mirrored], grids(halves()))
    assert batch.union is not None
    assert torch.equal(batch.union[0].flip(-1), batch.union[1])
    assert batch.attention_masks is not None
    squares = batch.attention_masks.unflatten(-1, (16, 16))
    assert torch.equal(squares[0].flip(-1), squares[1])
    moments = material.examples[0].moments
    expected = material.backbone.encode_moments(
        np.ascontiguousarray(material.examples[0].frame[None, :, ::-1])
    )
    torch.testing.assert_close(moments.mean[1:], expected.mean)


def test_the_union_covers_the_drawn_concepts_only(material: Material) -> None:
    draws = [Draw(0, concepts, False, 10, ("em", 0, 0)) for concepts in ((0,), (1,), (1, 0))]
    batch = material.batch(draws, grids(halves()))
    assert batch.union is not None
    assert batch.union.float().mean(dim=(1, 2)).tolist() == [0.5, 0.5, 1.0]
    assert batch.present.tolist() == [[True, False], [True, False], [True, True]]


def test_a_cell_that_two_concepts_cover_only_together_is_in_their_union(material: Material) -> None:
    masks = np.zeros((2, 64, 64), dtype=bool)
    masks[0, :, :5], masks[1, :, 5], masks[1, :, 8:] = True, True, True  # a quarter each of columns 4 to 7
    draws = [Draw(0, concepts, False, 10, ("em", 0, 0)) for concepts in ((0,), (1,), (1, 0))]
    batch = material.batch(draws, grids(masks))
    assert batch.union is not None
    assert batch.union[:, 0, 1].tolist() == [False, False, True]


def test_maps_follow_the_drawn_order(material: Material) -> None:
    batch = material.batch([Draw(0, (1, 0), False, 10, ("em", 0, 0))], grids(halves()))
    prompt = batch.prompts.distinct[0]
    assert batch.prompts.selector[0].argmax(dim=-1).tolist() == [
        prompt.positions["<dog>"][0],
        prompt.positions["<cat>"][0],
    ]


def test_each_distinct_prompt_is_encoded_once(material: Material) -> None:
    draws = [Draw(0, concepts, False, 10, ("em", 0, 0)) for concepts in ((0,), (1,), (0,), (0, 1))]
    prompts = material.batch(draws, grids(halves())).prompts
    assert len(prompts.distinct) == 3
    assert prompts.of_element.tolist() == [0, 1, 0, 2]


def test_a_prompt_that_says_left_or_right_keeps_its_picture_unmirrored(
    request_: LearnRequest, tiny_backbone: Backbone
) -> None:
    picture = request_.pictures[0].picture
    for prompt, may_flip in (("a <cat> left of a <dog>", False), ("a <cat> above a <dog>", True)):
        entry = LearningPicture(picture, ("cat", "dog"), prompt)
        sided = LearnRequest((entry,), request_.concepts, request_.config)
        assert prepare_material(sided, tiny_backbone).examples[0].source.may_flip is may_flip


def test_a_placeholder_the_token_limit_cuts_off_stops_before_learning(
    request_: LearnRequest, tiny_backbone: Backbone
) -> None:
    prompt = "a photo of <cat> " + "very " * 40 + "near <dog>"
    long = LearnRequest(
        (LearningPicture(request_.pictures[0].picture, ("cat", "dog"), prompt),),
        request_.concepts,
        request_.config,
    )
    with pytest.raises(PromptError, match="<dog>"):
        prepare_material(long, tiny_backbone)


def many_concepts(count: int, **overrides: Any) -> LearnRequest:
    """Each concept in a picture of its own."""
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    names = [f"thing{index}" for index in range(count)]
    return LearnRequest(
        tuple(LearningPicture(Picture(name, None, pixels), (name,)) for name in names),
        tuple(Concept(name) for name in names),
        resolve_config("sd", overrides),
    )


def test_sample_images_name_the_first_concepts_that_fit(tiny_backbone: Backbone) -> None:
    asked = many_concepts(40)
    prompt = prepare_material(asked, tiny_backbone).validation_prompt
    named = prompt.count("<")
    assert prompt == template_prompt(asked.concepts[:named])
    with pytest.raises(PromptError, match=f"<thing{named}> stands beyond"):
        tokenize(tiny_backbone, template_prompt(asked.concepts[: named + 1]), asked.placeholders)


def test_a_sample_prompt_is_refused_only_where_sample_images_are_drawn(tiny_backbone: Backbone) -> None:
    own = "very " * 80 + "<thing0>"
    assert prepare_material(many_concepts(1, validation_prompt=own, preview_every=0), tiny_backbone)
    with pytest.raises(PromptError, match="<thing0> stands beyond"):
        prepare_material(many_concepts(1, validation_prompt=own, preview_every=1), tiny_backbone)


def test_the_objective_is_eq3_plus_lambda_eq4(request_: LearnRequest, material: Material) -> None:
    rows = starting_rows(material.backbone, request_.concepts, request_.config)
    batch = material.batch([Draw(0, (1, 0), False, 400, ("em", 0, 0))], grids(halves()))
    parts = concept_objective(material, rows, batch, request_.config).parts
    assert parts["loss"] == pytest.approx(parts["mask"] + 0.5 * parts["attention"])
    assert parts["attention"] > 0


def test_masks_of_the_whole_picture_give_the_plain_denoising_loss(
    request_: LearnRequest, material: Material
) -> None:
    rows = starting_rows(material.backbone, request_.concepts, request_.config)
    draw = Draw(0, (0, 1), False, 400, ("em", 0, 0))
    everywhere = np.ones((2, 64, 64), dtype=bool)
    masked = concept_objective(material, rows, material.batch([draw], grids(everywhere)), request_.config)
    plain = concept_objective(material, rows, material.batch([draw], None), request_.config)
    assert masked.parts["mask"] == pytest.approx(plain.parts["loss"], rel=1e-5)


def test_gradient_of_the_objective_agrees_with_finite_differences(
    request_: LearnRequest, material: Material
) -> None:
    rows = starting_rows(material.backbone, request_.concepts, request_.config).requires_grad_(True)
    batch = material.batch([Draw(0, (1, 0), True, 400, ("em", 0, 0))], grids(halves()))

    def loss(at: torch.Tensor) -> torch.Tensor:
        return concept_objective(material, at, batch, request_.config).loss

    (gradient,) = torch.autograd.grad(loss(rows), rows)
    direction = gradient / gradient.norm()
    step = 0.002
    with torch.no_grad():
        numeric = (loss(rows + step * direction) - loss(rows - step * direction)) / (2 * step)
    torch.testing.assert_close(gradient.norm(), numeric, rtol=0.01, atol=0.0)


def test_maps_of_the_m_step_do_not_change_its_loss(request_: LearnRequest, material: Material) -> None:
    rows = starting_rows(material.backbone, request_.concepts, request_.config)
    batch = material.batch([Draw(0, (1, 0), False, 400, ("em", 0, 0))], grids(halves()))
    plain = concept_objective(material, rows, batch, request_.config)
    recorded = concept_objective(material, rows, batch, request_.config, with_maps=True)
    assert recorded.parts == pytest.approx(plain.parts, rel=1e-5)
    assert recorded.maps is not None
    assert recorded.maps.shape == (1, 2, 16, 16)
