"""Identity of base models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conceptloom.backbone import Backbone, load_backbone
from conceptloom.backbone import fingerprint as module
from conceptloom.backbone.fingerprint import fingerprint


def identity(folder: Path) -> str:
    return load_backbone(folder, "cpu", "float32").fingerprint


def test_a_copy_under_another_name_has_the_same_fingerprint(
    tiny_backbone: Backbone, tiny_folder: Path, tmp_path: Path
) -> None:
    assert identity(shutil.copytree(tiny_folder, tmp_path / "other-name")) == tiny_backbone.fingerprint


def test_what_only_names_the_writing_library_does_not_count(
    tiny_backbone: Backbone, tiny_folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_folder, tmp_path / "model")
    for part in ("unet", "vae", "text_encoder"):
        path = copy / part / "config.json"
        changed = {**json.loads(path.read_text()), "_diffusers_version": "9", "transformers_version": "9"}
        path.write_text(json.dumps(dict(reversed(changed.items()))))
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt", "note": "saved again"})
    assert identity(copy) == tiny_backbone.fingerprint


def test_one_changed_weight_changes_it(tiny_backbone: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_folder, tmp_path / "model")
    path = copy / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    tensors["final_layer_norm.bias"][0] += 1e-6
    save_file(tensors, path, metadata={"format": "pt"})
    assert identity(copy) != tiny_backbone.fingerprint


def test_another_vocabulary_changes_it(tiny_backbone: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_folder, tmp_path / "model")
    path = copy / "tokenizer" / "tokenizer.json"
    told = json.loads(path.read_text())
    words = told["model"]["vocab"]
    words["cat</w>"], words["dog</w>"] = words["dog</w>"], words["cat</w>"]
    path.write_text(json.dumps(told))
    assert identity(copy) != tiny_backbone.fingerprint


def test_another_noise_schedule_changes_it(tiny_backbone: Backbone, tiny_v_backbone: Backbone) -> None:
    """Both tiny models have the same weights."""
    assert torch.equal(tiny_backbone.vocabulary_embeddings, tiny_v_backbone.vocabulary_embeddings)
    assert tiny_backbone.fingerprint != tiny_v_backbone.fingerprint


@pytest.mark.parametrize("place", [0, 5_000, -1])
def test_sampling_a_large_file_sees_its_ends_and_any_trained_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr(module, "WHOLE_FILE_BYTES", 1_000)
    monkeypatch.setattr(module, "BLOCK_BYTES", 64)
    values = torch.zeros(10_000)
    save_file({"w": values}, tmp_path / "a.safetensors")
    values[place:][:1000] += 1
    save_file({"w": values}, tmp_path / "b.safetensors")
    first, second = (fingerprint({}, {}, {"unet": [tmp_path / f"{name}.safetensors"]}) for name in "ab")
    assert first != second


def test_sampling_reads_little_of_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change between two sampled blocks goes unseen: the price that the module's text names."""
    monkeypatch.setattr(module, "WHOLE_FILE_BYTES", 1_000)
    monkeypatch.setattr(module, "BLOCK_BYTES", 16)
    values = torch.zeros(10_000)
    save_file({"w": values}, tmp_path / "a.safetensors")
    values[10] = 1
    save_file({"w": values}, tmp_path / "b.safetensors")
    first, second = (fingerprint({}, {}, {"unet": [tmp_path / f"{name}.safetensors"]}) for name in "ab")
    assert first == second
