"""`conceptloom discover`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from conceptloom.cli import discover as verb
from conceptloom.errors import RunError
from conceptloom.learning import Proposal, Segment
from conceptloom.pictures import load_picture, write_png


@pytest.fixture(autouse=True)
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_png(Path("yard.png"), np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))


def _discover(*arguments: str) -> str:
    app = typer.Typer(pretty_exceptions_enable=False)
    verb.register(app)
    result = CliRunner().invoke(app, ["yard.png", "--out", "found", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_masks_overlay_and_coco_file_are_written_and_the_command_that_learns_them_is_told(
    tiny_folder: Path,
) -> None:
    told = _discover(
        "--base-model",
        str(tiny_folder),
        "--device",
        "cpu",
        "--most",
        "1",
        "--word",
        "cat",
        "--place",
        "beach",
    )
    assert [line.split()[:2] for line in told.splitlines()[:2]] == [
        ["subject", "<cat>"],
        ["background", "<beach>"],
    ]
    assert told.splitlines()[-1] == (
        "conceptloom learn yard.png --concept cat=cat --concept beach=beach --kind beach=background"
        f" --base-model {tiny_folder} --device cpu --out my-set"
    )
    assert load_picture("found/masks/yard/cat.png").pixels.shape == (40, 60, 3)
    assert load_picture("found/overlays/yard.png").pixels.std() > 0
    scores = [entry["score"] for entry in json.loads(Path("found/masks.json").read_text())["annotations"]]
    assert len(scores) == 2


def test_a_folder_in_the_way_is_refused_before_a_base_model_is_loaded() -> None:
    Path("found").mkdir()
    Path("found/mine").touch()
    with pytest.raises(RunError, match="found is there already"):
        _discover("--base-model", "no-such-folder")


def test_the_command_that_learns_survives_a_shell() -> None:
    mask = np.ones((2, 2), dtype=np.bool_)
    wall = Proposal("brick-wall", "brick wall", "background", Segment("my yard", "brick-wall", mask, 0.5))
    words = shlex.split(
        verb.learn_command(Path("my yard; rm.png"), [wall], ["brick wall"], ["--out", "my set"])
    )
    assert words == [
        *("conceptloom", "learn", "my yard; rm.png", "--concept", "brick-wall=brick wall"),
        *("--kind", "brick-wall=background", "--out", "my set"),
    ]


def test_a_thing_whose_word_is_a_backgrounds_too_is_learned_as_a_thing() -> None:
    mask = np.ones((2, 2), dtype=np.bool_)
    works = Proposal("factory", "Factory", "subject", Segment("yard", "factory", mask, 0.5))
    command = verb.learn_command(Path("yard.png"), [works], ["factory"], [])
    assert command == "conceptloom learn yard.png --concept factory=Factory --kind factory=subject"


def test_a_set_that_is_there_is_not_what_the_command_learns_further(tiny_folder: Path) -> None:
    Path("my-set").mkdir()
    Path("my-set/mine").touch()
    fixed = ("--base-model", str(tiny_folder), "--device", "cpu", "--most", "1")
    told = _discover(*fixed, "--word", "cat", "--place", "beach")
    assert told.splitlines()[-1].endswith(" --out my-set-2")
