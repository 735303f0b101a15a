"""Weights that change while learning: LoRA, the keys and values of cross-attention, or everything.

Tensors are named ``unet.<path>`` and ``text_encoder.<path>`` throughout. The vocabulary table of the text encoder is
never among them: placeholder rows live outside it, and every other word keeps its row.

Trained weights are float32 in memory whatever the base model's dtype, because steps of 1e-6 vanish in bfloat16.
A difference is rounded once to its storage dtype, when it is taken; saving, loading and applying it are exact, so a
set behaves the same before it is saved and after it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from conceptloom.backbone.model import Backbone
from conceptloom.errors import ConceptSetError
from conceptloom.seeding import torch_generator

DenseKind = Literal["kv", "full"]
WeightsKind = Literal["lora", "kv", "full"]

LORA_UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
LORA_TEXT_ENCODER_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
ADAPTER = "concepts"


@dataclass(frozen=True, eq=False)
class WeightsDelta:
    """What learning did to the weights of a base model, on the CPU.

    Attributes:
        kind: ``lora`` (low-rank factors), ``kv`` or ``full`` (differences to the base weights).
        tensors: by name; ``.lora_A.weight`` (r, in) and ``.lora_B.weight`` (out, r), or differences.
        rank: r, only for ``lora``.
        alpha: the low-rank product is scaled by alpha / r, only for ``lora``.
    """

    kind: WeightsKind
    tensors: Mapping[str, Tensor]
    rank: int | None = None
    alpha: float | None = None


def add_lora(
    backbone: Backbone, rank: int, alpha: float, *, text_encoder: bool = True, seed: int = 0
) -> list[Parameter]:
    """Wrap the attention projections with trainable low-rank updates, which start at zero effect.

    Args:
        backbone: its base weights stay frozen and untouched.
        rank: r of the factors.
        alpha: scale of the update is alpha / rank.
        text_encoder: adapt the text encoder too, not only the U-Net.
        seed: of the first factors' start; the global generator is not used.

    Returns:
        The factors, float32, in a fixed order.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = {"unet": LORA_UNET_TARGETS}
    if text_encoder:
        targets["text_encoder"] = LORA_TEXT_ENCODER_TARGETS
    with torch.random.fork_rng(devices=[]):  # peft draws a start of its own, which is overwritten below
        for part, modules in targets.items():
            config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(modules))  # type: ignore[arg-type]
            inject_adapter_in_model(config, _parts(backbone)[part], adapter_name=ADAPTER)
    factors = _lora_factors(backbone)
    for name, factor in factors.items():
        factor.data = factor.data.float()
        if ".lora_A." in name:
            # Kaiming-uniform with slope sqrt(5), the usual start of a LoRA: +-1 / sqrt(in)
            drawn = torch.rand(factor.shape, generator=torch_generator(seed, "lora", name))
            factor.data.copy_((2 * drawn - 1) * factor.shape[1] ** -0.5)
        factor.requires_grad_(True)
    return list(factors.values())


def lora_state(backbone: Backbone) -> dict[str, Tensor]:
    """Copies of the low-rank factors, float32 on the CPU; the names are those diffusers loads."""
    return {name: factor.detach().cpu().clone() for name, factor in _lora_factors(backbone).items()}


def load_lora_state(backbone: Backbone, state: Mapping[str, Tensor]) -> None:
    """Fill the factors `add_lora` made; raises `ConceptSetError` unless names and shapes are the same."""
    factors = _lora_factors(backbone)
    _require_same_tensors(state, factors)
    for name, factor in factors.items():
        factor.data.copy_(state[name])


def remove_lora(backbone: Backbone) -> None:
    """Take the low-rank updates away; the projections are the very modules they were before."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for model in _parts(backbone).values():
        wrapped = [
            (name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)
        ]
        for name, module in wrapped:
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, module.get_base_layer())
        if hasattr(model, "peft_config"):
            del model.peft_config


def unfreeze(backbone: Backbone, kind: DenseKind) -> dict[str, Parameter]:
    """Make weights trainable, in float32.

    Args:
        backbone: the model; `restore_weights` with an earlier `weights_state` undoes it.
        kind: ``kv``: keys and values of the U-Net's cross-attention (Custom Diffusion's choice); ``full``: U-Net and
            text encoder, the vocabulary table excepted.

    Returns:
        The parameters by name, in a fixed order.
    """
    parameters = {name: _parameter(backbone, name) for name in weight_names(backbone, kind)}
    for parameter in parameters.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return parameters


def weight_names(backbone: Backbone, kind: DenseKind) -> tuple[str, ...]:
    """Names of the weights that `kind` trains."""
    table = backbone.text_encoder.get_input_embeddings().weight
    names = []
    for part, model in _parts(backbone).items():
        for path, parameter in model.named_parameters():
            is_kv = part == "unet" and (".attn2.to_k." in path or ".attn2.to_v." in path)
            if is_kv or (kind == "full" and parameter is not table):
                names.append(f"{part}.{path}")
    return tuple(names)


def live_weights(backbone: Backbone, names: Iterable[str]) -> dict[str, Tensor]:
    """The named weights themselves, detached: they go on changing with the model."""
    return {name: _parameter(backbone, name).detach() for name in names}


def weights_state(backbone: Backbone, names: Iterable[str]) -> dict[str, Tensor]:
    """Copies of the named weights on the CPU, in the dtype they have."""
    return {name: weight.cpu().clone() for name, weight in live_weights(backbone, names).items()}


def restore_weights(backbone: Backbone, state: Mapping[str, Tensor]) -> None:
    """Put copied weights back, bit for bit and in their dtype, and freeze them; all of them when interrupted too."""
    try:
        _put_back(backbone, state)
    except BaseException:
        _put_back(backbone, state)
        raise


def weight_difference(
    base: Mapping[str, Tensor], trained: Mapping[str, Tensor], dtype: torch.dtype = torch.float16
) -> dict[str, Tensor]:
    """Trained minus base weights.

    Args:
        base: weights before learning, on the CPU.
        trained: weights after it, same names and shapes.
        dtype: storage dtype. float16 keeps a difference to 3e-8 or a two-thousandth of itself, whichever is more,
            which is below what a forward pass in bfloat16 can tell; float32 keeps it whole at twice the size.
    """
    return {name: (trained[name].cpu().float() - base[name].float()).to(dtype) for name in base}


def apply_difference(backbone: Backbone, difference: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add a difference to the base weights in float32; returns the base weights, for `restore_weights`.

    Where it fails or is interrupted, no weight has changed.

    Raises:
        ConceptSetError: a name or shape the base model does not have.
    """
    known = {name: _parameter(backbone, name) for name in weight_names(backbone, "full")}
    _require_same_tensors(difference, {name: known[name] for name in difference if name in known})
    base = weights_state(backbone, difference)
    try:
        for name, tensor in difference.items():
            parameter = known[name]
            parameter.data = parameter.data.float() + tensor.to(parameter.device, torch.float32)
    except BaseException:
        restore_weights(backbone, base)
        raise
    return base


@contextmanager
def applied_weights(backbone: Backbone, delta: WeightsDelta | None) -> Iterator[None]:
    """Lend a set's weights to the base model; afterwards every base weight is as before, bit for bit.

    Raises:
        ConceptSetError: the delta was made for another architecture.
    """
    if delta is None:
        yield
    elif delta.kind == "lora":
        if delta.rank is None or delta.alpha is None:
            raise ConceptSetError("the set's LoRA lacks its rank or alpha: learn the set again")
        in_text_encoder = any(name.startswith("text_encoder.") for name in delta.tensors)
        try:
            for factor in add_lora(backbone, delta.rank, delta.alpha, text_encoder=in_text_encoder):
                factor.requires_grad_(False)
            load_lora_state(backbone, delta.tensors)
            yield
        finally:
            remove_lora(backbone)
    else:
        base = apply_difference(backbone, delta.tensors)
        try:
            yield
        finally:
            restore_weights(backbone, base)


def _parts(backbone: Backbone) -> dict[str, Any]:
    return {"unet": backbone.unet, "text_encoder": backbone.text_encoder}


def _parameter(backbone: Backbone, name: str) -> Parameter:
    part, _, path = name.partition(".")
    model: nn.Module = _parts(backbone)[part]
    return model.get_parameter(path)


def _put_back(backbone: Backbone, state: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        parameter = _parameter(backbone, name)
        parameter.requires_grad_(False)
        parameter.grad = None
        parameter.data = tensor.to(parameter.device, copy=True)


def _lora_factors(backbone: Backbone) -> dict[str, Parameter]:
    return {
        f"{part}.{path.replace(f'.{ADAPTER}.', '.')}": parameter
        for part, model in _parts(backbone).items()
        for path, parameter in model.named_parameters()
        if ".lora_A." in path or ".lora_B." in path
    }


def _require_same_tensors(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name in sorted(given.keys() ^ expected.keys()):
        held = "the set's weights lack" if name in expected else "the base model has no"
        raise ConceptSetError(
            f"{held} '{name}': the set was learned on another architecture, use its own base model"
        )
    for name, tensor in given.items():
        if tensor.shape != expected[name].shape:
            raise ConceptSetError(
                f"weight '{name}' has shape {tuple(tensor.shape)}, the base model's is {tuple(expected[name].shape)}:"
                " the set was learned on another architecture, use its own base model"
            )
