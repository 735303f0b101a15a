"""`conceptloom evaluate` on a folder of the user's own pictures and a tiny random base model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from conceptloom.cli import build_app
from conceptloom.cli.evaluate import command_line, time_lines
from conceptloom.cli.learn import duration
from conceptloom.errors import ConfigError, DataError, RunError
from conceptloom.evaluation import api, calibration, image_findings, study_bundle
from conceptloom.evaluation.api import (
    DEFAULT_METHODS,
    FORCED_CHOICE,
    EvaluationJob,
    JudgeChoice,
    prepare_evaluation,
)
from conceptloom.evaluation.margins import Margin, save_margin
from conceptloom.evaluation.plan import FULL, SMOKE, STUDIES, Size, Task
from conceptloom.evaluation.report import Report, load_report, save_report
from conceptloom.evaluation.runner import BaseModel
from conceptloom.evaluation.study_key import read_key
from conceptloom.evaluation.study_leaks import leaks
from conceptloom.evaluation.units import MaskRecord, UnitResult, save_unit
from conceptloom.learning import resolve_config
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


def test_a_report_in_the_home_folder_is_redrawn_there(
    job: Callable[..., EvaluationJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    some = job()
    finish(some)
    save_report(some.report({}), tmp_path / "alone" / "report.json")
    result = run("--redraw", "--out=~/alone")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "alone" / "report.html").is_file()


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


def test_hours_of_the_table_of_parts_are_told_apart_from_those_of_all_runs(
    job: Callable[..., EvaluationJob],
) -> None:
    plain = job(masks_only=True)
    papers = next(task for task in plain.comparison if task.key.method == "paper")
    own = [replace(papers, key=replace(papers.key, variant=name)) for name in ("no-crf", "no-eq4")]
    asked = replace(plain, parts=(papers, *own))
    finished, *_ = own
    save_unit(made_up(finished, asked.benchmark.sets[0], asked.backbone.size), asked.units)
    count = len(plain.tasks)
    hours = {task.key: 3600.0 for task in asked.tasks}
    whole, parts, _ = time_lines(asked, hours, 2)
    assert whole.startswith(f"{count + 1} runs to do, 1 done: about")
    assert whole.endswith(f"({duration(3600 * (count + 1))} of work)")
    assert parts == f"the table of parts takes {duration(3600)} of that work, in 1 runs of its own"
    assert "parts" not in " ".join(time_lines(plain, hours, 2))


@pytest.mark.parametrize(
    ("judge", "told"),
    [
        (None, "making the report comes on top"),
        (JudgeChoice("examiner"), "judging the images and making the report come on top"),
    ],
)
def test_what_comes_on_top_of_the_hours_is_told(
    judge: JudgeChoice | None, told: str, job: Callable[..., EvaluationJob]
) -> None:
    asked = replace(job(), judge=judge)
    assert time_lines(asked, dict.fromkeys((task.key for task in asked.tasks), 1.0), 1)[-1] == told


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
    report = load_report(tmp_path / "out" / "report.json")
    assert report.facts["Work"].startswith("1 units")
    ran, count = "1 set, masks over 1 seed, images of 1 set x 2 prompts x 2", len(some.tasks)
    missing = f"{count - 1} of {count} runs are missing"
    assert report.facts["Benchmark"] == f"folder, split own: {ran}; {missing}"
    assert report.kind == "partial"
    assert "Partial, runs are missing" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_folder_of_another_evaluation_is_refused_with_the_difference(
    job: Callable[..., EvaluationJob],
) -> None:
    job()
    with pytest.raises(RunError, match="another smoke"):
        job(quick=True)


def painted(folder: Path) -> None:
    write_png(folder / "first.png", np.full((80, 100, 3), 7, np.uint8), None)


def masked(folder: Path) -> None:
    write_png(folder / "masks" / "first" / "pet.png", np.eye(80, 100, dtype=np.uint8) * 255, None)


def asked(folder: Path) -> None:
    path = folder / "set.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace("on the beach", "at the beach"), encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (painted, "other pictures of set 'yard'"),
        (masked, "other masks of set 'yard'"),
        (asked, "other concepts, captions or prompts of set 'yard'"),
    ],
)
def test_runs_are_not_mixed_with_those_of_inputs_that_were_changed(
    change: Callable[[Path], None],
    told: str,
    job: Callable[..., EvaluationJob],
    pictures: Path,
    tmp_path: Path,
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(pictures, mine)
    job(data=mine)
    job(data=mine)  # the same goes on
    change(mine / "yard")
    with pytest.raises(RunError, match=told) as caught:
        job(data=mine)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_that_does_not_say_what_it_was_made_from_is_refused(
    job: Callable[..., EvaluationJob],
) -> None:
    path = job().out / "evaluation.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    inputs = told.pop("inputs")
    path.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(RunError, match="no note of its pictures"):
        job()
    path.write_text(json.dumps({**told, "inputs": {**inputs, "park": {}}}), encoding="utf-8")
    with pytest.raises(RunError, match="more sets"):
        job()


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


def test_a_study_that_would_leak_is_not_exported(
    job: Callable[..., EvaluationJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job(study="random")
    finish(asked)
    with monkeypatch.context() as careless:
        careless.setattr(study_bundle, "_png_bytes", lambda _: b"drawn by fixed")
        with pytest.raises(RunError, match="tell whose an image is"):
            asked.export_study("random")
    assert not list(asked.out.glob("*study-random*"))
    folder, _ = asked.export_study("random")
    assert folder.is_dir()


def test_a_set_that_diverged_with_either_method_is_not_in_the_study(
    job: Callable[..., EvaluationJob],
) -> None:
    asked = job(study="random")
    finish(asked)
    task = next(task for task in asked.tasks if task.key.method == "paper" and task.key.set == "yard")
    done = made_up(task, asked.benchmark.sets[1], asked.backbone.size)
    save_unit(replace(done, masks=(), images={}, diverged="not finite"), asked.units)
    _, key = asked.export_study("random")
    assert "yard" not in key.read_text(encoding="utf-8")
    assert "garden" in key.read_text(encoding="utf-8")


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


@pytest.fixture
def of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let base models pass for versions of the built-in one."""
    load = BaseModel.load

    def renamed(base: BaseModel) -> Any:
        backbone = load(base)
        backbone.version = "builtin-1"
        return backbone

    monkeypatch.setattr(BaseModel, "load", renamed)


@pytest.mark.usefixtures("of_ours")
def test_without_a_named_judge_the_examiner_looks_at_drawings_alone_and_the_report_says_why(
    job: Callable[..., EvaluationJob], drawings: Callable[..., EvaluationJob]
) -> None:
    assert drawings("dev", judge=None).judge == JudgeChoice("examiner")
    photographs = job()
    assert photographs.judge is None
    report = report_on(photographs)
    assert "images" not in {table.key for table in report.tables}
    assert "the examiner knows drawings alone" in report.facts["Judge"]


def test_what_pictures_are_not_is_told_before_anything_runs(
    pictures: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise RunError("stopped before the first run")

    monkeypatch.setattr("conceptloom.evaluation.api.run_tasks", refuse)
    shutil.copytree(pictures, tmp_path / "mine")
    (tmp_path / "mine" / "yard" / "first.png").rename(tmp_path / "mine" / "yard" / "first.jpg")
    base = ("--base-model", str(tiny_folder), "--device", "cpu", "--dtype", "float32")
    given = ("--benchmark", "folder", "--data", str(tmp_path / "mine"), "--methods", "words")
    result = run(*base, *given, "--out", str(tmp_path / "out"))
    assert "stopped before the first run" in result.stderr
    assert "note: 'first' is a PNG file, though its name ends in .jpg" in result.output


def test_a_judges_folder_without_its_name_is_refused(invoke: Callable[..., Result], tmp_path: Path) -> None:
    result = invoke("--judge-folder", str(tmp_path), "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "say which with --judge" in result.stderr


# Masks alone


def test_masks_alone_draw_nothing_and_give_curves_and_tables_of_masks(
    job: Callable[..., EvaluationJob],
) -> None:
    report = report_on(job(masks_only=True))
    assert report.kind == "evidence"
    assert {curve.key for curve in report.curves} == {"figure-3", "figure-3-boundary"}
    assert {table.key for table in report.tables} >= {"masks", "cost"}
    assert not {"table-1", "metrics"} & {table.key for table in report.tables}
    assert report.facts["Judge"] == "none: nothing was drawn"
    assert "images" not in report.facts["Benchmark"]


def runs(tasks: Iterable[Task]) -> set[tuple[str, str, int]]:
    """Set, method and seed of each."""
    return {(task.key.set, task.key.method, task.key.seed) for task in tasks}


def test_a_whole_evaluation_goes_on_in_the_folder_of_masks_alone(job: Callable[..., EvaluationJob]) -> None:
    masks = job(masks_only=True)
    finish(masks)
    whole = job()
    assert runs(masks.tasks) == {
        (name, method, seed)
        for name in ("garden", "yard")
        for method in ("fixed", "paper")
        for seed in range(3)
    }
    drawing = [("fixed", 0), ("paper", 0), ("paper", 1)]
    learned_again = {(name, *run) for name in ("garden", "yard") for run in drawing}
    assert runs(whole.missing) & runs(masks.tasks) == learned_again
    assert runs(whole.tasks) - runs(whole.missing) == runs(masks.tasks) - learned_again
    told = {(unit.key.set, unit.key.method, unit.key.seed) for unit in whole.results()}
    assert told == runs(masks.tasks), "masks count before their runs draw"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"quick": True}, "neither a smoke run nor a study"),
        ({"study": "random"}, "neither a smoke run nor a study"),
        ({"judge": JudgeChoice("examiner")}, "no images for a judge"),
        ({"methods": ("gt", "words")}, "no mask is found by gt, words"),
    ],
)
def test_masks_alone_are_refused_with_what_needs_images(
    given: dict[str, Any], told: str, job: Callable[..., EvaluationJob]
) -> None:
    with pytest.raises(ConfigError, match=told):
        job(masks_only=True, **given)


def test_switches_of_a_method_that_is_not_asked_for_may_change(job: Callable[..., EvaluationJob]) -> None:
    first = job(methods=("fixed", "paper"))
    path = first.out / api.DESCRIPTION
    told = json.loads(path.read_text(encoding="utf-8"))
    told["methods"]["refined"]["tau"] = 0.123
    path.write_text(json.dumps(told), encoding="utf-8")
    job(methods=("fixed", "paper"))
    with pytest.raises(RunError, match="another methods"):
        job(methods=("fixed", "refined"))


# The neutral margin: measured on dev, used on test


@pytest.fixture
def drawings(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., EvaluationJob]:
    """An evaluation of two sets of the built-in benchmark by the examiner, calibrated on as few."""
    monkeypatch.setattr(api, "FULL", Size(sets=2, seeds=1, image_sets=2, prompts=2, images=1, shown=1))
    monkeypatch.setattr(api, "SMOKE", Size(2, 1, 2, prompts=2, images=1, shown=1, smoke=True))
    monkeypatch.setattr(calibration, "CALIBRATION_SETS", 2)
    monkeypatch.setattr(image_findings, "CALIBRATION_PROMPTS", 1)
    monkeypatch.setattr(calibration, "CALIBRATION_PROMPTS", 1)
    monkeypatch.chdir(tmp_path)  # uses of test are not this checkout's
    base = BaseModel(str(tiny_folder), "cpu", "float32")

    def prepare(split: str, out: str = "", **given: Any) -> EvaluationJob:
        settings = {"methods": ("fixed", "paper"), "base": base, "judge": JudgeChoice("examiner"), **given}
        return prepare_evaluation("builtin", split, tmp_path / (out or split), **settings)

    return prepare


def report_on(job: EvaluationJob) -> Report:
    finish(job)
    return job.report({})


def test_dev_leaves_the_margin_by_which_test_is_judged(drawings: Callable[..., EvaluationJob]) -> None:
    dev = drawings("dev")
    assert "table-1" in {table.key for table in report_on(dev).tables}
    test = report_on(drawings("test", margins=dev.out / "margins.json"))
    (table,) = (table for table in test.tables if table.key == "table-1")
    assert "on builtin dev (2 sets, 4 pairs of images)." in table.note
    assert FORCED_CHOICE not in test.facts
    assert not (dev.out.parent / "test" / "margins.json").exists()


def test_the_judge_votes_on_the_pairs_that_people_are_shown_some_of(
    drawings: Callable[..., EvaluationJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = Size(sets=2, seeds=1, image_sets=2, prompts=8, images=2, shown=2)
    monkeypatch.setattr(api, "STUDIES", {"random": size})
    asked = drawings("dev", study="random")
    (table,) = (table for table in report_on(asked).tables if table.key == "table-1")
    label = "paper, protocol random: automatic judge, 1 x margin"
    (row,) = (row for row in table.rows if row.label == label)
    _, key = asked.export_study("random")
    assert row.cells[table.columns.index("votes")] == read_key(key).pairs["given"] == 10 * 2


def test_a_margin_that_dev_has_left_stays_whatever_is_run_later(
    drawings: Callable[..., EvaluationJob],
) -> None:
    dev = drawings("dev")
    report_on(dev)
    path = dev.out / "margins.json"
    (key,) = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    save_margin(key, Margin(value=0.0625, benchmark="builtin", split="dev", sets=10, pairs=200), path)
    (table,) = (table for table in drawings("dev").report({}).tables if table.key == "table-1")
    assert "The margin, 0.0625," in table.note


def test_dev_measures_no_margin_before_all_of_its_runs_are_finished(
    drawings: Callable[..., EvaluationJob],
) -> None:
    dev = drawings("dev")
    finish(dev)
    missing = next(task.key for task in dev.margin_tasks if task.key.seed == 1)
    shutil.rmtree(dev.units / missing.folder_name)
    report = dev.report({})
    assert "table-1" not in {table.key for table in report.tables}
    assert report.facts[FORCED_CHOICE].endswith(
        "the 4 runs of paper that draw at two seeds are finished; 1 missing"
    )
    assert not (dev.out / "margins.json").exists()


def test_without_a_margin_of_dev_test_says_why_there_is_no_table_one(
    drawings: Callable[..., EvaluationJob],
) -> None:
    report = report_on(drawings("test"))
    assert {"table-1", "rivals"}.isdisjoint(table.key for table in report.tables)
    assert "images" in {table.key for table in report.tables}
    told = report.facts[FORCED_CHOICE]
    assert "has not been measured on dev: run 'conceptloom evaluate --split dev --methods paper" in told
    assert len(told.splitlines()) == 1


def test_every_use_of_the_test_sets_is_written_down_and_none_of_others(
    drawings: Callable[..., EvaluationJob],
) -> None:
    drawings("dev")
    first, _ = drawings("test"), drawings("test", command="conceptloom evaluate --split test")
    assert first.use_log == first.out / "test-set-log.md"
    lines = first.use_log.read_text(encoding="utf-8").splitlines()
    told = [line.split(" | ")[1:] for line in lines if "fixed, paper" in line]
    assert [cells[-1] for cells in told] == ["`Python` |", "`conceptloom evaluate --split test` |"]
    assert list(first.out.parent.glob("*/test-set-log.md")) == [first.use_log]


def test_nothing_is_missing_where_nobody_judges_or_ours_is_not_compared(
    drawings: Callable[..., EvaluationJob],
) -> None:
    assert drawings("test").missing_margin is not None
    assert drawings("test", "unseen", judge=None).missing_margin is None
    assert drawings("test", "others", methods=("fixed", "words")).missing_margin is None


def test_what_ships_is_used_on_dev_too_and_left_alone(
    drawings: Callable[..., EvaluationJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    ships = Margin(value=0.0625, benchmark="builtin", split="dev", sets=10, pairs=200)
    monkeypatch.setattr(api, "shipped_margin", lambda key: asked.append(key) or ships)
    dev = drawings("dev")
    (table,) = (table for table in report_on(dev).tables if table.key == "table-1")
    assert "The margin, 0.0625," in table.note
    assert not (dev.out / "margins.json").exists()
    assert re.fullmatch(rf"examiner-[0-9a-f]{{12}}/{dev.backbone.fingerprint[:12]}", asked[0])


def test_a_smoke_run_votes_by_its_own_margin_and_leaves_none(drawings: Callable[..., EvaluationJob]) -> None:
    smoke = drawings("dev", quick=True)
    report = report_on(smoke)
    (table,) = (table for table in report.tables if table.key == "table-1")
    assert "on the short runs of builtin dev (2 sets, 4 pairs of images), the sets that are" in table.note
    assert report.kind == "smoke"
    assert not (smoke.out / "margins.json").exists()


def test_a_smoke_run_votes_by_what_ships_where_a_margin_does(
    drawings: Callable[..., EvaluationJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    ships = Margin(value=0.0625, benchmark="builtin", split="dev", sets=10, pairs=200)
    monkeypatch.setattr(api, "shipped_margin", lambda _: ships)
    report = report_on(drawings("dev", quick=True))
    (table,) = (table for table in report.tables if table.key == "table-1")
    assert "The margin, 0.0625," in table.note


def test_the_sets_of_an_evaluation_are_left_as_a_folder_that_can_be_evaluated(
    drawings: Callable[..., EvaluationJob], job: Callable[..., EvaluationJob]
) -> None:
    dev = drawings("dev")
    again = job("again", data=dev.out / "benchmark")
    assert [one.digests for one in again.benchmark.sets] == [one.digests for one in dev.benchmark.sets]
    assert again.benchmark.name == "folder"
    assert not (again.out / "benchmark").exists()
    assert drawings("dev").out == dev.out  # it goes on beside them


def test_true_masks_are_asked_for_before_anything_is_learned(
    pictures: Path, job: Callable[..., EvaluationJob], tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(pictures, mine)
    (mine / "yard" / "masks" / "first" / "pet.png").unlink()
    with pytest.raises(ConfigError, match="set 'yard' has none of 'pet' in 'first': add it, or name other"):
        job(data=mine, methods=("gt", "fixed"))
    assert not (tmp_path / "out").exists()
    job(data=mine, methods=("fixed",))


def test_that_the_margin_is_missing_is_told_before_the_hours(
    drawings: Callable[..., EvaluationJob], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise RunError("stopped before the first run")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("conceptloom.evaluation.api.run_tasks", refuse)
    base = ("--base-model", str(tiny_folder), "--device", "cpu", "--dtype", "float32")
    asked = ("--split", "test", "--methods", "fixed,paper", "--judge", "examiner", "--out", "new")
    result = run(*base, *asked)
    assert "stopped before the first run" in result.stderr
    lines = result.output.splitlines()
    (told,) = (index for index, line in enumerate(lines) if line.startswith(f"{FORCED_CHOICE}: not made"))
    (hours,) = (index for index, line in enumerate(lines) if "runs to do" in line)
    assert told < hours


def test_margins_of_another_judge_are_refused_before_the_hours(
    drawings: Callable[..., EvaluationJob], tmp_path: Path
) -> None:
    margin = Margin(value=0.1, benchmark="builtin", split="dev", sets=1, pairs=1)
    path = tmp_path / "margins.json"
    path.write_text(json.dumps({"examiner-0/0": margin.model_dump()}), encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no margin of judge and base model examiner-"):
        drawings("test", margins=path)
    assert not (tmp_path / "test").exists()


def test_margins_are_for_a_judge_on_the_built_in_benchmark(
    job: Callable[..., EvaluationJob], drawings: Callable[..., EvaluationJob], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="measures its own: leave --margins out"):
        job(judge=JudgeChoice("examiner"), margins=tmp_path / "margins.json")
    with pytest.raises(ConfigError, match="name one with --judge"):
        drawings("test", judge=None, margins=tmp_path / "margins.json")


# Methods


def test_the_command_compares_by_default_what_python_callers_compare(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def refuse(*_: Any, methods: Any, **__: Any) -> Any:
        asked.append(tuple(methods))
        raise RunError("enough")

    monkeypatch.setattr(api, "prepare_evaluation", refuse)
    run("--base-model", str(tiny_folder), "--out", str(tmp_path / "out"))
    assert asked == [DEFAULT_METHODS]
    assert resolve_config("builtin").method in DEFAULT_METHODS


# Sizes


@pytest.mark.parametrize(
    ("given", "concepts"),
    [
        ({}, 2 * FULL.sets),
        ({"quick": True}, 2 * SMOKE.sets),
        ({"study": "random"}, 80),
        ({"study": "coco"}, 120),
    ],
)
def test_a_coco_evaluation_chooses_as_many_scenes_as_it_learns(
    given: dict[str, Any], concepts: int, job: Callable[..., EvaluationJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def choose(_: Path, concepts: int) -> Any:
        asked.append(concepts)
        raise DataError("enough")

    monkeypatch.setattr(api, "coco_benchmark", choose)
    with pytest.raises(DataError, match="enough"):
        prepare_evaluation("coco", "dev", "out", methods=METHODS, data="coco", base=job().base, **given)
    assert asked == [concepts]


def test_help_tells_how_much_is_learned_and_drawn() -> None:
    told = " ".join(re.sub(r"[^\w.,;:()]+", " ", run("--help").output).split())
    assert f"The first {FULL.sets} sets are learned, the first {FULL.image_sets} drawn." in told
    coco = STUDIES["coco"]
    assert f"{coco.sets} sets (of benchmark coco {2 * coco.sets} concepts" in told
    assert f"{coco.prompts} prompts each, {coco.images} images a prompt" in told
    assert f"random: {STUDIES['random'].images} a prompt" in told
    assert f"{SMOKE.sets} sets, short runs" in told
