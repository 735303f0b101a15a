"""Recording cross-attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from conceptloom.backbone import (
    AttentionLayer,
    Backbone,
    add_lora,
    encode_prompts,
    load_backbone,
    record_affinity,
    record_attention,
    remove_lora,
    selector_for,
    tokenize,
)
from conceptloom.backbone.attention import ExplicitAttentionProcessor, affinity_layers
from conceptloom.errors import ConfigError
from conceptloom.seeding import noise

PLACEHOLDERS = {"<cat>": 1, "<dog>": 2}


def inputs(backbone: Backbone, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, timesteps and hidden states."""
    return (
        noise((batch, *backbone.latent_shape), 1),
        torch.arange(batch) * 300 + 50,
        noise((batch, backbone.max_tokens, backbone.embedding_dim), 2),
    )


def identity_selector(backbone: Backbone, batch: int = 2) -> Tensor:
    """Every token's own map."""
    return torch.eye(backbone.max_tokens).repeat(batch, 1, 1)


def processors(backbone: Backbone) -> list[object]:
    return [module.processor for _, module in backbone.cross_attention_modules()]


def test_recording_changes_no_digit_of_the_output(tiny_backbone: Backbone) -> None:
    plain = tiny_backbone.predict(*inputs(tiny_backbone))
    with record_attention(tiny_backbone, identity_selector(tiny_backbone)):
        recorded = tiny_backbone.predict(*inputs(tiny_backbone))
    assert torch.equal(plain, recorded)


def test_our_cross_attention_agrees_with_the_stock_processors(tiny_backbone: Backbone, tiny_folder) -> None:
    stock = UNet2DConditionModel.from_pretrained(tiny_folder / "unet").eval()
    latents, timesteps, hidden_states = inputs(tiny_backbone)
    with torch.no_grad():
        expected = stock(latents, timesteps, encoder_hidden_states=hidden_states).sample
    ours = tiny_backbone.predict(latents, timesteps, hidden_states)
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-6)


def test_maps_sum_to_one_over_tokens(tiny_backbone: Backbone) -> None:
    with record_attention(tiny_backbone, identity_selector(tiny_backbone)) as record:
        tiny_backbone.predict(*inputs(tiny_backbone))
    for maps in record.maps.values():
        torch.testing.assert_close(maps.sum(dim=1), torch.ones_like(maps[:, 0]), rtol=0, atol=1e-5)


def test_maps_differ_between_tokens_and_cells(tiny_backbone: Backbone) -> None:
    """Otherwise the tests on them could not fail."""
    with record_attention(tiny_backbone, identity_selector(tiny_backbone)) as record:
        tiny_backbone.predict(*inputs(tiny_backbone))
    for maps in record.maps.values():
        assert maps.std(dim=1).mean() > 1e-3
        assert maps.std(dim=2).mean() > 1e-4


def test_captured_maps_equal_the_softmax_by_hand(tiny_backbone: Backbone) -> None:
    layer, module = tiny_backbone.cross_attention_modules()[-1]
    seen: dict[str, Tensor] = {}
    hooks = [
        module.to_q.register_forward_hook(lambda _, args, out: seen.update(q=out)),
        module.to_k.register_forward_hook(lambda _, args, out: seen.update(k=out)),
    ]
    with record_attention(tiny_backbone, identity_selector(tiny_backbone)) as record:
        tiny_backbone.predict(*inputs(tiny_backbone))
    for hook in hooks:
        hook.remove()
    heads = module.heads
    query, key = (seen[name].unflatten(-1, (heads, -1)).transpose(1, 2) for name in "qk")  # (B, A, n, d)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    expected = scores.softmax(dim=-1).mean(dim=1).transpose(1, 2)  # (B, A, N, S) -> (B, S, N)
    torch.testing.assert_close(record.maps[layer.name], expected, rtol=0, atol=1e-6)


def test_a_planted_map_comes_back_where_it_was_planted(fresh_backbone: Backbone) -> None:
    """Queries of the left half and the keys of token 3 point the same way, all else nowhere."""
    layer, module = fresh_backbone.cross_attention_modules()[0]
    planted = torch.zeros(layer.side, layer.side)
    planted[:, : layer.side // 2] = 1.0
    direction = torch.ones(module.to_q.out_features)
    module.to_q.register_forward_hook(lambda *_: 4.0 * planted.flatten()[None, :, None] * direction)
    key = torch.zeros(1, fresh_backbone.max_tokens, len(direction))
    key[:, 3] = 4.0 * direction
    module.to_k.register_forward_hook(lambda *_: key)
    selector = torch.zeros(1, 1, fresh_backbone.max_tokens)
    selector[0, 0, 3] = 1.0
    with record_attention(fresh_backbone, selector) as record:
        fresh_backbone.predict(*inputs(fresh_backbone, batch=1))
    found = record.maps[layer.name][0, 0].unflatten(0, (layer.side, layer.side))
    assert torch.equal(found > 0.5, planted.bool())


def test_every_layer_has_the_side_and_order_it_says(tiny_backbone: Backbone) -> None:
    with record_attention(tiny_backbone, identity_selector(tiny_backbone)) as record:
        tiny_backbone.predict(*inputs(tiny_backbone))
    assert list(record.maps) == [layer.name for layer in record.layers]
    for layer in tiny_backbone.cross_attention_layers:
        assert record.maps[layer.name].shape[-1] == layer.side**2
    described = [(layer.place, layer.side) for layer in tiny_backbone.cross_attention_layers]
    assert described == [
        ("down", 16),
        ("down", 8),
        ("mid", 8),
        ("up", 8),
        ("up", 8),
        ("up", 16),
        ("up", 16),
    ]


def test_only_the_layers_asked_for_are_recorded(tiny_backbone: Backbone) -> None:
    with record_attention(
        tiny_backbone,
        identity_selector(tiny_backbone),
        lambda layer: layer.place == "up" and layer.side == 16,
    ) as record:
        tiny_backbone.predict(*inputs(tiny_backbone))
    assert {name.split(".")[0] + name.split(".")[1] for name in record.maps} == {"up_blocks1"}
    assert len(record.maps) == 2


def test_each_batch_element_has_its_own_selector(tiny_backbone: Backbone) -> None:
    everything = identity_selector(tiny_backbone)
    own = torch.zeros(2, 2, tiny_backbone.max_tokens)
    own[0, 0, [4, 7]] = 0.5
    own[1, 0, 9] = 1.0
    own[1, 1, 2] = 1.0
    with record_attention(tiny_backbone, everything) as all_maps:
        tiny_backbone.predict(*inputs(tiny_backbone))
    with record_attention(tiny_backbone, own) as record:
        tiny_backbone.predict(*inputs(tiny_backbone))
    for name, maps in record.maps.items():
        tokens = all_maps.maps[name]
        torch.testing.assert_close(maps[0, 0], tokens[0, [4, 7]].mean(dim=0))
        assert not maps[0, 1].any()
        torch.testing.assert_close(maps[1], tokens[1, [9, 2]])


def test_only_columns_with_a_weight_are_kept(tiny_backbone: Backbone) -> None:
    selector = torch.zeros(2, 2, tiny_backbone.max_tokens)
    selector[0, 0, 3] = 1.0
    selector[1, 1, 5:7] = 0.5
    with torch.no_grad(), record_attention(tiny_backbone, selector):
        for _, module in tiny_backbone.cross_attention_modules():
            module.processor.observe(noise((4, 16, tiny_backbone.max_tokens), 1), 2)
            assert module.processor._probabilities[module.processor._name].shape == (2, 16, 3)


def test_kept_columns_combine_to_what_all_of_them_do(tiny_backbone: Backbone) -> None:
    selector = torch.zeros(2, 3, tiny_backbone.max_tokens)
    selector[0, 0, 3], selector[1, 1, 5:7], selector[1, 0, 3] = 1.0, 0.5, 1.0
    with torch.no_grad(), record_attention(tiny_backbone, selector) as some:
        tiny_backbone.predict(*inputs(tiny_backbone))
    with torch.no_grad(), record_attention(tiny_backbone, identity_selector(tiny_backbone)) as every:
        tiny_backbone.predict(*inputs(tiny_backbone))
    for name, maps in some.maps.items():
        torch.testing.assert_close(maps, torch.bmm(selector, every.maps[name]), rtol=0, atol=1e-7)


def test_a_selector_of_nothing_gives_empty_maps(tiny_backbone: Backbone) -> None:
    with (
        torch.no_grad(),
        record_attention(tiny_backbone, torch.zeros(2, 1, tiny_backbone.max_tokens)) as record,
    ):
        tiny_backbone.predict(*inputs(tiny_backbone))
    assert all(maps.shape[1] == 1 and not maps.any() for maps in record.maps.values())


def test_processors_are_restored_after_an_exception(tiny_backbone: Backbone) -> None:
    before = processors(tiny_backbone)

    def fail_while_recording() -> None:
        with record_attention(tiny_backbone, identity_selector(tiny_backbone)):
            assert processors(tiny_backbone) != before
            raise KeyError

    with pytest.raises(KeyError):
        fail_while_recording()
    assert processors(tiny_backbone) == before


def test_processors_are_restored_when_the_choice_of_layers_fails(tiny_backbone: Backbone) -> None:
    before = processors(tiny_backbone)
    with (
        pytest.raises(ZeroDivisionError),
        record_attention(
            tiny_backbone, identity_selector(tiny_backbone), lambda layer: bool(1 / (layer.side - 8))
        ),
    ):
        pass
    assert processors(tiny_backbone) == before
    assert all(isinstance(processor, ExplicitAttentionProcessor) for processor in before)


def test_affinity_is_where_each_cell_looks_at_the_finest_fitting_grid(tiny_backbone: Backbone) -> None:
    with record_affinity(tiny_backbone) as affinities:
        tiny_backbone.predict(*inputs(tiny_backbone))
    assert affinities
    for affinity in affinities.values():
        assert affinity.shape == (2, 16**2, 16**2)
        torch.testing.assert_close(affinity.sum(dim=-1), torch.ones_like(affinity[..., 0]), rtol=0, atol=1e-5)


def test_affinity_equals_the_softmax_by_hand(tiny_backbone: Backbone) -> None:
    layer, module = affinity_modules(tiny_backbone)[-1]
    seen: dict[str, Tensor] = {}
    hooks = [
        module.to_q.register_forward_hook(lambda _, args, out: seen.update(q=out)),
        module.to_k.register_forward_hook(lambda _, args, out: seen.update(k=out)),
    ]
    with record_affinity(tiny_backbone) as affinities:
        tiny_backbone.predict(*inputs(tiny_backbone))
    for hook in hooks:
        hook.remove()
    query, key = (seen[name].unflatten(-1, (module.heads, -1)).transpose(1, 2) for name in "qk")
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # (B, A, n*n, n*n)
    expected = scores.softmax(dim=-1).mean(dim=1)
    torch.testing.assert_close(affinities[layer.name], expected, rtol=0, atol=1e-6)


def test_recording_affinity_changes_the_output_by_floating_point_noise_only(tiny_backbone: Backbone) -> None:
    plain = tiny_backbone.predict(*inputs(tiny_backbone))
    with record_affinity(tiny_backbone):
        recorded = tiny_backbone.predict(*inputs(tiny_backbone))
    torch.testing.assert_close(recorded, plain, rtol=0, atol=2e-6)


def test_self_attention_processors_are_restored_after_an_exception(tiny_backbone: Backbone) -> None:
    before = [module.processor for _, module in tiny_backbone.self_attention_modules()]
    with pytest.raises(KeyError), record_affinity(tiny_backbone):
        raise KeyError
    assert [module.processor for _, module in tiny_backbone.self_attention_modules()] == before


def affinity_modules(backbone: Backbone) -> list[tuple[AttentionLayer, Any]]:
    pairs = backbone.self_attention_modules()
    chosen = affinity_layers([layer for layer, _ in pairs])
    return [(layer, module) for layer, module in pairs if layer in chosen]


def test_affinity_comes_from_the_up_path_at_its_finest_grid_of_32_cells_at_most() -> None:
    layers = [
        AttentionLayer(f"{place}.{side}", place, side) for place in ("down", "up") for side in (64, 32, 16)
    ]
    assert [layer.name for layer in affinity_layers(layers)] == ["up.32"]


def test_a_model_without_fitting_self_attention_is_refused_with_the_key_to_change() -> None:
    with pytest.raises(ConfigError, match="propagation_steps"):
        affinity_layers([AttentionLayer("down", "down", 16), AttentionLayer("up", "up", 64)])


def gradient_of_maps(backbone: Backbone, rows: Tensor, *, inside: bool = True) -> Tensor:
    """Gradient of a sum over all maps with respect to placeholder rows."""
    rows = rows.clone().requires_grad_()
    prompt = tokenize(backbone, "a photo of <cat> and <dog>", PLACEHOLDERS)
    hidden_states = encode_prompts(backbone, [prompt], rows)
    latents, timesteps, _ = inputs(backbone, batch=1)
    with record_attention(backbone, selector_for([prompt], [["<cat>", "<dog>"]])) as record:
        prediction = backbone.predict(latents, timesteps, hidden_states)
        loss = prediction.square().mean() + sum(maps.square().mean() for maps in record.maps.values())
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    assert rows.grad is not None
    return rows.grad


def test_gradients_reach_every_row_through_the_maps_alone(tiny_backbone: Backbone) -> None:
    rows = noise((3, tiny_backbone.embedding_dim), 5).requires_grad_()
    prompt = tokenize(tiny_backbone, "a photo of <cat> and <dog>", PLACEHOLDERS)
    latents, timesteps, _ = inputs(tiny_backbone, batch=1)
    with record_attention(tiny_backbone, selector_for([prompt], [["<cat>", "<dog>"]])) as record:
        tiny_backbone.predict(latents, timesteps, encode_prompts(tiny_backbone, [prompt], rows))
    sum(maps[:, 1].square().sum() for maps in record.maps.values()).backward()  # type: ignore[union-attr]
    assert rows.grad is not None
    assert (rows.grad.abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("inside", [True, False], ids=["inside the block", "after the block"])
def test_gradient_checkpointing_changes_no_gradient(tiny_folder, inside: bool) -> None:
    backbone = load_backbone(tiny_folder, "cpu", "float32")
    rows = noise((3, backbone.embedding_dim), 5)
    plain = gradient_of_maps(backbone, rows)
    backbone.unet.enable_gradient_checkpointing()
    passes: list[int] = []
    _, module = backbone.cross_attention_modules()[0]
    module.register_forward_hook(lambda *_: passes.append(1))
    checkpointed = gradient_of_maps(backbone, rows, inside=inside)
    assert len(passes) == 2  # so it was recomputed
    torch.testing.assert_close(checkpointed, plain, rtol=1e-5, atol=1e-9)


def test_recording_works_with_lora_and_its_factors_receive_gradients(tiny_backbone: Backbone) -> None:
    factors = add_lora(tiny_backbone, rank=2, alpha=2.0)
    try:
        with torch.no_grad():
            for factor in factors:
                factor.add_(0.1 * noise(factor.shape, 3))
        latents, timesteps, hidden_states = inputs(tiny_backbone)
        with torch.no_grad():
            plain = tiny_backbone.predict(latents, timesteps, hidden_states)
        with record_attention(tiny_backbone, identity_selector(tiny_backbone)) as record:
            recorded = tiny_backbone.predict(latents, timesteps, hidden_states)
        assert torch.equal(plain, recorded.detach())
        record.maps["down_blocks.0.attentions.0.transformer_blocks.0.attn2"].square().sum().backward()
        key_factor = tiny_backbone.unet.get_parameter(
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.concepts.weight"
        )
        assert key_factor.grad is not None
        assert key_factor.grad.abs().max() > 0
    finally:
        remove_lora(tiny_backbone)


def test_in_bfloat16_the_recorded_softmax_is_float32(tiny_folder) -> None:
    backbone = load_backbone(tiny_folder, "cpu", "bfloat16")
    with torch.no_grad(), record_attention(backbone, identity_selector(backbone)) as record:
        prediction = backbone.predict(*inputs(backbone))
    assert prediction.dtype == torch.float32
    for maps in record.maps.values():
        assert maps.dtype == torch.float32
        torch.testing.assert_close(maps.sum(dim=1), torch.ones_like(maps[:, 0]), rtol=0, atol=1e-5)


def test_a_selector_that_does_not_fit_the_batch_is_refused(tiny_backbone: Backbone) -> None:
    with record_attention(tiny_backbone, identity_selector(tiny_backbone, batch=1)) as record:
        tiny_backbone.predict(*inputs(tiny_backbone))
    with pytest.raises(AssertionError, match="does not fit"):
        _ = record.maps["mid_block.attentions.0.transformer_blocks.0.attn2"]


def test_the_selector_averages_all_tokens_of_a_placeholder(tiny_backbone: Backbone) -> None:
    repeated = tokenize(tiny_backbone, "<dog> and <dog>", PLACEHOLDERS)
    selector = selector_for([repeated], [["<dog>"]])
    assert selector[0, 0].nonzero().flatten().tolist() == list(repeated.positions["<dog>"])
    assert selector[0, 0].unique().tolist() == [0.0, 0.25]


def test_the_selector_leaves_rows_zero_for_what_is_not_asked_or_not_there(tiny_backbone: Backbone) -> None:
    both = tokenize(tiny_backbone, "<cat> and <dog>", PLACEHOLDERS)
    one = tokenize(tiny_backbone, "a <cat>", PLACEHOLDERS)
    selector = selector_for([both, one], [[None, "<dog>"], ["<dog>"]])
    assert selector.shape == (2, 2, tiny_backbone.max_tokens)
    assert selector.sum(dim=2).tolist() == [[0.0, 1.0], [0.0, 0.0]]
