"""Feature judges behind one protocol, on tiny random models saved here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

from conceptloom.errors import DataError
from conceptloom.judges.features import (
    OuterFeatures,
    TextJudge,
    load_feature_judge,
)
from conceptloom.judges.networks import NetworkConfig, Thresholds, Vocabulary, build_network, save_network
from tiny_models import tiny_tokenizer

SIDE = 32
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
LAYERS = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = LAYERS | {"image_size": SIDE, "patch_size": 8}


def save_tokenizer(folder: Path) -> None:
    vocabulary = {"<pad>": 0, "<end>": 1, "a": 2, "cat": 3, "dog": 4, "<unk>": 5}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    ).save_pretrained(folder)


def save_preprocessing(folder: Path) -> None:
    told = {"image_mean": MEAN, "image_std": STD, "crop_size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(told), encoding="utf-8")


def save_clip(folder: Path) -> Path:
    tokenizer = tiny_tokenizer()
    text = LAYERS | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=12)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_preprocessing(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    text = LAYERS | {"vocab_size": 6, "max_position_embeddings": 8, "projection_size": 16}
    SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)).save_pretrained(folder)
    save_tokenizer(folder)
    # The layout in which transformers 5 writes a model of pictures and texts.
    told = {
        "image_processor": {"image_mean": MEAN, "image_std": STD, "size": {"height": SIDE, "width": SIDE}}
    }
    (folder / "processor_config.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def save_dinov2(folder: Path) -> Path:
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=8
    )
    Dinov2Model(config).save_pretrained(folder)
    save_preprocessing(folder)
    return folder


SAVERS: dict[str, Callable[[Path], Path]] = {"clip": save_clip, "dinov2": save_dinov2, "siglip": save_siglip}


@pytest.fixture(scope="module", params=sorted(SAVERS))
def outer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OuterFeatures:
    torch.manual_seed(0)
    name = str(request.param)
    judge = load_feature_judge(name, SAVERS[name](tmp_path_factory.mktemp(name)))
    assert isinstance(judge, OuterFeatures)
    return judge


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def test_pictures_of_any_size_become_unit_vectors(outer: OuterFeatures) -> None:
    vectors = outer.embed(pictures((SIDE, SIDE), (20, 50), (100, 7)))
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_a_picture_is_embedded_alike_alone_and_among_many(outer: OuterFeatures) -> None:
    many = pictures(*[(SIDE, SIDE)] * 18)
    assert np.allclose(outer.embed(many)[17], outer.embed(many[17:])[0], atol=1e-5)


def test_a_square_picture_is_embedded_as_by_the_library(outer: OuterFeatures) -> None:
    (pixels,) = pictures((SIDE, SIDE))
    image = torch.from_numpy((pixels / 255 - MEAN) / STD).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        if outer.name == "dinov2":
            expected = outer.model(image).last_hidden_state[:, 0]
        else:
            expected = outer.model(
                pixel_values=image, input_ids=torch.zeros(1, 8, dtype=torch.long)
            ).image_embeds
    expected = expected / expected.norm()
    assert np.allclose(outer.embed([pixels]), expected.numpy(), atol=1e-5)


def test_an_oblong_picture_is_padded_with_grey_not_cropped(outer: OuterFeatures) -> None:
    white = np.full((SIDE, SIDE // 2, 3), 255, np.uint8)
    shown = outer.prepared(white).transpose(1, 2, 0) * STD + MEAN
    assert shown[:, :4] == pytest.approx(128 / 255, abs=1e-5)
    assert shown[:, SIDE // 4 + 2 : 3 * SIDE // 4 - 2] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_texts_become_unit_vectors_in_the_space_of_the_pictures(name: str, tmp_path: Path) -> None:
    judge = load_feature_judge(name, SAVERS[name](tmp_path))
    assert isinstance(judge, TextJudge)
    vectors = judge.embed_text(["a cat", "a dog", "a cat a cat a cat a cat a cat"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors.shape[1] == judge.embed(pictures((SIDE, SIDE))).shape[1]
    assert not np.allclose(vectors[0], vectors[1], atol=1e-4)


def test_dinov2_reads_no_texts(tmp_path: Path) -> None:
    assert not isinstance(load_feature_judge("dinov2", save_dinov2(tmp_path)), TextJudge)


def test_a_built_in_judge_is_a_feature_judge(tmp_path: Path) -> None:
    config = NetworkConfig("residual", (16, 16, 16), (1, 1, 1), neck=16, points=3, hidden=24, embedding=8)
    save_network(tmp_path, build_network(config, Vocabulary(("cat/noto",), ("grass",)), 0), Thresholds(), {})
    judge = load_feature_judge("selector", tmp_path)
    vectors = judge.embed(pictures((40, 30), (128, 128)))
    assert judge.name == "selector"
    assert vectors.shape == (2, 8)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_an_unknown_judge_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match="examiner, selector, clip, dinov2, siglip"):
        load_feature_judge("lpips")


def test_a_judge_that_does_not_ship_needs_a_folder() -> None:
    with pytest.raises(DataError, match="name the local folder"):
        load_feature_judge("clip")


def test_a_hub_id_is_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        load_feature_judge("clip", "openai/clip-vit-base-patch32")


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="type 'dinov2': the judge 'clip' needs 'clip'"):
        load_feature_judge("clip", save_dinov2(tmp_path))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    save_dinov2(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"no model\.safetensors"):
        load_feature_judge("dinov2", tmp_path)


@pytest.mark.parametrize(
    "wish",
    [
        {"_attn_implementation": "kernels-community/flash-attn"},
        {"attn_implementation": "somebody/kernel"},
        {"vision_config": {"_attn_implementation": "somebody/kernel"}},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
    ],
)
def test_a_configuration_that_asks_for_code_of_a_hub_or_a_quantiser_is_refused(
    tmp_path: Path, wish: dict[str, object]
) -> None:
    save_dinov2(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, **wish}))
    with pytest.raises(DataError, match="asks for code or number formats of its own"):
        load_feature_judge("dinov2", tmp_path)


def test_an_adapter_that_leads_to_another_model_is_refused(tmp_path: Path) -> None:
    save_dinov2(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "../other"}')
    with pytest.raises(DataError, match="leads to another model"):
        load_feature_judge("dinov2", tmp_path)


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_dinov2(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["layernorm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lack 'layernorm\.weight'"):
        load_feature_judge("dinov2", tmp_path)


def test_a_folder_without_its_preprocessing_is_refused(tmp_path: Path) -> None:
    save_dinov2(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="how pictures are prepared"):
        load_feature_judge("dinov2", tmp_path)


def refused_clip(folder: Path, file: str, change: Callable[[dict[str, Any]], object]) -> None:
    """A CLIP folder with one file changed is refused in one line, within seconds."""
    save_clip(folder)
    told = json.loads((folder / file).read_text(encoding="utf-8"))
    change(told)
    (folder / file).write_text(json.dumps(told), encoding="utf-8")
    begun = time.perf_counter()
    with pytest.raises(DataError) as caught:
        load_feature_judge("clip", folder)
    assert time.perf_counter() - begun < 5
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**5),
        ("num_hidden_layers", 3000),
        ("hidden_size", 10**5),
        ("hidden_size", "16"),
    ],
)
def test_an_architecture_that_takes_for_ever_or_all_memory_is_not_built(
    part: str, key: str, value: object, tmp_path: Path
) -> None:
    refused_clip(tmp_path, "config.json", lambda told: told[part].update({key: value}))


@pytest.mark.parametrize(
    "changes",
    [
        {"crop_size": 10**9},
        {"crop_size": 0},
        {"crop_size": 10**400},
        {"crop_size": SIDE // 2},
        {"image_mean": [10**400, 0, 0]},
        {"image_mean": ["a"]},
        {"image_std": [0, 0, 0]},
        {"image_std": [float("nan")] * 3},
    ],
)
def test_preprocessing_that_the_model_cannot_take_is_refused(
    changes: dict[str, object], tmp_path: Path
) -> None:
    refused_clip(tmp_path, "preprocessor_config.json", lambda told: told.update(changes))


@pytest.mark.parametrize("token", [None, True, [], {"a": 1}])
def test_a_tokenizer_that_cannot_pad_is_refused_when_it_is_loaded(token: object, tmp_path: Path) -> None:
    refused_clip(tmp_path, "tokenizer_config.json", lambda told: told.update({"pad_token": token}))


@pytest.mark.parametrize("vocabulary", [None, [], "a", {"a": None}])
def test_a_tokenizer_without_a_vocabulary_is_refused(vocabulary: object, tmp_path: Path) -> None:
    refused_clip(tmp_path, "tokenizer.json", lambda told: told["model"].update({"vocab": vocabulary}))


def test_words_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    refused_clip(tmp_path, "tokenizer.json", lambda told: told["model"]["vocab"].update({"extra": 10**6}))
