"""`conceptloom generate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from conceptloom.backbone import Backbone
from conceptloom.cli import FAILED, build_app
from conceptloom.generation import SHEET
from tiny_sets import PROMPT, tiny_set


@pytest.fixture(scope="module")
def set_folder(tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "my-set"
    tiny_set(tiny_backbone, "lora").save(folder)
    return folder


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def generate(set_folder: Path, tiny_folder: Path, *arguments: str) -> Result:
    fixed = ["--base-model", str(tiny_folder), "--device", "cpu", "--dtype", "float32", "--steps", "2"]
    return CliRunner().invoke(build_app(), ["generate", str(set_folder), *fixed, *arguments])


def told_by(path: Path) -> dict[str, object]:
    with Image.open(path) as image:
        told: dict[str, object] = json.loads(image.text["conceptloom"])
    return told


def test_images_and_sheet_are_written_and_their_paths_are_all_that_stdout_holds(
    set_folder: Path, tiny_folder: Path
) -> None:
    result = generate(
        set_folder, tiny_folder, PROMPT, "<cat>", "--num", "2", "--seed", "5", "--out", "pictures"
    )
    assert result.exit_code == 0, result.stderr
    stems = ("a-cat-next-to-a-car-on-beach-s5", "cat-s5")
    names = [f"{stem}-{index:03d}.png" for stem in stems for index in (0, 1)]
    assert result.stdout.splitlines() == [str(Path("pictures") / name) for name in [*names, SHEET]]
    assert sorted(path.name for path in Path("pictures").iterdir()) == sorted([*names, SHEET])


def test_options_reach_the_images(set_folder: Path, tiny_folder: Path) -> None:
    options = ["--guidance-scale", "2.5", "--negative-prompt", "snow", "--batch-size", "1", "--seed", "9"]
    result = generate(set_folder, tiny_folder, "<car>", *options)
    told = told_by(Path(result.stdout.splitlines()[0]))
    assert (told["guidance_scale"], told["negative_prompt"], told["seed"]) == (2.5, "snow", 9)
    assert told["num_inference_steps"] == 2


def test_no_provenance_leaves_no_text_in_any_file(set_folder: Path, tiny_folder: Path) -> None:
    result = generate(set_folder, tiny_folder, "<car>", "--no-provenance")
    for line in result.stdout.splitlines():
        with Image.open(line) as image:
            assert image.text == {}


def test_without_out_every_run_gets_a_folder_of_its_own(set_folder: Path, tiny_folder: Path) -> None:
    runs = [generate(set_folder, tiny_folder, "<car>").stdout for _ in range(3)]
    assert [Path(run.splitlines()[0]).parent.name for run in runs] == [
        "generated",
        "generated-2",
        "generated-3",
    ]


def test_a_tilde_that_the_shell_left_is_the_home_folder(
    set_folder: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    told = generate(set_folder, tiny_folder, "<car>", "--out=~/pictures").stdout.splitlines()
    assert told == [str(tmp_path / "home" / "pictures" / name) for name in ("car-s0-000.png", SHEET)]


def test_a_folder_with_earlier_images_is_refused_and_left_alone(set_folder: Path, tiny_folder: Path) -> None:
    first = generate(set_folder, tiny_folder, "<car>", "--out", "pictures")
    before = {path: path.read_bytes() for path in Path("pictures").iterdir()}
    second = generate(set_folder, tiny_folder, "<car>", "--out", "pictures")
    assert (first.exit_code, second.exit_code, second.stdout) == (0, FAILED, "")
    assert "choose another folder" in second.stderr
    assert {path: path.read_bytes() for path in Path("pictures").iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a cat"], "at least one of <cat>, <car>, <beach>"),
        (["a <dog>"], "<dog>, which is not in the concept set: it knows <cat>, <car>, <beach>"),
        (["word " * 40 + "<car>"], "<car> stands beyond"),
        (["<car>", "--num", "0"], "number of images is 0"),
        (["<car>", "--steps", "0"], "number of steps is 0"),
        (["<car>", "--device", "abacus"], "unknown device 'abacus'"),
        (["<car>", "--base-model", "./nowhere"], "there is no folder"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    set_folder: Path, tiny_folder: Path, arguments: list[str], message: str
) -> None:
    result = generate(set_folder, tiny_folder, *arguments)
    assert (result.exit_code, result.stdout) == (FAILED, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(Path().rglob("*.png")) == []


def test_another_base_model_is_refused_in_one_line(set_folder: Path, tiny_v_folder: Path) -> None:
    result = generate(set_folder, tiny_v_folder, PROMPT)
    assert result.exit_code == FAILED
    assert "the set was learned on" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_that_is_no_set_is_refused_in_one_line(tiny_folder: Path) -> None:
    result = generate(Path("no-such-set"), tiny_folder, PROMPT)
    assert (result.exit_code, result.stdout) == (FAILED, "")
    assert "give the folder of a learned concept set" in result.stderr


def test_words_that_do_not_fit_are_reported(set_folder: Path, tiny_folder: Path) -> None:
    result = generate(set_folder, tiny_folder, "a <car>" + " a" * 40)
    assert result.exit_code == 0
    assert "the last 12 tokens do not fit and are not read" in result.stderr
