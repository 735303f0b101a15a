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
from conceptloom.learning import run_folder
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


def test_a_demo_stopped_before_its_first_checkpoint_begins_again(
    invoke: Callable[..., Result], tmp_path: Path
) -> None:
    assert invoke(tmp_path).stderr == invoke(tmp_path).stderr == "error: begins\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mesa.png", "street.png"]


def test_a_demo_stopped_later_goes_on(invoke: Callable[..., Result], tmp_path: Path) -> None:
    checkpoint = Checkpoint(1, {"rows": torch.zeros(1)}, {}, {})
    save_checkpoint(run_folder(tmp_path / "set") / CHECKPOINTS, checkpoint)
    assert invoke(tmp_path).stderr == "error: goes on\n"
