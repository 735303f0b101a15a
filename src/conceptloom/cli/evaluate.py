"""`conceptloom evaluate`: methods side by side on a benchmark; a report with intervals, figures and one page."""

from __future__ import annotations

import shlex
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptloom.cli.learn import duration
from conceptloom.cli.notes import tell_notes
from conceptloom.cli.options import BaseModelOption, DeviceOption, DtypeChoice, DtypeOption
from conceptloom.errors import ConfigError
from conceptloom.runs import expanded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conceptloom.evaluation.api import EvaluationJob
    from conceptloom.evaluation.units import UnitKey


class BenchmarkChoice(StrEnum):
    """Where the sets come from."""

    builtin = "builtin"
    coco = "coco"
    folder = "folder"


class StudyChoice(StrEnum):
    """The paper's two studies."""

    random = "random"
    coco = "coco"


class SplitChoice(StrEnum):
    """Part of the built-in benchmark."""

    dev = "dev"
    test = "test"


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("evaluate")(evaluate)


def evaluate(
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder of the evaluation; one that stopped goes on where it was."),
    ],
    benchmark: Annotated[
        BenchmarkChoice,
        typer.Option(
            help="builtin: composed drawings; coco: scenes of two subjects chosen from a local COCO folder;"
            " folder: your own pictures. The first 40 sets are learned, the first 20 drawn."
        ),
    ] = BenchmarkChoice.builtin,
    split: Annotated[
        SplitChoice, typer.Option(help="Of the built-in benchmark; each use of test is written down.")
    ] = SplitChoice.dev,
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME",
            help="gt, fixed, paper, refined (the default of learn), refined-once (its first masks, EM off), literal,"
            " inversion (textual inversion without masks), words (the base model with class words).",
        ),
    ] = "gt,fixed,paper,refined,inversion,words",
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=100, help="Seeds of the masks; 3 unless given.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="4 sets, short runs: shows that all works, is no evidence.")
    ] = False,
    masks_only: Annotated[
        bool,
        typer.Option(
            "--masks-only",
            help="Fig. 3 and the tables of masks alone: runs end where masks stop changing, nothing is drawn. A later"
            " run without it goes on in the same folder, but learns again what is to draw.",
        ),
    ] = False,
    parts: Annotated[
        bool,
        typer.Option("--parts", help="Also what each part of the method is worth (builtin dev; many hours)."),
    ] = False,
    study: Annotated[
        StudyChoice | None,
        typer.Option(
            help="Draw as many images as this study of people needs, and write its bundle too. random: 6 a prompt;"
            " coco: 60 sets (of benchmark coco 120 concepts, if the folder has them), 20 prompts each, 8 images a"
            " prompt."
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Who looks at the images: examiner (ships), or clip, dinov2, siglip from --judge-folder."
            " Default: examiner on the built-in benchmark and model, else nobody.",
        ),
    ] = None,
    judge_folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Local folder of the judge's model.")
    ] = None,
    margins: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="margins.json that --split dev left, for a judge or base model whose neutral margin does not ship.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The pictures of benchmark coco or folder (docs/evaluation.md: how they lie); for folder also what"
            " another evaluation left in DIR/benchmark.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=256, help="Runs side by side; one per core, one on a GPU."),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run nothing: report on what is finished.")
    ] = False,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="Only draw figures and page anew from DIR/report.json.")
    ] = False,
    base_model: BaseModelOption = "builtin",
    device: DeviceOption = "auto",
    dtype: DtypeOption = DtypeChoice.auto,
) -> None:
    """Compare methods: masks over training steps, images, the paper's figures and tables, with intervals.

    conceptloom evaluate --quick --out smoke

    Tells the time it will take, then writes report.json, figures and
    report.html into DIR. Ctrl-C loses only the runs under way.
    """
    from conceptloom.evaluation.api import FORCED_CHOICE, JudgeChoice, prepare_evaluation
    from conceptloom.evaluation.charts import require_matplotlib
    from conceptloom.evaluation.draw import draw_report
    from conceptloom.evaluation.report import NAME, load_report, save_report
    from conceptloom.evaluation.runner import BaseModel, worker_count

    out = expanded(out)
    require_matplotlib()  # before the hours, not after them
    if redraw:
        for path in draw_report(load_report(out / NAME), out):
            typer.echo(path)
        return
    if judge_folder is not None and judge is None:
        raise ConfigError("--judge-folder is of no judge: say which with --judge clip, dinov2 or siglip")
    chosen = [name.strip() for name in methods.split(",") if name.strip()]
    job = prepare_evaluation(
        benchmark.value,
        split.value,
        out,
        methods=chosen,
        seeds=seeds,
        quick=quick,
        masks_only=masks_only,
        parts=parts,
        data=data,
        judge=None if judge is None else JudgeChoice(judge, judge_folder),
        margins=margins,
        study=None if study is None else study.value,
        base=BaseModel(base_model, device, dtype.value),
        command=command_line(),
    )
    tell_notes(picture for one in job.benchmark.sets[: job.size.sets] for picture in one.pictures)
    begun = time.monotonic()
    if job.use_log is not None:
        typer.echo(f"written down in {job.use_log}")
    if job.missing_margin is not None:
        typer.echo(f"{FORCED_CHOICE}: {job.missing_margin}")
    if not report_only:
        _run(job, workers or worker_count(job.backbone.device))
    elapsed = time.monotonic() - begun
    report = job.report({"Command": command_line(), "This call": duration(elapsed)})
    save_report(report, out / NAME)
    typer.echo(out / NAME)
    for path in draw_report(report, out):
        typer.echo(path)
    if study is not None:
        for path in job.export_study(study.value):
            typer.echo(path)


def command_line() -> str:
    """The command as it was typed, by the program's plain name; of absolute paths only the last part."""
    return shlex.join(["conceptloom", *map(_without_folders, sys.argv[1:])])


def _without_folders(word: str) -> str:
    option, equals, path = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + (Path(path).name if Path(path).is_absolute() else path)


def time_lines(job: EvaluationJob, seconds: Mapping[UnitKey, float], workers: int) -> list[str]:
    """What the missing runs will take: all of them, and those of the table of parts alone; then what comes on top.

    Args:
        job: the evaluation.
        seconds: of one worker's time that each missing run takes.
        workers: side by side.
    """
    from conceptloom.evaluation.cost import plan_seconds

    missing = job.missing
    compared = {task.key for task in job.comparison}
    parts = [task for task in missing if task.key not in compared]
    lines = [
        f"{len(missing)} runs to do, {len(job.tasks) - len(missing)} done:"
        f" about {duration(plan_seconds(missing, seconds, workers))} with {workers} side by side"
        f" ({duration(plan_seconds(missing, seconds))} of work)"
    ]
    if job.parts:
        share = duration(plan_seconds(parts, seconds))
        lines.append(f"the table of parts takes {share} of that work, in {len(parts)} runs of its own")
    on_top = (
        "making the report comes" if job.judge is None else "judging the images and making the report come"
    )
    return [*lines, f"{on_top} on top"]


def _run(job: EvaluationJob, workers: int) -> None:
    """Run what is missing under a progress bar; Ctrl-C ends the workers and leaves what is done."""
    from contextlib import closing

    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as ProgressBar

    from conceptloom.evaluation.cost import estimate_tasks
    from conceptloom.evaluation.runner import worker_threads

    missing = job.missing
    if not missing:
        typer.echo(f"all {len(job.tasks)} runs are done")
        return
    threads = worker_threads(workers)
    expected = estimate_tasks(missing, job.benchmark, job.backbone, job.units, threads=threads)
    for line in time_lines(job, expected, workers):
        typer.echo(line)
    bar = ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeElapsedColumn(),
    )
    with bar, closing(job.events(workers)) as events:
        task = bar.add_task("running", total=len(missing))
        for event in events:
            bar.update(task, completed=event.done, description=event.key.folder_name)
