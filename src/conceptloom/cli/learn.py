"""`conceptloom learn`: pictures and words in, a concept set out."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptloom.cli.notes import tell_notes, tell_of_request
from conceptloom.cli.options import (
    BaseModelOption,
    BoxOption,
    ContainsOption,
    DeviceOption,
    DtypeChoice,
    DtypeOption,
    KindOption,
    MaskOption,
    PromptOption,
    StrokeOption,
    parse_boxes,
    parse_concepts,
    parse_contains,
    parse_files,
    parse_kinds,
    parse_pairs,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Set

    from conceptloom.learning import Estimate, LearnJob, Progress, StepDone


class MethodChoice(StrEnum):
    """Where the masks come from."""

    gt = "gt"
    fixed = "fixed"
    paper = "paper"
    literal = "literal"
    refined = "refined"


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("learn")(learn)


def learn(
    pictures: Annotated[
        list[Path],
        typer.Argument(
            metavar="PICTURE...",
            help="Picture files, or folders with img.jpg, mask0.png, mask1.png, ... (masks in the order of --concept)."
            " Options below name a picture by its file name without extension. Only the centred"
            " square of each is seen.",
        ),
    ],
    concept: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[=WORD]", help="A concept to learn as <NAME>; WORD is its rough class. Repeat."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="SET",
            help="Folder of the concept set. A set that is there already is learned further:"
            " concepts named here go on or are added, the others keep their words and masks.",
        ),
    ],
    contains: ContainsOption = None,
    mask: MaskOption = None,
    box: BoxOption = None,
    stroke: StrokeOption = None,
    prompt: PromptOption = None,
    kind: KindOption = None,
    method: Annotated[
        MethodChoice | None,
        typer.Option(
            help="gt: your masks, one of every concept; fixed: found once; paper: found again and again;"
            " refined (default): likewise, with the E-step that measured best."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Of every random draw; 0 unless given.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that stopped; repeat its command.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON, TOML or YAML with any setting; options given here win."),
    ] = None,
    base_model: BaseModelOption = "builtin",
    device: DeviceOption = "auto",
    dtype: DtypeOption = DtypeChoice.auto,
    preview_every: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Steps between mask previews and sample images; 0 draws none."),
    ] = None,
) -> None:
    """Learn concepts from pictures without masks, for use together in new pictures.

    conceptloom learn garden.jpg --concept cat=cat --concept plant=plant --out set

    While it learns, previews, metrics and checkpoints lie in SET.learning.
    Ctrl-C finishes the step, writes a checkpoint and exits with 130 (143 on
    SIGTERM); --resume then goes on as if it had not stopped.
    """
    from conceptloom.learning import prepare_job, read_config_file

    overrides: dict[str, Any] = {} if config is None else read_config_file(config)
    given = {"method": None if method is None else method.value, "seed": seed, "preview_every": preview_every}
    overrides.update({key: value for key, value in given.items() if value is not None})
    job = prepare_job(
        pictures,
        parse_concepts(concept),
        out,
        contains=parse_contains(contains),
        prompts=parse_pairs("--prompt", prompt),
        masks=parse_files("--mask", mask),
        boxes=parse_boxes(box),
        strokes=parse_files("--stroke", stroke),
        kinds=parse_kinds(kind),
        base_model=base_model,
        overrides=overrides,
        device=device,
        dtype=dtype.value,
        resume=resume,
    )
    carry_out(job, "--resume goes on")


def carry_out(job: LearnJob, advice: str) -> None:
    """Learn before the user's eyes; when a signal stops it, `advice` says how to go on."""
    from conceptloom.learning import estimate

    _announce(job, expected := estimate(job.request, job.backbone))
    _follow(job, expected, advice)
    typer.echo(f"done: {job.out} (look at {job.out / 'index.html'})")


def _announce(job: LearnJob, expected: Estimate) -> None:
    from conceptloom.learning import run_folder

    request = job.request
    tell_notes(entry.picture for entry in request.pictures)
    tell_of_request(job.backbone, request)
    for reason in job.set_aside:
        typer.echo(f"note: {reason}; it lies in {run_folder(job.out)} until this run is done")
    if request.start is not None:
        known = {concept.name for concept in request.start.concepts}
        further = [concept.placeholder_token for concept in request.concepts if concept.name in known]
        added = [concept.placeholder_token for concept in request.concepts if concept.name not in known]
        changes = [
            f"{verb} {' '.join(tokens)}"
            for verb, tokens in (("goes on with", further), ("adds", added))
            if tokens
        ]
        typer.echo(f"{job.out} is a concept set already: this run {' and '.join(changes)}")
    if request.config.method != "gt" and any(entry.picture.masks for entry in request.pictures):
        typer.echo(f"the folder's masks are not used by method {request.config.method}")
    backbone = job.backbone
    disk = f", {expected.disk_bytes / 1e9:.1f} GB of disk while it learns" if expected.disk_bytes else ""
    typer.echo(
        f"method {request.config.method} on {backbone.name}, {backbone.device.type},"
        f" {str(backbone.dtype).removeprefix('torch.')}: about {duration(expected.total_seconds)}"
        f" and {expected.peak_bytes / 1e9:.1f} GB of memory{disk}"
    )


def _follow(job: LearnJob, expected: Estimate, advice: str) -> None:
    """Drive the run under a progress bar until it ends or a signal asks it to stop."""
    from contextlib import closing

    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as ProgressBar

    from conceptloom.learning import MasksUpdated, Resumed, StepDone

    start = time.perf_counter()
    skipped_seconds = 0.0
    collapsed: dict[str, tuple[str, ...]] = {}
    refused: set[tuple[str, str]] = set()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[losses]}"),
        TextColumn("{task.fields[left]}"),
    )
    bar = ProgressBar(*columns)
    with _stop_signal() as signals, bar, closing(job.events()) as events:
        task = bar.add_task("preparing", total=None, losses="", left="")
        for event in events:
            elapsed = time.perf_counter() - start + skipped_seconds
            left = f"{duration(expected.remaining_seconds(event, elapsed))} left"
            bar.update(
                task,
                description=_STAGE_NAMES[event.stage],
                completed=event.step,
                total=event.total,
                left=left,
            )
            for line in told(event, collapsed, refused):
                bar.console.print(line, highlight=False)
            if isinstance(event, StepDone):
                bar.update(task, losses=_losses(event))
            elif isinstance(event, MasksUpdated):
                collapsed[event.picture] = event.collapsed
                refused |= {(event.picture, name) for name in event.rescued}
            elif isinstance(event, Resumed):
                skipped_seconds = expected.seconds_until(event)
            if signals and _may_stop(event):
                events.close()
                bar.stop()
                typer.echo(_how_to_go_on(job, event, advice))
                raise typer.Exit(128 + signals[0])


def told(
    event: Progress, collapsed: Mapping[str, tuple[str, ...]], refused: Set[tuple[str, str]] = frozenset()
) -> list[str]:
    """What is said of an event above the bar.

    Args:
        event: what has happened.
        collapsed: masks told of already, by picture.
        refused: (picture, concept) whose refused masks were told of already, each once.
    """
    from conceptloom.learning import DriftMeasured, MasksUpdated, Noticed, Resumed

    where = f"{event.stage} step {event.step}"
    if isinstance(event, MasksUpdated):
        lines = []
        if event.collapsed and event.collapsed != collapsed.get(event.picture):
            lines.append(f"masks collapsed in {event.picture} at {where}: {', '.join(event.collapsed)}")
        if new := [name for name in event.rescued if (event.picture, name) not in refused]:
            lines.append(
                f"refused new masks in {event.picture} at {where}: {', '.join(new)}; others stand in for them"
            )
        return lines
    if isinstance(event, Noticed):
        return [event.text]
    if isinstance(event, Resumed):
        return [*event.skipped, f"going on after {where}"]
    if isinstance(event, DriftMeasured):
        return [f"denoising loss on other nouns: {event.before:.4f} before, {event.after:.4f} after"]
    return []


def _losses(event: StepDone) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in event.losses.items() if name != "loss")


def _may_stop(event: Progress) -> bool:
    """Amid a step its other events would be lost; at the end there is nothing left to stop."""
    from conceptloom.learning import MasksUpdated, Resumed, StepDone

    is_first_mask = isinstance(event, MasksUpdated) and event.stage == "masks"
    return isinstance(event, StepDone | Resumed) or event.stage == "prior" or is_first_mask


def _how_to_go_on(job: LearnJob, event: Progress, advice: str) -> str:
    from conceptloom.learning import run_folder

    if event.stage == "prior" and not job.resume:
        return "stopped before the first step: repeat the command, images drawn so far are kept"
    return f"stopped after {event.stage} step {event.step}, see {run_folder(job.out)}: {advice}"


_STAGE_NAMES = {
    "prior": "the model's own images",
    "tokens": "stage 1: tokens",
    "masks": "stage 2: masks",
    "em": "stage 3: EM",
    "joint": "stage 4: joint",
}


@contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM instead of acting on it; the second acts as usual."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, remember)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def duration(seconds: float) -> str:
    """Seconds for people: "40 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
