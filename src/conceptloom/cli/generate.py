"""`conceptloom generate`: a concept set and prompts in, images out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptloom.cli.notes import tell_dropped_tokens, tell_unknown_words
from conceptloom.cli.options import BaseModelOption, DeviceOption, DtypeChoice, DtypeOption
from conceptloom.runs import expanded

if TYPE_CHECKING:
    from conceptloom.generation import GenerateJob

DEFAULT_OUT = Path("generated")


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("generate")(generate)


def generate(
    concept_set: Annotated[Path, typer.Argument(metavar="SET", help="Folder of a learned concept set.")],
    prompts: Annotated[
        list[str],
        typer.Argument(metavar="PROMPT", help='What to draw, with concepts as <name>: "a <cat> on <beach>".'),
    ],
    num: Annotated[int, typer.Option(metavar="N", help="Images per prompt.")] = 1,
    seed: Annotated[int, typer.Option(metavar="N", help="Image i of a seed is always the same.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the images; one that holds files of these names is refused."
            f" Default: {DEFAULT_OUT}, or {DEFAULT_OUT}-2, {DEFAULT_OUT}-3, ... when that is not empty.",
        ),
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="How closely to follow the prompt, 1 or more. Default: the base model's."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Denoising steps. Default: the base model's.")
    ] = None,
    negative_prompt: Annotated[str, typer.Option(metavar="TEXT", help="What to lead away from.")] = "",
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Images drawn at a time: speed and memory only. Default: the base model's."
        ),
    ] = None,
    base_model: BaseModelOption = "builtin",
    device: DeviceOption = "auto",
    dtype: DtypeOption = DtypeChoice.auto,
    no_provenance: Annotated[
        bool,
        typer.Option("--no-provenance", help="Keep prompt, seed, model and settings out of the PNG files."),
    ] = False,
) -> None:
    """Generate images of learned concepts together.

    conceptloom generate my-set "a <cat> riding a <car> on <beach>" --num 8

    Writes one PNG per image and contact-sheet.png, and prints their paths.
    """
    from conceptloom.generation import free_folder, prepare_job

    folder = free_folder(DEFAULT_OUT) if out is None else expanded(out)
    job = prepare_job(
        concept_set,
        prompts,
        num=num,
        seed=seed,
        base_model=base_model,
        device=device,
        dtype=dtype.value,
        guidance_scale=guidance_scale,
        num_inference_steps=steps,
        batch_size=batch_size,
        negative_prompt=negative_prompt,
        out=folder,
    )
    tell_unknown_words(job.backbone, (*job.prompts, negative_prompt), err=True)
    tell_dropped_tokens(job.dropped_tokens(), err=True)
    for path in _follow(job, folder, with_provenance=not no_provenance):
        typer.echo(path)


def _follow(job: GenerateJob, folder: Path, *, with_provenance: bool) -> list[Path]:
    """Draw and write everything under a progress bar; the paths, the contact sheet's last."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as ProgressBar

    from conceptloom.generation import SHEET, save_images

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
    )
    names = job.names()
    paths = []
    # Standard output is for the paths, so that other programs can read them.
    with ProgressBar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"image 1 of {len(names)}", total=len(names) * job.settings.num_inference_steps)
        images = job.images(lambda done, total: bar.update(task, completed=done, total=total))
        for path, _ in save_images(images, folder, names, with_provenance=with_provenance):
            paths.append(path)
            bar.update(task, description=f"image {min(len(paths) + 1, len(names))} of {len(names)}")
    return [*paths, folder / SHEET]
