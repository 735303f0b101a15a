"""From a set's folder and a prompt to images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import conceptloom
from conceptloom.backbone import Backbone
from conceptloom.errors import (
    BaseModelError,
    ConceptloomError,
    ConceptSetError,
    ConfigError,
    PromptError,
    RunError,
)
from conceptloom.generation import SHEET, generate, prepare_job
from tiny_sets import PROMPT, tiny_set


@pytest.fixture(scope="module")
def set_folder(tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "my-set"
    tiny_set(tiny_backbone, "lora").save(folder)
    return folder


def test_the_packages_generate_is_this_one() -> None:
    assert conceptloom.generate is generate


def test_a_set_in_memory_and_the_same_set_on_disk_draw_the_same(
    tiny_backbone: Backbone, set_folder: Path
) -> None:
    options: dict[str, Any] = {"base_model": tiny_backbone, "num_inference_steps": 2}
    [from_memory] = generate(tiny_set(tiny_backbone, "lora"), PROMPT, **options)
    [from_disk] = generate(str(set_folder), [PROMPT], **options)
    assert np.array_equal(from_memory.pixels, from_disk.pixels)
    assert from_memory.provenance == from_disk.provenance


def test_a_base_model_is_loaded_from_its_folder(
    tiny_folder: Path, tiny_backbone: Backbone, set_folder: Path
) -> None:
    options: dict[str, Any] = {"num_inference_steps": 2}
    [loaded] = generate(set_folder, PROMPT, base_model=tiny_folder, device="cpu", dtype="float32", **options)
    [given] = generate(set_folder, PROMPT, base_model=tiny_backbone, **options)
    assert np.array_equal(loaded.pixels, given.pixels)


def test_out_receives_what_is_returned_and_a_sheet(
    tiny_backbone: Backbone, set_folder: Path, tmp_path: Path
) -> None:
    prompts = ["<cat> at night", "<car>"]
    images = generate(
        set_folder, prompts, num=2, base_model=tiny_backbone, num_inference_steps=2, out=tmp_path / "out"
    )
    assert [(image.prompt, image.index) for image in images] == [
        (prompt, i) for prompt in prompts for i in (0, 1)
    ]
    assert (tmp_path / "out" / SHEET).is_file()
    with Image.open(tmp_path / "out" / "car-s0-001.png") as last:
        assert np.array_equal(np.asarray(last), images[3].pixels)


def test_images_go_to_the_home_folder(
    tiny_backbone: Backbone, set_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    generate(set_folder, "<car>", base_model=tiny_backbone, num_inference_steps=2, out="~/out")
    assert (tmp_path / "out" / SHEET).is_file()


def test_nothing_is_written_unless_asked(
    tiny_backbone: Backbone, set_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    generate(set_folder, PROMPT, base_model=tiny_backbone, num_inference_steps=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"prompts": "a cat"}, PromptError),
        ({"prompts": "<dog>"}, PromptError),
        ({"num": 0}, ConfigError),
        ({"seed": -1}, ConfigError),
        ({"guidance_scale": 0.0}, ConfigError),
        ({"batch_size": 0}, ConfigError),
        ({"concept_set": "no-such-set"}, ConceptSetError),
        ({"out": __file__}, RunError),
        ({"base_model": "builtin"}, ConceptSetError),
        ({}, BaseModelError),
    ],
)
def test_mistakes_are_found_before_the_base_model_is_loaded(
    set_folder: Path, options: dict[str, Any], error: type[ConceptloomError]
) -> None:
    request = {"concept_set": set_folder, "prompts": PROMPT, "base_model": "./no-such-model", **options}
    with pytest.raises(error):
        prepare_job(**request)


def test_tokens_that_do_not_fit_are_counted(tiny_backbone: Backbone, set_folder: Path) -> None:
    fits, long = "a <cat>", "a <car>" + " a" * 40
    job = prepare_job(set_folder, [fits, long], base_model=tiny_backbone)
    assert job.dropped_tokens() == {long: 42 - (tiny_backbone.max_tokens - 2)}


def test_tokens_of_the_negative_prompt_that_do_not_fit_are_counted(
    tiny_backbone: Backbone, set_folder: Path
) -> None:
    long = "a" + " a" * 40
    job = prepare_job(set_folder, "a <cat>", base_model=tiny_backbone, negative_prompt=long)
    assert job.dropped_tokens() == {long: 41 - (tiny_backbone.max_tokens - 2)}


def test_a_request_that_is_refused_leaves_no_folder(set_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError):
        prepare_job(set_folder, PROMPT, base_model="./no-such-model", out=tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []
