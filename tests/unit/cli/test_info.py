"""`conceptloom info`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from conceptloom.backbone import Backbone
from conceptloom.cli import FAILED, build_app
from conceptloom.cli.info import (
    describe,
    drift_of,
    final_losses,
    half_blocks,
    show,
    shows_pictures,
    size_on_disk,
)
from conceptloom.concepts import ConceptSet
from tiny_sets import tiny_set

METRICS = [
    {"stage": "masks", "step": 1, "picture": "garden", "area": {"cat": 0.25}, "seconds": 0.5},
    *(
        {"stage": "em", "step": step, "loss": 1.0, "mask": float(step), "seconds": 0.5}
        for step in range(1, 41)
    ),
    {"stage": "joint", "step": 1, "loss": 0.5, "mask": 0.25, "prior": 0.125, "seconds": 0.5},
]


@pytest.fixture(scope="module")
def set_folder(tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "my-set"
    lines = "".join(json.dumps(row) + "\n" for row in METRICS)
    extras = {"metrics.jsonl": lines.encode(), "index.html": b"<!doctype html>"}
    tiny_set(tiny_backbone, "lora").save(folder, extras)
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), ["info", *arguments])


def shown(concept_set: ConceptSet, folder: Path, **options: Any) -> str:
    stream = io.StringIO()
    console = Console(file=stream, highlight=False, markup=False, emoji=False, width=100, **options)
    show(console, concept_set, describe(concept_set, folder))
    return stream.getvalue()


def test_json_holds_everything_about_the_set(set_folder: Path, tiny_backbone: Backbone) -> None:
    told = json.loads(run(str(set_folder), "--json").stdout)
    cat, car, beach = told["concepts"]
    assert (cat["placeholder_token"], cat["initializer"], cat["num_vectors"]) == ("<cat>", "cat", 2)
    assert (beach["kind"], beach["initializer"]) == ("background", None)
    assert list(car["pictures"]) == ["garden", "street"]
    assert car["pictures"]["street"] == 1.0
    assert told["base_model"]["fingerprint"] == tiny_backbone.fingerprint
    assert (told["method"], told["weights"], told["format_version"]) == (
        "paper",
        {"kind": "lora", "rank": 2},
        1,
    )
    assert told["drift"] == {"before": 0.5, "after": 0.625}
    assert told["rescues"] == {"garden": {"cat": 3}}
    assert told["size_bytes"] == sum(path.stat().st_size for path in set_folder.rglob("*") if path.is_file())
    assert [Path(told[key]) for key in ("masks", "thumbnails", "page")] == [
        set_folder / name for name in ("masks", "thumbnails", "index.html")
    ]


def test_final_losses_are_means_over_the_last_twenty_steps_of_a_stage(set_folder: Path) -> None:
    told = json.loads(run(str(set_folder), "--json").stdout)
    assert told["final_losses"] == {
        "em": {"loss": 1.0, "mask": 30.5},
        "joint": {"loss": 0.5, "mask": 0.25, "prior": 0.125},
    }


def test_people_read_words_pictures_model_and_paths(set_folder: Path) -> None:
    text = run(str(set_folder)).stdout
    for expected in (
        "<cat>",
        "subject, from the word 'cat', 2 vectors",
        "background, no initializer word, 1 vector",
        "street (100% of it)",
        "method paper, tokens and weights (lora)",
        "loss on other nouns 0.5000 before, 0.6250 after",
        "mask 30.5000",
        str(set_folder / "index.html"),
    ):
        assert expected in text


def test_output_that_is_no_terminal_holds_no_colour_codes(set_folder: Path) -> None:
    text = run(str(set_folder)).stdout
    assert "\x1b" not in text
    assert "▀" not in text


def test_a_terminal_with_24_bit_colour_shows_a_thumbnail_16_characters_wide(
    set_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Console, "encoding", "utf-8")
    text = shown(ConceptSet.load(set_folder), set_folder, force_terminal=True, color_system="truecolor")
    assert [line.count("▀") for line in text.splitlines() if "▀" in line] == [16] * 8  # only the cat has one


@pytest.mark.parametrize(
    ("options", "encoding"),
    [
        ({"force_terminal": False, "color_system": "truecolor"}, "utf-8"),
        ({"force_terminal": True, "color_system": "256"}, "utf-8"),
        ({"force_terminal": True, "color_system": "truecolor"}, "cp1252"),
    ],
)
def test_a_lesser_terminal_shows_no_thumbnails(
    options: dict[str, Any], encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Console, "encoding", encoding)
    assert not shows_pictures(Console(**options))


def test_a_half_block_shows_one_pixel_above_another() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[2, 1], pixels[3, 1] = (1, 2, 3), (4, 5, 6)
    picture = half_blocks(pixels, 4)
    assert picture.plain == "▀▀▀▀\n▀▀▀▀"
    assert str(picture.spans[5].style) == "rgb(1,2,3) on rgb(4,5,6)"


def test_names_in_a_set_cannot_write_control_codes_or_markup(tiny_backbone: Backbone, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    tiny_set(tiny_backbone).save(folder)
    description = json.loads((folder / "concept_set.json").read_text())
    description["concepts"][0]["initializer"] = "\x1b]0;title\x07[bold]\n"
    description["base"]["name"] = "\x9b31m"
    (folder / "concept_set.json").write_text(json.dumps(description))
    for output in (run(str(folder)).stdout, run(str(folder), "--json").stdout):
        assert not any(character in output for character in "\x1b\x07\x9b")
    assert "[bold]" in run(str(folder)).stdout


def test_a_bare_set_is_described_without_what_it_lacks(tiny_backbone: Backbone, tmp_path: Path) -> None:
    full = tiny_set(tiny_backbone)
    bare = ConceptSet(full.concepts, full.embeddings, full.base)
    bare.save(tmp_path / "set")
    told = json.loads(run(str(tmp_path / "set"), "--json").stdout)
    assert [told[key] for key in ("method", "weights", "drift", "masks", "thumbnails", "page")] == [None] * 6
    assert (told["final_losses"], told["rescues"]) == ({}, {})
    text = run(str(tmp_path / "set")).stdout
    assert "in no picture" in text
    assert "tokens only" in text


def test_rows_without_a_stage_or_loss_are_no_steps() -> None:
    assert final_losses([{"stage": "em", "drift": {}}, {"loss": 1.0}, {"stage": 3, "loss": 1.0}]) == {}


@pytest.mark.parametrize("drift", [None, {}, {"before": "low", "after": 0.5}, [0.5, 0.5]])
def test_a_drift_of_an_unknown_form_is_left_out(drift: object) -> None:
    assert drift_of({"drift": drift}) is None


def test_the_size_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(10_000))
    (tmp_path / "set" / "inner").mkdir(parents=True)
    (tmp_path / "set" / "inner" / "a").write_bytes(bytes(100))
    (tmp_path / "set" / "link").symlink_to(tmp_path / "big")
    assert 100 < size_on_disk(tmp_path / "set") < 1000


def test_a_folder_that_is_no_set_is_one_line(tmp_path: Path) -> None:
    result = run(str(tmp_path))
    assert (result.exit_code, result.stdout) == (FAILED, "")
    assert "give the folder of a learned concept set" in result.stderr
