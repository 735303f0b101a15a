"""LoRA, keys and values, whole weights: what changes, what must not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from conceptloom.backbone import (
    Backbone,
    WeightsDelta,
    add_lora,
    applied_weights,
    apply_difference,
    encode_prompts,
    load_lora_state,
    lora_state,
    remove_lora,
    restore_weights,
    tokenize,
    unfreeze,
    weight_difference,
    weight_names,
    weights_state,
)
from conceptloom.errors import ConceptSetError
from conceptloom.seeding import noise


def output(backbone: Backbone) -> Tensor:
    """A prediction that every weight of text encoder and U-Net takes part in."""
    hidden_states = encode_prompts(backbone, [tokenize(backbone, "a cat on the beach", {})], None)
    return backbone.predict(noise((1, *backbone.latent_shape), 0), torch.tensor([300]), hidden_states)


def all_weights(backbone: Backbone) -> dict[str, Tensor]:
    models = {"unet": backbone.unet, "text_encoder": backbone.text_encoder}
    return {
        f"{part}.{key}": value.clone()
        for part, model in models.items()
        for key, value in model.state_dict().items()
    }


def train(backbone: Backbone, parameters: list[Parameter], rate: float = 1e-2) -> None:
    optimiser = torch.optim.AdamW(parameters, lr=rate)
    for _ in range(3):
        optimiser.zero_grad()
        output(backbone).square().mean().backward()
        optimiser.step()


@pytest.fixture
def untouched(tiny_backbone: Backbone) -> Iterator[Backbone]:
    """The shared model; afterwards every weight and module must be as before, bit for bit."""
    before, modules = all_weights(tiny_backbone), [id(module) for module in tiny_backbone.unet.modules()]
    yield tiny_backbone
    after = all_weights(tiny_backbone)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [id(module) for module in tiny_backbone.unet.modules()] == modules
    assert not any(parameter.requires_grad for parameter in tiny_backbone.unet.parameters())


def test_a_fresh_lora_has_no_effect(untouched: Backbone) -> None:
    plain = output(untouched)
    add_lora(untouched, rank=4, alpha=4.0)
    assert torch.equal(output(untouched).detach(), plain)
    remove_lora(untouched)


def test_training_a_lora_leaves_the_base_weights_bit_for_bit(untouched: Backbone) -> None:
    plain = output(untouched)
    train(untouched, add_lora(untouched, rank=4, alpha=4.0))
    assert (output(untouched).detach() - plain).abs().max() > 1e-3
    remove_lora(untouched)
    assert torch.equal(output(untouched), plain)


def test_a_lora_adapts_every_attention_projection_and_nothing_else(untouched: Backbone) -> None:
    add_lora(untouched, rank=2, alpha=2.0)
    adapted = {name.rsplit(".lora_", 1)[0] for name in lora_state(untouched)}
    remove_lora(untouched)
    targets = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")
    expected = {
        name.removesuffix(".weight")
        for name in all_weights(untouched)
        if name.endswith(tuple(f".{target}.weight" for target in targets))
    }
    assert adapted == expected
    assert len(adapted) == 7 * 2 * 4 + 2 * 4


def test_the_text_encoder_can_be_left_out(untouched: Backbone) -> None:
    add_lora(untouched, rank=2, alpha=2.0, text_encoder=False)
    assert {name.split(".")[0] for name in lora_state(untouched)} == {"unet"}
    remove_lora(untouched)


def test_a_lora_starts_the_same_from_the_same_seed_and_differs_from_another(untouched: Backbone) -> None:
    states = []
    for seed in (1, 1, 2):
        add_lora(untouched, rank=2, alpha=2.0, seed=seed)
        states.append(lora_state(untouched))
        remove_lora(untouched)
    same = [all(torch.equal(states[0][name], other[name]) for name in other) for other in states[1:]]
    assert same == [True, False]


def test_adding_a_lora_leaves_the_global_generator_alone(untouched: Backbone) -> None:
    before = torch.random.get_rng_state()
    add_lora(untouched, rank=2, alpha=2.0)
    remove_lora(untouched)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_loras_effect_is_alpha_over_rank_times_the_product(untouched: Backbone) -> None:
    base = untouched.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v
    add_lora(untouched, rank=2, alpha=6.0)
    state = {name: noise(tensor.shape, 4, name) for name, tensor in lora_state(untouched).items()}
    load_lora_state(untouched, state)
    wrapped = untouched.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    x = noise((3, base.in_features), 5)
    expected = base(x) + 3.0 * x @ state[f"{name}.lora_A.weight"].T @ state[f"{name}.lora_B.weight"].T
    torch.testing.assert_close(wrapped(x).detach(), expected, rtol=1e-4, atol=1e-4)
    remove_lora(untouched)


def test_a_loras_state_gives_the_same_output_after_reloading(untouched: Backbone) -> None:
    train(untouched, add_lora(untouched, rank=4, alpha=2.0))
    trained, state = output(untouched).detach(), lora_state(untouched)
    remove_lora(untouched)
    with applied_weights(untouched, WeightsDelta("lora", state, rank=4, alpha=2.0)):
        assert torch.equal(output(untouched), trained)
        assert not any(parameter.requires_grad for parameter in untouched.unet.parameters())


@pytest.mark.parametrize("kind", ["kv", "full"])
def test_weights_applied_from_a_difference_come_off_bit_for_bit(untouched: Backbone, kind) -> None:
    base = weights_state(untouched, weight_names(untouched, kind))
    plain = output(untouched)
    train(untouched, list(unfreeze(untouched, kind).values()), rate=1e-3)
    trained, trained_weights = output(untouched).detach(), weights_state(untouched, base)
    restore_weights(untouched, base)
    assert torch.equal(output(untouched), plain)
    delta = WeightsDelta(kind, weight_difference(base, trained_weights))
    with applied_weights(untouched, delta):
        applied = output(untouched)
    assert (applied - plain).abs().max() > 1e-3
    torch.testing.assert_close(applied, trained, rtol=0, atol=1e-4)


def test_weights_come_off_after_an_exception(untouched: Backbone) -> None:
    state = {
        name: torch.ones_like(tensor)
        for name, tensor in weights_state(untouched, weight_names(untouched, "kv")).items()
    }
    with pytest.raises(KeyError), applied_weights(untouched, WeightsDelta("kv", state)):
        raise KeyError


class Interrupting(Tensor):
    """Ctrl-C comes when it is first copied; afterwards it is a tensor as any other."""

    has_come = False

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        if not self.has_come:
            self.has_come = True
            raise KeyboardInterrupt
        return self.as_subclass(Tensor).to(*args, **kwargs)


def interrupted_amid(state: dict[str, Tensor]) -> dict[str, Tensor]:
    name = list(state)[len(state) // 2]
    return {**state, name: state[name].as_subclass(Interrupting)}


def test_a_difference_that_is_interrupted_while_it_is_applied_changes_nothing(untouched: Backbone) -> None:
    base = weights_state(untouched, weight_names(untouched, "full"))
    difference = interrupted_amid({name: torch.ones_like(tensor) for name, tensor in base.items()})
    with pytest.raises(KeyboardInterrupt):
        apply_difference(untouched, difference)


def test_every_weight_is_put_back_although_that_is_interrupted(untouched: Backbone) -> None:
    base = weights_state(untouched, weight_names(untouched, "full"))
    apply_difference(untouched, {name: torch.ones_like(tensor) for name, tensor in base.items()})
    with pytest.raises(KeyboardInterrupt):
        restore_weights(untouched, interrupted_amid(base))


def test_applying_adds_the_difference_in_float32(untouched: Backbone) -> None:
    base = weights_state(untouched, weight_names(untouched, "kv"))
    difference = {name: (1e-3 * noise(tensor.shape, 6, name)).half() for name, tensor in base.items()}
    assert {
        name: tensor.dtype for name, tensor in apply_difference(untouched, difference).items()
    } == dict.fromkeys(base, torch.float32)
    for name, tensor in weights_state(untouched, base).items():
        assert torch.equal(tensor, base[name] + difference[name].float())
    restore_weights(untouched, base)


def test_a_float32_difference_restores_the_trained_weights_to_the_last_digit(untouched: Backbone) -> None:
    base = weights_state(untouched, weight_names(untouched, "full"))
    trained = {name: tensor + 1e-5 * noise(tensor.shape, 7, name) for name, tensor in base.items()}
    apply_difference(untouched, weight_difference(base, trained, torch.float32))
    for name, tensor in weights_state(untouched, base).items():
        torch.testing.assert_close(tensor, trained[name], rtol=1e-7, atol=1e-9)
    restore_weights(untouched, base)


def test_a_float16_difference_is_off_by_less_than_the_text_says() -> None:
    base = {"w": noise((10_000,), 8)}
    steps = 1e-3 * noise((10_000,), 9)
    stored = weight_difference(base, {"w": base["w"] + steps})["w"].float()
    exact = (base["w"] + steps) - base["w"]
    assert ((stored - exact).abs() <= torch.clamp(exact.abs() / 2000, min=3e-8)).all()


def test_kv_trains_keys_and_values_of_cross_attention_only(untouched: Backbone) -> None:
    names = weight_names(untouched, "kv")
    assert len(names) == 2 * len(untouched.cross_attention_layers)
    assert all(
        name.startswith("unet.") and name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))
        for name in names
    )


def test_full_trains_everything_but_the_vocabulary_table(untouched: Backbone) -> None:
    missing = set(all_weights(untouched)) - set(weight_names(untouched, "full"))
    assert missing == {"text_encoder.embeddings.token_embedding.weight"}


def test_training_in_full_leaves_the_vocabulary_table_bit_for_bit(untouched: Backbone) -> None:
    table = untouched.vocabulary_embeddings.clone()
    base = weights_state(untouched, weight_names(untouched, "full"))
    train(untouched, list(unfreeze(untouched, "full").values()))
    assert torch.equal(untouched.vocabulary_embeddings, table)
    restore_weights(untouched, base)


def test_weights_of_a_half_precision_model_are_trained_in_float32(fresh_backbone: Backbone) -> None:
    fresh_backbone.unet.bfloat16()
    base = weights_state(fresh_backbone, weight_names(fresh_backbone, "kv"))
    assert {parameter.dtype for parameter in unfreeze(fresh_backbone, "kv").values()} == {torch.float32}
    restore_weights(fresh_backbone, base)
    assert {parameter.dtype for parameter in fresh_backbone.unet.parameters()} == {torch.bfloat16}


def broken(state: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    name = sorted(state)[0]
    if how == "missing":
        return {key: value for key, value in state.items() if key != name}
    if how == "extra":
        return {**state, "unet.nowhere.lora_A.weight": torch.zeros(2, 2)}
    return {**state, name: torch.zeros(3, 3)}


@pytest.mark.parametrize("how", ["missing", "extra", "shape"])
def test_a_lora_of_another_architecture_is_refused_and_leaves_nothing_behind(
    untouched: Backbone, how: str
) -> None:
    add_lora(untouched, rank=2, alpha=2.0)
    state = lora_state(untouched)
    remove_lora(untouched)
    with (
        pytest.raises(ConceptSetError, match="another architecture"),
        applied_weights(untouched, WeightsDelta("lora", broken(state, how), rank=2, alpha=2.0)),
    ):
        pass


@pytest.mark.parametrize("how", ["extra", "shape"])
def test_a_difference_of_another_architecture_is_refused(untouched: Backbone, how: str) -> None:
    state = broken(weights_state(untouched, weight_names(untouched, "kv")), how)
    with (
        pytest.raises(ConceptSetError, match="another architecture"),
        applied_weights(untouched, WeightsDelta("kv", state)),
    ):
        pass


def test_no_delta_changes_nothing(untouched: Backbone) -> None:
    plain = output(untouched)
    with applied_weights(untouched, None):
        assert torch.equal(output(untouched), plain)
