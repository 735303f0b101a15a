"""Loading base models, and refusing what would load wrongly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import PNDMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from conceptloom.backbone import Backbone, load_backbone
from conceptloom.errors import BaseModelError, ConceptloomError, DeviceError
from tiny_models import out_of_memory, save_tiny_model, stable_diffusion_scheduler

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def refused(folder: str | Path, match: str) -> None:
    """Loading fails with one clear line."""
    with pytest.raises(BaseModelError, match=match) as caught:
        load_backbone(folder, "cpu", "float32")
    assert len(str(caught.value).splitlines()) == 1


def same_output(first: Backbone, second: Backbone) -> bool:
    ids = torch.arange(first.max_tokens)[None]
    with torch.no_grad():
        hidden_states = [model.text_encoder(ids).last_hidden_state for model in (first, second)]
        latents, timesteps = torch.ones(1, *first.latent_shape), torch.tensor([10])
        predictions = [
            m.predict(latents, timesteps, h) for m, h in zip((first, second), hidden_states, strict=True)
        ]
    return torch.equal(*hidden_states) and torch.equal(*predictions)


def test_loading_twice_gives_the_same_model(tiny_backbone: Backbone, folder: Path) -> None:
    assert same_output(tiny_backbone, load_backbone(folder, "cpu", "float32"))


@pytest.mark.parametrize("path", [UNET, TEXT, VAE])
def test_writing_over_a_loaded_file_changes_nothing(path: str, tiny_backbone: Backbone, folder: Path) -> None:
    backbone = load_backbone(folder, "cpu", "float32")
    with open(folder / path, "r+b") as file:
        file.write(bytes((folder / path).stat().st_size))
    assert all(
        torch.equal(weight, before)
        for part in ("unet", "vae", "text_encoder")
        for weight, before in zip(
            getattr(backbone, part).parameters(), getattr(tiny_backbone, part).parameters(), strict=True
        )
    )


def test_loading_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_backbone(folder, "cpu", "float32")
    assert capfd.readouterr() == ("", "")


def test_a_folder_lends_its_name(folder: Path) -> None:
    backbone = load_backbone(str(folder), "cpu", "float32")
    assert (backbone.name, backbone.version, backbone.backgrounds) == ("model", None, ())


def test_a_description_gives_version_backgrounds_and_nouns(folder: Path) -> None:
    told = {"version": "builtin-1", "size": 64, "backgrounds": ["beach", "grass"], "nouns": ["cat"]}
    (folder / "conceptloom.json").write_text(json.dumps(told))
    backbone = load_backbone(folder, "cpu", "float32")
    assert (backbone.version, backbone.backgrounds) == ("builtin-1", ("beach", "grass"))
    assert backbone.nouns == ("cat",)


def test_the_builtin_model_is_found_where_the_environment_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPTLOOM_BUILTIN", str(folder))
    assert load_backbone("builtin", "cpu", "float32").name == "builtin"


def test_a_missing_builtin_model_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCEPTLOOM_BUILTIN", str(tmp_path))
    refused("builtin", "built-in model is not installed")


def test_the_layout_of_older_transformers_loads_the_same(tiny_backbone: Backbone, folder: Path) -> None:
    tensors = {f"text_model.{key}": value for key, value in load_file(folder / TEXT).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(32)[None]
    save_file(tensors, folder / TEXT, metadata={"format": "pt"})
    assert same_output(tiny_backbone, load_backbone(folder, "cpu", "float32"))


def test_half_precision_files_are_used_where_there_are_no_others(
    tiny_backbone: Backbone, folder: Path
) -> None:
    for part in ("unet", "vae", "text_encoder"):
        path = next((folder / part).glob("*.safetensors"))
        halves = {key: tensor.half() for key, tensor in load_file(path).items()}
        path.unlink()
        save_file(halves, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
    backbone = load_backbone(folder, "cpu", "float32")
    name, parameter = next(iter(backbone.unet.named_parameters()))
    assert parameter.dtype == torch.float32
    torch.testing.assert_close(
        parameter, tiny_backbone.unet.get_parameter(name).half().float(), rtol=0, atol=0
    )


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_refused(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    refused(folder, part)


@pytest.mark.parametrize("path", [UNET, TEXT, VAE])
def test_a_missing_tensor_is_an_error_not_random_numbers(folder: Path, path: str) -> None:
    change_tensors(folder / path, lambda tensors: tensors.pop(sorted(tensors)[3]))
    refused(folder, "lack")


@pytest.mark.parametrize("path", [UNET, TEXT, VAE])
def test_a_tensor_too_many_is_refused(folder: Path, path: str) -> None:
    change_tensors(folder / path, lambda tensors: tensors.update(stray=torch.zeros(2)))
    refused(folder, "add 'stray'")


@pytest.mark.parametrize("path", [UNET, TEXT])
def test_a_tensor_of_another_shape_is_refused(folder: Path, path: str) -> None:
    def grow(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in sorted(tensors) if tensors[name].ndim == 2)
        tensors[name] = torch.zeros(3, 5)

    change_tensors(folder / path, grow)
    refused(folder, "do not fit its config.json")


def test_a_text_encoder_with_foreign_names_is_refused(folder: Path) -> None:
    """transformers would fill all of it with random numbers and warn."""
    save_file({f"other.{key}": value for key, value in load_file(folder / TEXT).items()}, folder / TEXT)
    refused(folder, "lack")


def test_damaged_weights_are_refused(folder: Path) -> None:
    (folder / UNET).write_bytes((folder / UNET).read_bytes()[:-100])
    refused(
        folder, "'unet/diffusion_pytorch_model.safetensors' of the base model is damaged .*not fully covered"
    )


@pytest.mark.parametrize("path", [UNET, TEXT, VAE])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(folder: Path, path: str, value: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[sorted(tensors)[5]].flatten()[-1] = value

    change_tensors(folder / path, spoil)
    refused(folder, "not finite numbers")


@pytest.mark.parametrize("path", [UNET, TEXT, VAE])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_weights_that_are_no_floats_are_refused(folder: Path, path: str, dtype: torch.dtype) -> None:
    def quantise(tensors: dict[str, torch.Tensor]) -> None:
        name = sorted(tensors)[5]
        tensors[name] = tensors[name].to(dtype)

    change_tensors(folder / path, quantise)
    refused(folder, "is no floating-point tensor: quantised models")


@pytest.fixture
def sharded(tiny_backbone: Backbone, folder: Path) -> Path:
    """The model with U-Net and text encoder in parts."""
    for part, path in ((tiny_backbone.unet, UNET), (tiny_backbone.text_encoder, TEXT)):
        (folder / path).unlink()
        part.save_pretrained((folder / path).parent, max_shard_size="60KB")
    assert len(shards(folder, UNET)) > 2
    assert len(shards(folder, TEXT)) > 1
    return folder


def shards(folder: Path, path: str) -> list[Path]:
    return sorted((folder / path).parent.glob("*-of-*.safetensors"))


def test_weights_in_parts_load_the_same(tiny_backbone: Backbone, sharded: Path) -> None:
    assert same_output(tiny_backbone, load_backbone(sharded, "cpu", "float32"))


@pytest.mark.parametrize("path", [UNET, TEXT])
def test_a_part_that_was_not_fetched_is_named(sharded: Path, path: str) -> None:
    parts = shards(sharded, path)
    parts[1].unlink()
    refused(sharded, rf"'{path.split('/')[0]}' lacks {parts[1].name} \(1 of {len(parts)} files\)")


@pytest.mark.parametrize("path", [UNET, TEXT])
def test_parts_without_their_index_are_refused_naming_it(sharded: Path, path: str) -> None:
    (sharded / f"{path}.index.json").unlink()
    refused(sharded, rf"lacks '{path}\.index\.json'")


@pytest.mark.parametrize("path", [UNET, TEXT])
@pytest.mark.parametrize("named", ["../../other.safetensors", "/etc/passwd", "weights.bin", "", "a\x00b"])
def test_an_index_that_names_other_files_is_refused(sharded: Path, path: str, named: str) -> None:
    index = sharded / f"{path}.index.json"
    placed = json.loads(index.read_text())["weight_map"]
    change_json(index, weight_map={**placed, next(iter(placed)): named})
    refused(sharded, "only safetensors files beside it")


@pytest.mark.parametrize("placed", [None, [], {}, {"a": 1}])
def test_a_damaged_index_of_parts_is_refused(sharded: Path, placed: object) -> None:
    change_json(sharded / f"{UNET}.index.json", weight_map=placed)
    refused(sharded, "index.json' of the base model is damaged")


@pytest.mark.parametrize("path", [UNET, TEXT])
def test_weights_that_are_there_twice_are_refused_for_libraries_read_either(
    sharded: Path, tiny_folder: Path, path: str
) -> None:
    shutil.copy(tiny_folder / path, sharded / path)
    refused(sharded, "delete one of them")


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"])
def test_pickled_weights_are_refused(folder: Path, suffix: str) -> None:
    (folder / UNET).rename((folder / UNET).with_suffix(suffix))
    refused(folder, "pickled.*safetensors")


def test_another_pipeline_is_refused(folder: Path) -> None:
    change_json(folder / "model_index.json", _class_name="StableDiffusionXLPipeline")
    refused(folder, "StableDiffusionXLPipeline")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer"])
def test_an_unknown_class_is_refused(folder: Path, part: str) -> None:
    change_json(folder / "model_index.json", **{part: ["my_module", "MyModel"]})
    refused(folder, f"{part} is a MyModel")


def test_a_unet_of_another_kind_is_refused(folder: Path) -> None:
    change_json(folder / "unet/config.json", time_cond_proj_dim=8)
    refused(folder, "time_cond_proj_dim")


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("unet/config.json", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}),
        ("vae/config.json", {"quantization_config": {"quant_method": "torchao"}}),
        ("text_encoder/config.json", {"quantization_config": {"quant_method": "gptq"}}),
        ("vae/config.json", {"latents_mean": [0.0, 0.0, 0.0, 1.0]}),
        ("vae/config.json", {"scaling_factor": 0}),
        ("vae/config.json", {"scaling_factor": float("nan")}),
        ("vae/config.json", {"scaling_factor": "1"}),
        ("vae/config.json", {"shift_factor": float("inf")}),
        ("vae/config.json", {"block_out_channels": []}),
        ("unet/config.json", {"sample_size": 0}),
        ("unet/config.json", {"sample_size": True}),
        ("unet/config.json", {"sample_size": 10**9}),
        ("unet/config.json", {"sample_size": [16, 16]}),
        ("unet/config.json", {"norm_num_groups": 0}),
        ("unet/config.json", {"block_out_channels": [10**9, 10**9]}),
        ("text_encoder/config.json", {"num_attention_heads": 0}),
        ("text_encoder/config.json", {"vocab_size": 10**12}),
        ("text_encoder/config.json", {"hidden_act": "unheard-of"}),
        ("text_encoder/config.json", {"eos_token_id": "x"}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 2}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "x"}),
        ("tokenizer/tokenizer_config.json", {"bos_token": None}),
        ("tokenizer/tokenizer_config.json", {"eos_token": None}),
        ("tokenizer/tokenizer_config.json", {"pad_token": None}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 0}),
        ("scheduler/scheduler_config.json", {"steps_offset": "1"}),
        ("scheduler/scheduler_config.json", {"steps_offset": -1}),
        ("scheduler/scheduler_config.json", {"steps_offset": 1000}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value.split("/")[0],
)
def test_a_configuration_that_makes_no_usable_model_is_refused(
    folder: Path, path: str, changes: dict[str, object]
) -> None:
    change_json(folder / path, **changes)
    refused(folder, path.split("/")[0] + "|U-Net|autoencoder|damaged")


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_attention_code_from_a_hub_is_not_fetched_for_a_text_encoder_that_asks_for_it(
    tiny_backbone: Backbone, folder: Path, key: str
) -> None:
    change_json(folder / "text_encoder/config.json", **{key: "kernels-community/flash-attn"})
    assert same_output(tiny_backbone, load_backbone(folder, "cpu", "float32"))


def test_an_adapter_beside_the_text_encoder_does_not_lead_to_another_model(
    tiny_backbone: Backbone, folder: Path, tmp_path: Path
) -> None:
    """transformers would load the model that the adapter names, of which the fingerprint knows nothing."""
    other = save_tiny_model(tmp_path / "other", stable_diffusion_scheduler(), seed=1)
    told = {"base_model_name_or_path": str(other / "text_encoder"), "peft_type": "LORA"}
    (folder / "text_encoder" / "adapter_config.json").write_text(json.dumps(told))
    assert same_output(tiny_backbone, load_backbone(folder, "cpu", "float32"))


def test_a_word_whose_id_is_a_placeholders_is_refused(folder: Path) -> None:
    path = folder / "tokenizer/tokenizer.json"
    told = json.loads(path.read_text())
    told["model"]["vocab"]["cat</w>"] = len(told["model"]["vocab"])
    path.write_text(json.dumps(told))
    refused(folder, "they belong to different models")


@pytest.mark.parametrize("source", ["~nobody-of-that-name/model", "a\x00b", "x" * 300, "a\nb", "../x/y/z"])
def test_a_source_that_is_no_usable_path_is_refused(source: str) -> None:
    refused(source, "there is no folder")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"_class_name": 3}', "\x00"])
def test_a_damaged_index_is_refused(folder: Path, content: str) -> None:
    (folder / "model_index.json").write_text(content)
    refused(folder, "damaged|is a 3")


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "model_index.json")


def test_a_single_file_is_refused(folder: Path) -> None:
    refused(folder / UNET, "single file")


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no folder")


def test_a_hub_id_outside_the_cache_is_refused_without_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    refused("nobody/no-model", "hf download nobody/no-model")


def test_a_size_that_contradicts_the_weights_is_refused(folder: Path) -> None:
    (folder / "conceptloom.json").write_text(json.dumps({"version": "x", "size": 512, "backgrounds": []}))
    refused(folder, "512 px.*64 px")


@pytest.mark.parametrize(
    "told",
    [
        {"version": 1, "size": 64},
        {"version": "x"},
        {"version": "x", "size": 64, "backgrounds": [1]},
        {"version": "x", "size": 64, "nouns": "cat"},
    ],
)
def test_a_damaged_description_is_refused(folder: Path, told: object) -> None:
    (folder / "conceptloom.json").write_text(json.dumps(told))
    refused(folder, "conceptloom.json")


def test_any_scheduler_class_gives_its_training_schedule(tiny_backbone: Backbone, folder: Path) -> None:
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    scheduler.save_pretrained(folder / "scheduler")
    schedule = load_backbone(folder, "cpu", "float32").noise_scheduler
    assert torch.equal(schedule.alphas_cumprod, tiny_backbone.noise_scheduler.alphas_cumprod)
    assert schedule.final_alpha_cumprod == tiny_backbone.noise_scheduler.final_alpha_cumprod
    assert schedule.steps_offset == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction_type": "flow"},
        {"timestep_spacing": "karras"},
        {"beta_schedule": "unheard-of"},
        {"beta_start": -0.5},
        {"beta_end": 3.0},
        {"rescale_betas_zero_snr": True},
        {"trained_betas": "no numbers"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_impossible_schedule_is_refused(folder: Path, changes: dict[str, object]) -> None:
    change_json(folder / "scheduler/scheduler_config.json", **changes)
    refused(folder, "schedule|prediction_type|timestep_spacing")


def test_a_tokenizer_with_more_words_than_rows_is_refused(folder: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(folder / "tokenizer")
    refused(folder, "tokens")


def test_cpu_attention_is_fused_in_float32_and_explicit_in_bfloat16(tiny_folder: Path) -> None:
    for dtype, expected in (("float32", AttnProcessor2_0), ("bfloat16", AttnProcessor)):
        unet = load_backbone(tiny_folder, "cpu", dtype).unet
        kinds = {type(processor) for name, processor in unet.attn_processors.items() if "attn1" in name}
        assert kinds == {expected}


@pytest.mark.parametrize(
    ("device", "dtype", "match"),
    [
        ("tpu", "auto", "unknown device"),
        ("cuda:99", "auto", "not there"),
        ("cuda:x", "auto", "unknown device"),
        ("cpu:0", "auto", "unknown device"),
        ("cpu", "int8", "unknown dtype"),
        ("cpu", "float16", "float16 needs a CUDA device"),
    ],
)
def test_devices_and_dtypes_that_cannot_be_used_are_refused(
    tiny_folder: Path, device: str, dtype: str, match: str
) -> None:
    with pytest.raises(DeviceError, match=match):
        load_backbone(tiny_folder, device, dtype)


def test_auto_on_a_cpu_is_float32(tiny_folder: Path) -> None:
    backbone = load_backbone(tiny_folder, "cpu", "auto")
    assert (backbone.device.type, backbone.dtype) == ("cpu", torch.float32)


def test_every_refusal_is_a_conceptloom_error() -> None:
    assert issubclass(BaseModelError, ConceptloomError)
    assert issubclass(DeviceError, ConceptloomError)


@pytest.mark.parametrize(
    ("part", "option"),
    [
        ("text_encoder", "num_hidden_layers"),
        ("unet", "layers_per_block"),
        ("unet", "transformer_layers_per_block"),
        ("vae", "layers_per_block"),
    ],
)
@pytest.mark.parametrize("count", [3000, 10**9, [1, 3000]])
def test_an_architecture_of_thousands_of_layers_is_not_built(
    folder: Path, part: str, option: str, count: object
) -> None:
    change_json(folder / part / "config.json", **{option: count})
    refused(folder, f"'{part}' sets '{option}' to more than 100 layers")


def test_thousands_of_blocks_are_not_built(folder: Path) -> None:
    blocks = {"down_block_types": ["CrossAttnDownBlock2D"] * 5000, "block_out_channels": [16] * 5000}
    change_json(folder / "unet" / "config.json", **blocks)
    refused(folder, "more than 100 layers or blocks")


def test_a_text_encoder_wider_than_its_weights_is_not_built(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_json(folder / "text_encoder" / "config.json", hidden_size=10**5, num_attention_heads=4)
    monkeypatch.setattr(CLIPTextModel, "from_pretrained", lambda *_, **__: pytest.fail("it was built"))
    refused(folder, "text_encoder has weights that are damaged or do not fit")


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("from_pretrained", "^the base model's unet does not fit into memory: free some, or fetch"),
        ("to", "^'cpu' ran out of memory at loading the base model: free some or choose"),
    ],
)
def test_a_model_that_memory_does_not_hold_is_told_in_one_line(
    place: str, told: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UNet2DConditionModel, place, out_of_memory)
    with pytest.raises((BaseModelError, DeviceError), match=told):
        load_backbone(folder, "cpu", "float32")
