"""`conceptloom evaluate --benchmark coco` from a COCO folder to the report: short runs on a tiny random base model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conceptloom.cli import build_app
from conceptloom.evaluation import api, image_findings, plan
from conceptloom.evaluation.benchmark import Benchmark
from conceptloom.evaluation.plan import Size, Task
from conceptloom.evaluation.report import Measured, Report, load_report
from conceptloom.evaluation.runner import BaseModel, UnitDone
from conceptloom.evaluation.units import UnitResult, run_unit, save_unit
from conceptloom.generation import DEFAULTS
from tiny_coco import LEFT, RIGHT, CocoFolder
from tiny_judges import ColourFeatures

SIZE = Size(sets=2, seeds=1, image_sets=2, margin_sets=1, prompts=2, images=2, shown=2, smoke=True)
SHORT = {
    "em_steps": 2,
    "joint_steps": 1,
    "prior_images": 1,
    "initial_timesteps": 2,
    "e_step_timesteps": 1,
    "sample_steps": 1,
    "crf": {"iterations": 1},
}


def run_here(
    tasks: Sequence[Task], benchmark: Benchmark, base: BaseModel, units: Path, workers: int
) -> Iterator[UnitDone]:
    """`run_tasks` without workers, which would have to start."""
    backbone, sets = base.load(), {one.name: one for one in benchmark.sets}
    for done, task in enumerate(tasks, 1):
        one = sets[task.key.set]
        scratch = units / "scratch"
        *_, result = run_unit(task.key, one, backbone, scratch, draws=task.draws, overrides=task.overrides)
        assert isinstance(result, UnitResult)
        save_unit(result, units)
        yield UnitDone(task.key, done, len(tasks), 0.0)


@pytest.fixture(scope="module")
def report(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    root = tmp_path_factory.mktemp("coco")
    folder = CocoFolder(root / "coco")
    folder.add(("dog", LEFT), ("bed", RIGHT))
    folder.add(("cat", LEFT), ("car", RIGHT))
    where = ("--benchmark", "coco", "--data", str(folder.write()), "--out", str(root / "out"))
    asked = ("--quick", "--methods", "fixed,paper", "--judge", "examiner")
    base = ("--base-model", str(tiny_folder), "--device", "cpu", "--dtype", "float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCEPTLOOM_CACHE", str(root / "cache"))
        patch.setattr(api, "SMOKE", SIZE)
        patch.setattr(plan, "_SMOKE", SHORT)
        patch.setattr(api, "run_tasks", run_here)
        patch.setattr(image_findings, "load_feature_judge", lambda name, folder: ColourFeatures())
        patch.setitem(DEFAULTS, "sd", replace(DEFAULTS["sd"], num_inference_steps=2))
        result = CliRunner().invoke(build_app(), ["evaluate", *where, *asked, *base])
    assert result.exit_code == 0, result.output
    return load_report(root / "out" / "report.json")


def test_scenes_of_coco_are_learned_by_all_methods_and_reported_with_every_table(report: Report) -> None:
    assert report.facts["Benchmark"] == (
        "coco, split val2017: 2 sets, masks over 1 seed, images of 2 sets x 2 prompts x 2"
    )
    assert report.facts["Work"].startswith("5 units, 20 images")
    assert {"masks", "images", "table-1", "cost"} <= {table.key for table in report.tables}


def test_interactions_of_scenes_of_coco_are_figure_eight(report: Report) -> None:
    figures = {grid.key for grid in report.grids if grid.key.startswith("figure")}
    assert figures == {"figure-5", "figure-8", "figure-9"}  # Fig. 6 is of prompts that were not drawn


def test_what_is_in_a_single_picture_has_no_real_column_and_the_report_says_so(report: Report) -> None:
    (table,) = (table for table in report.tables if table.key == "images")
    real, wrong = (table.columns.index(name) for name in ("real", "wrong subject"))
    (identity,) = (row for row in table.rows if row.label == "identity")
    assert identity.cells[real] is None
    assert isinstance(identity.cells[wrong], Measured)
    assert "no subject is in two" in report.facts["Judge"]
