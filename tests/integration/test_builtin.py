"""The built-in model as it ships."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from builtin_pictures import GOLDEN, draw, golden_sheet
from conceptloom.backbone import Backbone, load_backbone, tokenize, unknown_words
from conceptloom.basemodel.build import shipped_folder
from conceptloom.basemodel.denoiser import shifted_betas
from conceptloom.cli.notes import tell_unknown_words
from conceptloom.pictures import load_picture
from conceptloom.scenes.backgrounds import load_photos, photo_crop
from conceptloom.scenes.composer import SceneRules, compose
from conceptloom.scenes.sprites import load_sprites, nouns


@pytest.fixture(scope="module")
def builtin() -> Backbone:
    return load_backbone("builtin", device="cpu")


def test_the_files_stay_under_forty_megabytes() -> None:
    total = sum(path.stat().st_size for path in shipped_folder().rglob("*") if path.is_file())
    assert total <= 40_000_000


def test_it_carries_its_version_and_knows_its_backgrounds(builtin: Backbone) -> None:
    assert builtin.version == "builtin-3"
    assert {"beach", "grass", "city"} <= set(builtin.backgrounds)


def test_no_file_tells_where_it_was_made() -> None:
    texts = [path.read_text(encoding="utf-8") for path in shipped_folder().rglob("*config.json")]
    assert len(texts) >= 4
    assert not any("_name_or_path" in text for text in texts)


def test_every_train_noun_is_one_token(builtin: Backbone) -> None:
    names = nouns(load_sprites("train"))
    assert [name for name in names if tokenize(builtin, name, {}).end != 2] == []


def test_its_schedule_is_the_shifted_one(builtin: Backbone) -> None:
    expected = torch.cumprod(1 - torch.tensor(shifted_betas(2.8), dtype=torch.float64), 0)
    assert torch.allclose(builtin.noise_scheduler.alphas_cumprod.double(), expected, atol=1e-5)


def test_latents_of_unseen_pictures_have_about_unit_spread(builtin: Backbone) -> None:
    rng = np.random.default_rng(0)
    sprites, photos = load_sprites("dev"), load_photos("dev")
    pixels = []
    for index in range(24):
        background = photo_crop(photos[index % len(photos)], rng, builtin.size)
        rules = SceneRules(side_px=builtin.size)
        pixels.append(compose(sprites[index : index + 2], "photo", background, rng, rules).pixels)
    spread = builtin.encode_moments(np.stack(pixels)).mean.std()
    assert float(spread) == pytest.approx(1.0, abs=0.35)


def test_a_picture_through_the_autoencoder_keeps_at_least_22_db(builtin: Backbone) -> None:
    rng = np.random.default_rng(1)
    background = photo_crop(load_photos("dev")[0], rng, builtin.size)
    pixels = compose(
        load_sprites("dev")[:2], "photo", background, rng, SceneRules(side_px=builtin.size)
    ).pixels
    back = builtin.decode(builtin.encode_moments(pixels[None]).mean)[0]
    error = np.mean((back.astype(float) - pixels.astype(float)) ** 2)
    assert 10 * np.log10(255**2 / error) >= 22


def test_a_red_background_is_red_and_a_green_one_green(builtin: Backbone) -> None:
    red, green = (draw(builtin, f"a {colour} background").mean((0, 1)) for colour in ("red", "green"))
    assert red.argmax() == 0
    assert green.argmax() == 1


def test_it_draws_what_it_drew_when_it_shipped(builtin: Backbone) -> None:
    apart = np.abs(golden_sheet(builtin).astype(float) - load_picture(GOLDEN).pixels)
    assert apart.mean() < 1  # of 255: another processor rounds otherwise


def test_it_says_how_many_pictures_it_has_seen() -> None:
    meta = json.loads((shipped_folder() / "conceptloom.json").read_text(encoding="utf-8"))
    assert meta["samples_seen"] >= 178_112


def test_words_that_the_built_in_model_was_not_taught_are_named(builtin: Backbone) -> None:
    prompt = "A photo of <fido> chasing a dog and a dog, a terrier's house (on grass)"
    assert unknown_words(builtin, prompt) == ("chasing", "terrier")


def test_the_model_card_lists_every_word_that_the_built_in_model_was_taught(builtin: Backbone) -> None:
    card = (Path(__file__).parents[2] / "docs" / "builtin-model.md").read_text(encoding="utf-8")
    known = {line.split(":")[0]: line for line in card.splitlines() if line.startswith("- **")}
    listed = {
        kind: line.split(": ", 1)[1].rstrip(".").split(", ") for kind, line in known.items() if ": " in line
    }
    assert listed["- **Things**"] == list(builtin.nouns)
    assert listed["- **Places**"] == list(builtin.backgrounds)
    classes = sorted({sprite.class_word for sprite in load_sprites("train")})
    assert listed["- **Class words**"] == classes


def test_the_command_line_names_unknown_words_once(
    builtin: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_unknown_words(builtin, ["a terrier", "<cat> chasing a terrier", "a dog"], err=True)
    assert capsys.readouterr().err.startswith("note: 'terrier', 'chasing': not taught to the built-in model")
    tell_unknown_words(builtin, ["a dog on grass"], err=True)
    assert capsys.readouterr().err == ""
