"""`conceptloom evaluate` on a folder of the user's own pictures and a tiny random base model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from conceptloom.cli import build_app
from conceptloom.cli.evaluate import TEST_LOG, command_line
from conceptloom.errors import ConfigError, DataError, RunError
from conceptloom.evaluation.api import EvaluationJob, JudgeChoice, prepare_evaluation
from conceptloom.evaluation.plan import Task
from conceptloom.evaluation.report import load_report, save_report
from conceptloom.evaluation.runner import BaseModel
from conceptloom.evaluation.study_key import read_key
from conceptloom.evaluation.study_leaks import leaks
from conceptloom.evaluation.units import MaskRecord, UnitResult, save_unit
from conceptloom.pictures import square_frame_mask, write_png
from tiny_sets import tiny_benchmark_set

METHODS = ("fixed", "paper", "words")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets in the folder layout, each of one picture with a true mask."""
    folder = tmp_path_factory.mktemp("mine")
    picture = tiny_benchmark_set().pictures[0]
    for name in ("garden", "yard"):
        (folder / name / "masks" / "first").mkdir(parents=True)
        write_png(folder / name / "first.png", picture.pixels, None)
        write_png(
            folder / name / "masks" / "first" / "pet.png", picture.masks["pet"].astype(np.uint8) * 255, None
        )
        told = {
            "concepts": {"pet": {"word": "cat"}, "place": {"word": "beach", "kind": "background"}},
            "prompts": [
                {"text": "a <pet> on the <place>", "kind": "context", "place": "place"},
                {"text": "a <pet> on the beach", "kind": "interaction", "place": "beach"},
            ],
        }
        (folder / name / "set.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


@pytest.fixture
def job(pictures: Path, tiny_folder: Path, tmp_path: Path) -> Callable[..., EvaluationJob]:
    def prepare(out: str = "out", **given: Any) -> EvaluationJob:
        base = BaseModel(str(tiny_folder), "cpu", "float32")
        settings = {"methods": METHODS, "data": pictures, "base": base, **given}
        return prepare_evaluation("folder", "dev", tmp_path / out, **settings)

    return prepare


def finish(job: EvaluationJob) -> None:
    """Fill every unit with plain images and the true masks, in no time."""
    sets = {one.name: one for one in job.benchmark.sets}
    for task in job.tasks:
        save_unit(made_up(task, sets[task.key.set], job.backbone.size), job.units)


def made_up(task: Task, one: Any, side: int) -> UnitResult:
    images = {
        (prompt, index): np.full((side, side, 3), (20 * prompt, 20 * index, 9), np.uint8)
        for prompt, num in task.draws.items()
        for index in range(num)
    }
    picture = one.pictures[0]
    names = one.contains[picture.name]
    masks = np.stack([square_frame_mask(picture.masks[name], side) for name in names])
    maps = np.full((len(names), 4, 4), 255, np.uint8)
    records = tuple(MaskRecord(step, picture.name, names, masks, maps, (), ()) for step in (0, 20))
    found = () if task.key.method == "words" else records
    return UnitResult(task.key, found, images, {"learn": 2.0, "draw": 1.0}, None, {"tau": 0.4})


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), ["evaluate", *arguments])


@pytest.fixture
def invoke(pictures: Path, tiny_folder: Path) -> Callable[..., Result]:
    base = ("--benchmark", "folder", "--data", str(pictures), "--base-model", str(tiny_folder))
    return lambda *arguments: run(*base, "--device", "cpu", "--dtype", "float32", *arguments)


def test_finished_units_become_report_figures_and_page(
    job: Callable[..., EvaluationJob], invoke: Callable[..., Result], tmp_path: Path
) -> None:
    finish(job())
    result = invoke("--methods", ",".join(METHODS), "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "all" in result.output
    report = load_report(tmp_path / "out" / "report.json")
    assert report.kind == "evidence"
    masks = next(table for table in report.tables if table.key == "masks")
    values = {row.label: row.cells[0] for row in masks.rows}
    assert values["subjects: paper"].value == 1.0  # type: ignore[union-attr]
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8").count("<table") >= 4
    assert (tmp_path / "out" / "figures" / "figure-3.png").is_file()


def test_figures_and_page_are_redrawn_from_the_report_alone(
    job: Callable[..., EvaluationJob], tmp_path: Path
) -> None:
    some = job()
    finish(some)
    save_report(some.report({}), tmp_path / "alone" / "report.json")
    result = run("--redraw", "--out", str(tmp_path / "alone"))
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "alone").iterdir()) == [
        "figures",
        "report.html",
        "report.json",
    ]


def test_the_hours_are_told_before_anything_runs(
    job: Callable[..., EvaluationJob],
    invoke: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job()

    def refuse(*_: Any) -> Any:
        raise RunError("stopped before the first run")

    monkeypatch.setattr("conceptloom.evaluation.api.run_tasks", refuse)
    result = invoke("--methods", "words", "--out", str(tmp_path / "out"))
    assert "runs to do, 0 done: about" in result.output
    assert "stopped before the first run" in result.stderr


def test_a_smoke_run_does_everything_and_is_marked(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "smoke"
    result = invoke("--methods", "words", "--quick", "--workers", "1", "--out", str(out))
    assert result.exit_code == 0, result.output
    report = load_report(out / "report.json")
    assert report.kind == "smoke"
    assert "smoke" in (out / "report.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in (out / "units").glob("[!.]*")) == [
        "garden-words-quick-s0",
        "yard-words-quick-s0",
    ]


def test_nothing_finished_cannot_be_reported(
    job: Callable[..., EvaluationJob], invoke: Callable[..., Result], tmp_path: Path
) -> None:
    job()
    result = invoke("--methods", "fixed", "--report-only", "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "nothing is finished" in result.stderr


def test_a_report_on_what_is_finished_leaves_the_rest_out(
    job: Callable[..., EvaluationJob], invoke: Callable[..., Result], tmp_path: Path
) -> None:
    some = job()
    save_unit(made_up(some.tasks[0], some.benchmark.sets[0], some.backbone.size), some.units)
    result = invoke("--methods", ",".join(METHODS), "--report-only", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert load_report(tmp_path / "out" / "report.json").facts["Work"].startswith("1 units")


def test_a_folder_of_another_evaluation_is_refused_with_the_difference(
    job: Callable[..., EvaluationJob],
) -> None:
    job()
    with pytest.raises(RunError, match="another smoke"):
        job(quick=True)


def test_a_folder_of_other_files_is_refused(job: Callable[..., EvaluationJob], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "holiday.png").touch()
    with pytest.raises(RunError, match="holds no evaluation"):
        job()


def test_sets_of_the_same_things_are_refused_before_a_judge_would_need_others(
    job: Callable[..., EvaluationJob], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="shares a subject with every other"):
        job(judge=JudgeChoice("examiner"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"methods": ("papre",)}, "no method 'papre'"),
        ({"methods": ()}, "no method to evaluate"),
        ({"data": None}, "needs the folder"),
        ({"parts": True}, "table of parts"),
        ({"study": "random", "methods": ("paper",)}, "a study compares"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    job: Callable[..., EvaluationJob], given: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        job(**given)
    assert not (tmp_path / "out").exists()


def test_a_study_leaks_nothing_of_methods_and_sets(job: Callable[..., EvaluationJob]) -> None:
    asked = job(study="random")
    finish(asked)
    folder, key = asked.export_study("random")
    assert leaks(folder, ["paper", "fixed", "garden", "yard", "pet"]) == []
    assert read_key(key).methods == {"ours": "paper", "baseline": "fixed"}


def test_a_use_of_the_test_split_is_written_down_where_it_ran(
    job: Callable[..., EvaluationJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conceptloom.cli.evaluate import write_down

    monkeypatch.chdir(tmp_path)
    some = job()
    assert write_down(some) == some.out / TEST_LOG.name
    (tmp_path / "docs").mkdir()
    write_down(some)
    assert write_down(some) == TEST_LOG
    lines = (tmp_path / TEST_LOG).read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if "fixed, paper, words" in line]) == 2


def test_a_command_is_told_without_the_machines_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["/opt/bin/conceptloom", "evaluate", "--out", "/home/someone/runs/dev", "--split", "test"]
    monkeypatch.setattr("sys.argv", typed)
    assert command_line() == "conceptloom evaluate --out dev --split test"
    monkeypatch.setattr("sys.argv", ["conceptloom", "evaluate", "--out=/home/someone/runs/dev"])
    assert command_line() == "conceptloom evaluate --out=dev"


def test_a_judge_that_cannot_be_loaded_is_refused_before_the_hours(
    job: Callable[..., EvaluationJob], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="name the local folder"):
        job(judge=JudgeChoice("clip"))
    assert not (tmp_path / "out").exists()


def test_a_judges_folder_without_its_name_is_refused(invoke: Callable[..., Result], tmp_path: Path) -> None:
    result = invoke("--judge-folder", str(tmp_path), "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "say which with --judge" in result.stderr
