"""Base models from disk: data only, the whole of it, and of a kind we know.

A folder is read when its classes are on a list, its weights are safetensors, and every weight of the architecture is
in them. Libraries fill what is missing with random numbers and a warning; here it is an error. A configuration's wishes
beyond the architecture are none of ours: code of its own (`auto_map`), attention kernels from a hub, quantisers,
adapters beside the weights.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn

from conceptloom.backbone.attention import ExplicitAttentionProcessor
from conceptloom.backbone.devices import is_out_of_memory, resolve_device, resolve_dtype, telling_of_memory
from conceptloom.backbone.fingerprint import fingerprint
from conceptloom.backbone.model import Backbone, ModelIdentity
from conceptloom.backbone.schedule import NoiseSchedule
from conceptloom.backbone.tensors import METADATA, read_header, require_finite
from conceptloom.errors import BaseModelError

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

BUILTIN = "builtin"
BUILTIN_VARIABLE = "CONCEPTLOOM_BUILTIN"
DESCRIPTION = "conceptloom.json"
"""Optional file of a model folder: version, size (px), backgrounds and nouns (words)."""

CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
"""Stem of each part's weight files."""

PICKLES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"})
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Number formats of weights, as safetensors name them."""
USUAL: Mapping[str, Mapping[str, Any]] = {
    "unet": {
        "addition_embed_type": None,
        "class_embed_type": None,
        "cross_attention_norm": None,
        "dual_cross_attention": False,
        "encoder_hid_dim_type": None,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "quantization_config": None,
        "time_cond_proj_dim": None,
    },
    "vae": {"latents_mean": None, "latents_std": None, "quantization_config": None},
    "text_encoder": {"quantization_config": None},
}
"""Options of each part that the Stable Diffusion 1/2 family leaves at these values."""
TEXT_ARCHITECTURE = (
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "pad_token_id",
    "projection_dim",
    "vocab_size",
)
"""What is taken from the text encoder's configuration. transformers would also follow others, one of which names
attention code to fetch from a hub and run."""
MAX_LAYERS = 100
MAX_SAMPLE_SIZE = 512
MAX_TRAIN_TIMESTEPS = 10_000

EXPLICIT_SELF_ATTENTION_CELLS = 256


def builtin_words() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words for things and for places that the built-in model was taught: everyday ones, 153 and 54."""
    folder, _ = _locate(BUILTIN)
    _, _, backgrounds, nouns = _description(folder)
    return nouns, backgrounds


def load_backbone(source: str | Path = BUILTIN, device: str = "auto", dtype: str = "auto") -> Backbone:
    """Load a base model; nothing is downloaded and no code in the folder is run.

    Args:
        source: "builtin", a folder in diffusers' Stable Diffusion layout, or the id of a model that is already in
            the local hub cache.
        device: see `resolve_device`.
        dtype: precision of the U-Net, see `resolve_dtype`.

    Raises:
        BaseModelError: not there, incomplete, damaged, pickled, or of an unknown kind.
        DeviceError: the device or dtype cannot be used here, or its memory does not hold the model.
    """
    torch_device = resolve_device(device)
    torch_dtype = resolve_dtype(dtype, torch_device)
    folder, name = _locate(source)
    with telling_of_memory(torch_device, "loading the base model", "free some or choose another device"):
        return _load(folder, name, torch_device, torch_dtype)


def _locate(source: str | Path) -> tuple[Path, str]:
    """Folder and name of a base model."""
    if str(source) == BUILTIN:
        override = os.environ.get(BUILTIN_VARIABLE)
        folder = Path(override) if override else Path(str(resources.files("conceptloom"))) / "data" / BUILTIN
        if not (folder / "model_index.json").is_file():
            raise BaseModelError(
                "the built-in model is not installed: reinstall conceptloom or name another base model"
            )
        return folder, BUILTIN
    folder = Path(source)
    with suppress(RuntimeError, OSError):  # "~stranger/model", a name of 300 letters: there is no such folder
        folder = folder.expanduser()
        if folder.is_dir():
            return folder, folder.resolve().name
        if folder.is_file():
            raise BaseModelError(
                f"'{folder.name}' is a single file: export it as a diffusers folder with safetensors"
            )
    parts = str(source).split("/")
    if len(parts) != 2 or not all(parts) or parts[0].startswith((".", "~")):
        raise BaseModelError(
            f"there is no folder '{source}': give a diffusers folder, a hub id or '{BUILTIN}'"
        )
    return _cached(str(source)), str(source)


def _cached(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise BaseModelError(
            f"'{hub_id}' is neither a folder nor in the local hub cache: run `hf download {hub_id}` first"
        ) from error


def _load(folder: Path, name: str, device: torch.device, dtype: torch.dtype) -> Backbone:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTokenizer

    _require_known_classes(folder)
    configs = {part: _read_json(folder / part / "config.json") for part in WEIGHTS}
    configs["scheduler"] = _read_json(folder / "scheduler" / "scheduler_config.json")
    _require_usual(configs)
    _require_few_layers(configs)
    weights = {part: _weight_files(folder / part, stem) for part, stem in WEIGHTS.items()}
    for files in weights.values():
        for path in files:
            _require_float_tensors(path)

    # On a CPU the weights stay float32 and the forward pass runs under autocast.
    unet_dtype = torch.float32 if device.type == "cpu" else dtype
    unet = _load_model(UNet2DConditionModel, folder / "unet", weights["unet"], unet_dtype)
    vae = _load_model(AutoencoderKL, folder / "vae", weights["vae"], torch.float32)
    text_encoder = _load_text_encoder(configs["text_encoder"], weights["text_encoder"])
    _require_file(folder / "tokenizer" / "tokenizer_config.json")
    with _readable("tokenizer", "is damaged"):
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    schedule = _noise_schedule(configs["scheduler"], device)
    _require_fitting_parts(unet, vae, text_encoder, tokenizer)
    _choose_attention(unet, device, dtype)

    tokenizer_model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    version, size, backgrounds, nouns = _description(folder)
    backbone = Backbone(
        ModelIdentity(name, fingerprint(configs, tokenizer_model, weights), version, backgrounds, nouns),
        tokenizer=tokenizer,
        text_encoder=_moved(text_encoder, device),
        unet=_moved(unet, device),
        vae=_moved(vae, device),
        noise_scheduler=schedule,
        device=device,
        dtype=dtype,
    )
    if size not in (None, backbone.size):
        raise BaseModelError(
            f"{DESCRIPTION} says {size} px, U-Net and autoencoder make {backbone.size} px: mend the file"
        )
    return backbone


def _require_known_classes(folder: Path) -> None:
    index = _read_json(folder / "model_index.json")
    pipeline = index.get("_class_name")
    if pipeline != "StableDiffusionPipeline":
        raise BaseModelError(f"the model is a {pipeline}: only StableDiffusionPipeline folders can be used")
    for part, known in CLASSES.items():
        entry = index.get(part)
        held = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if held not in known:
            raise BaseModelError(f"the model's {part} is a {held}: only {known[0]} can be used")


def _require_usual(configs: Mapping[str, Mapping[str, Any]]) -> None:
    for part, options in USUAL.items():
        for option, usual in options.items():
            if configs[part].get(option, usual) != usual:
                raise BaseModelError(
                    f"the configuration of '{part}' sets '{option}':"
                    " only models like Stable Diffusion 1 and 2 can be used"
                )


def _require_few_layers(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a count of layers that would take for ever to build; that the weights lack them shows only afterwards."""
    for part in WEIGHTS:
        for option, value in configs[part].items():
            counts = value if isinstance(value, list) else [value]
            is_long = "layers" in option and any(
                isinstance(count, int) and count > MAX_LAYERS for count in counts
            )
            if is_long or len(counts) > MAX_LAYERS:
                raise BaseModelError(
                    f"the configuration of '{part}' sets '{option}' to more than {MAX_LAYERS} layers or blocks:"
                    " export the base model again"
                )


def _weight_files(folder: Path, stem: str) -> tuple[Path, ...]:
    """Safetensors files of one part: one precision only, full precision first."""
    if not folder.is_dir():
        raise BaseModelError(
            f"the folder '{folder.name}' is missing from the base model: export it again in full"
        )
    for variant in ("", ".fp16"):
        single = folder / f"{stem}{variant}.safetensors"
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if single.is_file() and index.is_file():
            raise BaseModelError(
                f"'{folder.name}' holds {single.name} and the index of weights in parts, and libraries differ in which"
                " they read: delete one of them"
            )
        if single.is_file():
            return (single,)
        if index.is_file() or any(folder.glob(f"{stem}{variant}-?????-of-?????.safetensors")):
            return _shards(index)
    if any(path.suffix in PICKLES for path in folder.iterdir()):
        raise BaseModelError(
            f"the weights in '{folder.name}' are pickled, which can run code: convert to safetensors"
        )
    raise BaseModelError(f"'{folder.name}' holds no {stem}.safetensors: export the base model again in full")


def _shards(index: Path) -> tuple[Path, ...]:
    """Files of weights in parts: those that the index names, all of them, beside it."""
    part = index.parent.name
    placed = _read_json(index).get("weight_map")
    if (
        not isinstance(placed, dict)
        or not placed
        or not all(isinstance(name, str) for name in placed.values())
    ):
        raise BaseModelError(f"'{part}/{index.name}' of the base model is damaged: export it again")
    wanted = set(placed.values())
    for name in sorted(wanted):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise BaseModelError(
                f"'{part}/{index.name}' names the file '{name}': only safetensors files beside it are read"
            )
    if missing := sorted(name for name in wanted if not (index.parent / name).is_file()):
        raise BaseModelError(
            f"'{part}' lacks {missing[0]} ({len(missing)} of {len(wanted)} files): fetch or export it again"
        )
    return tuple(index.parent / name for name in sorted(wanted))


def _require_float_tensors(path: Path) -> None:
    """Refuse a file that is cut short or no safetensors, and weights that are no floating-point numbers."""
    name = f"'{path.parent.name}/{path.name}'"
    try:
        header = read_header(path)
    except (ValueError, OSError) as error:
        raise BaseModelError(
            f"{name} of the base model is damaged ({error}): fetch or export it again"
        ) from error
    for key, told in header.items():
        if key == METADATA or key.endswith("position_ids"):
            continue
        if not isinstance(told, dict) or told.get("dtype") not in FLOATS:
            raise BaseModelError(
                f"'{key}' in {name} is no floating-point tensor: quantised models cannot be used"
            )


def _load_model(kind: Any, folder: Path, files: tuple[Path, ...], dtype: torch.dtype) -> Any:
    variant = "fp16" if ".fp16" in files[0].name else None
    with _readable(folder.name, "has weights that are damaged or do not fit its config.json"):
        model, info = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            variant=variant,
            dtype=dtype,
            output_loading_info=True,
        )
    _require_whole(folder.name, model, info)
    return model


def _load_text_encoder(config: Mapping[str, Any], files: tuple[Path, ...]) -> Any:
    """The text encoder of a configuration's architecture, and of nothing else that it asks for."""
    from transformers import CLIPTextConfig, CLIPTextModel

    kind: Any = CLIPTextModel
    with _readable("text_encoder", "has weights that are damaged or do not fit its config.json"):
        architecture = {key: config[key] for key in TEXT_ARCHITECTURE if key in config}
        text_config = CLIPTextConfig(**architecture)
        state = {name: tensor for path in files for name, tensor in load_file(path).items()}
        # What the file lacks is made up before it is told of; here at most as much as it holds.
        with torch.device("meta"):
            needed = sum(weight.numel() for weight in kind(text_config).parameters())
        if needed > 2 * sum(tensor.numel() for tensor in state.values()):
            raise ValueError("the architecture has far more weights than the file")
        # Without a folder nothing beside the weights is looked for.
        model, info = kind.from_pretrained(
            None,
            config=text_config,
            state_dict=state,
            dtype=torch.float32,
            output_loading_info=True,
        )
    _require_whole("text_encoder", model, info)
    return model


def _moved(model: Any, device: torch.device) -> Any:
    """The model on its device, with weights in memory of its own.

    On a CPU they are mapped from their files until now, at any alignment: the last bits of a result may depend on it,
    and a file that is written over would change the model.
    """
    model = model.to(device)
    if device.type == "cpu":
        for tensor in chain(model.parameters(), model.buffers()):
            tensor.data = tensor.data.clone()
    return model


def _require_whole(part: str, model: nn.Module, info: Mapping[str, Any]) -> None:
    """Refuse weights that lack a tensor of the architecture, add one, or hold NaN or infinity."""
    # Some writers store this table of 0, 1, 2, ..., which the architecture now makes itself.
    unexpected = [key for key in info["unexpected_keys"] if not key.endswith("position_ids")]
    for wrong, keys in (("lack", info["missing_keys"]), ("add", unexpected)):
        if keys:
            first = sorted(map(str, keys))[0]
            raise BaseModelError(
                f"the weights in '{part}' {wrong} '{first}' ({len(keys)} in all):"
                " they belong to another architecture or version, export the base model again"
            )
    try:
        for name, parameter in model.named_parameters():
            require_finite(name, parameter.detach())
    except ValueError as error:
        raise BaseModelError(
            f"the weights in '{part}' are damaged ({error}): fetch or export them again"
        ) from error


@contextmanager
def _readable(part: str, wrong: str) -> Iterator[None]:
    """Turn a library's error on a damaged part into one line; its reports and progress bars are off.

    What the reports warn of is an error here, and algorithms do not print.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity(), diffusers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # libraries raise whatever they trip over
        if is_out_of_memory(error):  # also where a configuration asks for billions of channels
            raise BaseModelError(
                f"the base model's {part} does not fit into memory: free some,"
                " or fetch or export it again if its config.json is damaged"
            ) from error
        raise BaseModelError(f"the base model's {part} {wrong}: fetch or export it again") from error
    finally:
        transformers_logging.set_verbosity(verbosity[0])
        diffusers_logging.set_verbosity(verbosity[1])
        if bars:
            transformers_logging.enable_progress_bar()


def _noise_schedule(config: Mapping[str, Any], device: torch.device) -> NoiseSchedule:
    """Only the training schedule is taken from a scheduler's configuration, so any scheduler class will do."""
    from diffusers import DDIMScheduler

    timesteps, offset = config.get("num_train_timesteps", 1000), config.get("steps_offset", 0)
    if not _is_count(timesteps, 2, MAX_TRAIN_TIMESTEPS) or not _is_count(offset, 0, timesteps - 1):
        raise BaseModelError(
            f"the scheduler has {timesteps!r} timesteps at an offset of {offset!r}:"
            f" expected 2 to {MAX_TRAIN_TIMESTEPS}, and an offset among them"
        )
    with _readable("scheduler", "has no usable noise schedule"):
        alphas_cumprod = DDIMScheduler.from_config(dict(config)).alphas_cumprod.float()
    prediction_type = config.get("prediction_type", "epsilon")
    spacing = config.get("timestep_spacing", "leading")
    if prediction_type not in ("epsilon", "v_prediction", "sample"):
        raise BaseModelError(
            f"prediction_type is '{prediction_type}': only epsilon, v_prediction, sample can be used"
        )
    if spacing not in ("leading", "trailing", "linspace"):
        raise BaseModelError(f"timestep_spacing is '{spacing}': only leading, trailing, linspace can be used")
    falling = bool((alphas_cumprod.diff() <= 0).all())
    if not falling or not 0 <= float(alphas_cumprod[-1]) < float(alphas_cumprod[0]) < 1:
        raise BaseModelError("the scheduler's betas are not a noise schedule: they must lie between 0 and 1")
    if prediction_type == "epsilon" and float(alphas_cumprod[-1]) == 0:
        raise BaseModelError(
            "the scheduler ends in pure noise, where epsilon says nothing: it needs v_prediction"
        )
    return NoiseSchedule(
        alphas_cumprod=alphas_cumprod.to(device),
        # Schedulers without the option (Euler, DPM++) belong to models trained down to the first timestep.
        final_alpha_cumprod=1.0
        if config.get("set_alpha_to_one", False) is True
        else float(alphas_cumprod[0]),
        prediction_type=prediction_type,
        timestep_spacing=spacing,
        steps_offset=offset,
    )


def _require_fitting_parts(unet: Any, vae: Any, text_encoder: Any, tokenizer: Any) -> None:
    if unet.config.in_channels != vae.config.latent_channels:
        raise BaseModelError(
            f"the U-Net takes {unet.config.in_channels} channels, the autoencoder makes {vae.config.latent_channels}:"
            " inpainting and depth models cannot be used"
        )
    if unet.config.cross_attention_dim != text_encoder.config.hidden_size:
        raise BaseModelError(
            f"the U-Net reads text of width {unet.config.cross_attention_dim}, the text encoder writes"
            f" {text_encoder.config.hidden_size}: they belong to different models"
        )
    if not _is_count(unet.config.sample_size, 1, MAX_SAMPLE_SIZE):
        raise BaseModelError(
            f"the U-Net's sample_size is {unet.config.sample_size!r}, not one number from 1 to {MAX_SAMPLE_SIZE}:"
            " only square models can be used"
        )
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor
    if not (_is_number(scale) and scale > 0 and (shift is None or _is_number(shift))):
        raise BaseModelError(
            f"the autoencoder scales by {scale!r} and shifts by {shift!r}: expected finite numbers, export it again"
        )
    rows = len(text_encoder.get_input_embeddings().weight)
    # Ids beyond the table are the placeholders'.
    tokens = 1 + max(len(tokenizer) - 1, *tokenizer.get_vocab().values())
    if tokens > rows:
        raise BaseModelError(
            f"the tokenizer has {tokens} tokens, the text encoder {rows}: they belong to different models"
        )
    if not _is_count(tokenizer.model_max_length, 3):
        raise BaseModelError(
            f"the tokenizer reads {tokenizer.model_max_length!r} tokens: expected 3 or more, export it again"
        )
    for name in ("bos_token", "eos_token", "pad_token"):
        if not _is_count(getattr(tokenizer, f"{name}_id"), 0):
            raise BaseModelError(f"the tokenizer has no {name} in its vocabulary: export it again")


def _is_count(value: object, low: int, high: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _choose_attention(unet: UNet2DConditionModel, device: torch.device, dtype: torch.dtype) -> None:
    """Set the attention processors: ours in cross-attention, the quicker of two elsewhere.

    Measured on one core with AMX, batch 4, 6 heads of 32, 16x16 cells, self-attention forward + backward:
    float32 explicit 20.3 ms, fused 12.2 ms; bfloat16 explicit 10.8 ms, fused 18.0 ms (8x8: 1.9 against 5.4 ms). At
    32x32 cells the fused kernel wins in both (bfloat16 31 against 53 ms) and needs no (cells, cells) matrix.
    Forward alone the fused kernel always wins; it is the training that takes the time.
    """
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    cells = unet.config["sample_size"] ** 2
    explicit_pays = (
        device.type == "cpu" and dtype == torch.bfloat16 and cells <= EXPLICIT_SELF_ATTENTION_CELLS
    )
    self_attention = AttnProcessor() if explicit_pays else AttnProcessor2_0()
    cross_attention: Any = ExplicitAttentionProcessor()
    unet.set_attn_processor(
        {
            name: cross_attention if name.endswith("attn2.processor") else self_attention
            for name in unet.attn_processors
        }
    )


def _description(folder: Path) -> tuple[str | None, int | None, tuple[str, ...], tuple[str, ...]]:
    """Version, picture size, background words and nouns of `conceptloom.json`, where there is one."""
    path = folder / DESCRIPTION
    if not path.is_file():
        return None, None, (), ()
    told = _read_json(path)
    version, size = told.get("version"), told.get("size")
    backgrounds, nouns = told.get("backgrounds", []), told.get("nouns", [])
    if (
        not isinstance(version, str)
        or not isinstance(size, int)
        or not all(_are_words(words) for words in (backgrounds, nouns))
    ):
        raise BaseModelError(
            f"{DESCRIPTION} must hold version (text), size (px), backgrounds and nouns (words): mend the file"
        )
    return version, size, tuple(backgrounds), tuple(nouns)


def _are_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise BaseModelError(
            f"the base model lacks '{path.parent.name}/{path.name}': export it again in full"
        )


def _read_json(path: Path) -> dict[str, Any]:
    _require_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BaseModelError(
            f"'{path.parent.name}/{path.name}' of the base model is damaged: export it again"
        )
    return value
