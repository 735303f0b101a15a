"""``conceptloom basemodel``: fetch the artwork, build, resume and check the built-in model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

SHEET_EVERY_SEC = 1200.0


def register(app: typer.Typer) -> None:
    """Add the verb group."""
    group = typer.Typer(help="Make and check the built-in model (its makers need this; nobody else).")
    group.command("sprites")(sprites)
    group.command("build")(build)
    group.command("resume")(resume)
    group.command("export")(export)
    group.command("check")(check)
    group.command("judges")(judges)
    group.callback()(_quiet_libraries)
    app.add_typer(group, name="basemodel")


def _quiet_libraries() -> None:
    """Libraries that this verb imports whole tell of what is not installed and not needed."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")


def sprites(
    ship_to: Annotated[
        Path | None, typer.Option(help="Also write the packs that ship into this folder.")
    ] = None,
) -> None:
    """Fetch the artwork by package name, check it, and build the sprite and background packs."""
    _require_extra("resvg_py", "OpenEXR", "skimage")
    from conceptloom.basemodel.assets import build_packs
    from conceptloom.runs import user_cache_dir

    for progress in build_packs(user_cache_dir(), ship_to):
        typer.echo(f"[{progress.done}/{progress.total}] {progress.what}")


def build(
    hours: Annotated[
        float, typer.Option(help="Stop the U-Net's training after so many hours.", min=0)
    ] = 24.0,
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 2,
) -> None:
    """Train autoencoder, text encoder and U-Net from nothing; an interrupted build goes on where it was."""
    _require_extra("pytorch_optimizer", "matplotlib")
    from conceptloom.basemodel.build import (
        BuildPlan,
        build_autoencoder_stage,
        training_folder,
        training_stream,
    )
    from conceptloom.basemodel.watch import log_progress, reconstruction_sheet, write_loss_curve, write_sheet
    from conceptloom.runs import user_cache_dir

    _use_threads(threads)
    plan, cache = BuildPlan(), user_cache_dir()
    folder = training_folder(cache)
    for progress in build_autoencoder_stage(plan, cache):
        log_progress(folder, "autoencoder", progress)
        if progress.saved:
            typer.echo(_line("autoencoder", progress.samples, progress.losses, progress.samples_per_sec))
    sheet = reconstruction_sheet(plan.autoencoder, folder / "autoencoder", training_stream(plan, cache))
    typer.echo(write_sheet(folder, "reconstructions", sheet))
    typer.echo(write_loss_curve(folder, "autoencoder"))
    resume(hours, threads)


def resume(
    hours: Annotated[float, typer.Option(help="Stop after so many hours.", min=0)] = 24.0,
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 2,
    anneal: Annotated[
        bool,
        typer.Option(
            "--anneal",
            help="Let the rates fall towards nothing over these hours, as before a release; once they have, more hours"
            " change little.",
        ),
    ] = False,
    start: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Begin with the weights of this version of the model instead of those that ship.",
        ),
    ] = None,
) -> None:
    """Go on training U-Net and text encoder, from the cache's state or else from the shipped weights."""
    _require_extra("pytorch_optimizer", "matplotlib")
    import time

    from conceptloom.basemodel.build import BuildPlan, build_denoiser_stage, export_trained, training_folder
    from conceptloom.basemodel.watch import log_progress, sample_sheet, write_loss_curve, write_sheet
    from conceptloom.runs import user_cache_dir

    _use_threads(threads)
    plan, cache = BuildPlan(), user_cache_dir()
    folder = training_folder(cache)
    drawn_at = time.monotonic()
    for progress in build_denoiser_stage(plan, cache, hours * 3600, anneal, threads, start):
        log_progress(folder, "denoiser", progress)
        if not progress.saved:
            continue
        typer.echo(_line("denoiser", progress.samples, progress.losses, progress.samples_per_sec))
        if time.monotonic() - drawn_at > SHEET_EVERY_SEC:
            drawn_at = time.monotonic()
            export_trained(plan, cache, folder / "model")
            typer.echo(write_sheet(folder, f"samples-{progress.samples:09d}", sample_sheet(folder / "model")))
            typer.echo(write_loss_curve(folder, "denoiser"))
    typer.echo(
        f"exported {export_trained(plan, cache, folder / 'model')} samples' model to {folder / 'model'}"
    )


def export(
    folder: Annotated[Path, typer.Argument(help="Where the model folder goes; replaced when it exists.")],
) -> None:
    """Write the averaged weights of the training in the cache as a diffusers folder."""
    _require_extra("pytorch_optimizer")
    from conceptloom.basemodel.build import BuildPlan, export_trained
    from conceptloom.runs import user_cache_dir

    samples = export_trained(BuildPlan(), user_cache_dir(), folder)
    typer.echo(f"exported a model that has seen {samples} pictures to {folder}")


def check(
    model: Annotated[str, typer.Option(help="'builtin' or a model folder.")] = "builtin",
    scenes: Annotated[int, typer.Option(help="Scenes of the attention gate.", min=1)] = 200,
    draw: Annotated[
        Literal["all", "sample", "none"],
        typer.Option(
            help="Judge the exam's 1,682 pictures (about an hour), the first ones of each kind, or none."
        ),
    ] = "all",
    seed: Annotated[int, typer.Option(help="Seed of scenes, prompts and pictures.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write the figures and sheets of pictures into this folder.")
    ] = None,
) -> None:
    """Print where the model looks and what it draws when asked, beside what the judges say of real pictures."""
    from rich.progress import track

    from conceptloom.backbone import load_backbone
    from conceptloom.basemodel.exam import SAMPLE, ExamReport, Size, asked, examine, write_exam
    from conceptloom.basemodel.report import check_attention, check_names, write_report
    from conceptloom.judges.detector import load_judge

    backbone = load_backbone(model)
    attention = check_attention(backbone, scenes, seed)
    typer.echo(attention.text())
    if draw == "none":
        paths = [] if out is None else write_report(out, attention, None)
    else:
        pictures = []
        size = Size() if draw == "all" else SAMPLE
        total = 1 + sum(len(asks) for asks in asked(size, seed).values())
        for event in track(examine(backbone, load_judge("examiner"), seed, size), "drawing", total=total):
            if isinstance(event, ExamReport):
                report = event
            else:
                pictures.append(event)
        naming = check_names([(ask.nouns[0], ask.place, p) for ask, p, _ in pictures if ask.key[0] == "noun"])
        typer.echo(naming.text())
        typer.echo(report.text())
        paths = []
        if out is not None:
            paths = write_report(out, attention, naming) + write_exam(out, report, pictures)
    for path in paths:
        typer.echo(path)


def judges(
    which: Annotated[Literal["examiner", "selector"], typer.Option(help="The judge to train.")] = "examiner",
    hours: Annotated[
        float, typer.Option(help="Stop after so many hours; the next call goes on.", min=0)
    ] = 24.0,
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
    check: Annotated[bool, typer.Option("--check", help="Only measure the judge that ships.")] = False,
) -> None:
    """Train a judge of the evaluation on every drawing, and print how often it is right."""
    _require_extra("pytorch_optimizer")
    from conceptloom.basemodel.judges import (
        PLANS,
        check_judge,
        export_judge,
        judge_training_folder,
        reconstruct_for_judges,
        train_judge_stage,
    )
    from conceptloom.basemodel.watch import log_progress
    from conceptloom.judges.detector import load_judge
    from conceptloom.runs import user_cache_dir

    _use_threads(threads)
    if check:
        typer.echo(check_judge(load_judge(which)).text())
        return
    cache, wanted = user_cache_dir(), PLANS[which].reconstructed_scenes
    folder = judge_training_folder(cache)
    for done in reconstruct_for_judges(PLANS[which], cache):
        if done % 512 == 0:
            typer.echo(f"{done} of {wanted} scenes through the autoencoder")
    for progress in train_judge_stage(which, cache, hours * 3600):
        log_progress(folder, which, progress)
        if progress.saved:
            typer.echo(_line(which, progress.samples, progress.losses, progress.samples_per_sec))
    model, report = export_judge(which, cache)
    typer.echo(report.text())
    typer.echo(f"exported to {model}")


def _require_extra(*modules: str) -> None:
    """Refuse at once what would stop at a missing module later."""
    from importlib.util import find_spec

    from conceptloom.errors import DataError

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise DataError(
            f"making the built-in model needs {', '.join(missing)}: install conceptloom with its extra 'train'"
        )


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _line(stage: str, samples: int, losses: object, rate: float) -> str:
    values = " ".join(f"{name} {value:.4f}" for name, value in dict(losses).items())  # type: ignore[call-overload]
    return f"{stage} {samples} samples, {rate:.1f}/s: {values}"
