"""`conceptloom demo`: where it writes, and when it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from conceptloom.cli import build_app
from conceptloom.errors import ConceptloomError
from conceptloom.generation import SHEET
from conceptloom.learning import resolve_config, run_folder
from conceptloom.learning.checkpoint import Checkpoint, save_checkpoint
from conceptloom.learning.trainer import CHECKPOINTS


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the verb up to the point where it would load the base model; its error tells whether a run goes on."""

    def prepare_job(*_: Any, resume: bool, **__: Any) -> None:
        raise ConceptloomError("goes on" if resume else "begins")

    monkeypatch.setattr("conceptloom.learning.prepare_job", prepare_job)
    return lambda out: CliRunner().invoke(build_app(), ["demo", "--out", str(out)])


@pytest.mark.parametrize("out", ["file", "file/demo"])
def test_a_file_in_the_way_is_refused_in_one_line(
    out: str, invoke: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    result = invoke(tmp_path / out)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "folder" in result.stderr


@pytest.mark.parametrize("name", ["set", "images", "notes.txt"])
def test_a_folder_that_holds_anything_else_is_refused_and_left_alone(
    name: str, invoke: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    result = invoke(tmp_path)
    assert f"holds '{name}' already" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("out", ["new", "new/deep"])
def test_a_folder_that_is_not_there_yet_is_made(
    out: str, invoke: Callable[..., Result], tmp_path: Path
) -> None:
    assert invoke(tmp_path / out).stderr == "error: begins\n"
    assert sorted(path.name for path in (tmp_path / out).iterdir()) == ["mesa.png", "street.png"]


def test_a_tilde_that_the_shell_left_is_the_home_folder(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    invoke("~/new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["mesa.png", "street.png"]


def test_a_demo_stopped_before_its_first_checkpoint_begins_again(
    invoke: Callable[..., Result], tmp_path: Path
) -> None:
    assert invoke(tmp_path).stderr == invoke(tmp_path).stderr == "error: begins\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mesa.png", "street.png"]


def test_a_demo_stopped_later_goes_on(invoke: Callable[..., Result], tmp_path: Path) -> None:
    checkpoint = Checkpoint(1, {"rows": torch.zeros(1)}, {}, {})
    save_checkpoint(run_folder(tmp_path / "set") / CHECKPOINTS, checkpoint)
    assert invoke(tmp_path).stderr == "error: goes on\n"


def test_a_short_demo_in_the_folder_it_chooses_goes_the_whole_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(tmp_path / "cache"))
    short = {"em_steps": 2, "mask_update_every": 1, "initial_timesteps": 2}
    short |= {"joint_steps": 1, "prior_images": 1, "batch_size": 1, "sample_steps": 2, "preview_every": 0}
    monkeypatch.setattr(
        "conceptloom.learning.api.resolve_config",
        lambda family, overrides: resolve_config(family, {**short, **overrides}),
    )
    monkeypatch.setattr("conceptloom.cli.demo.PROMPTS", ("a <frog> on <mesa>",))
    result = CliRunner().invoke(build_app(), ["demo"])
    assert result.exit_code == 0, result.stderr
    told = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  demo")]
    assert told == ["demo/street.png", "demo/mesa.png", "demo/set/index.html", f"demo/images/{SHEET}"]
    assert all(Path(path).is_file() for path in told)
