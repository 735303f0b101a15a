"""`conceptloom demo`: the whole way on one's own machine, from two pictures to new ones."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptloom.errors import RunError
from conceptloom.runs import expanded

if TYPE_CHECKING:
    from conceptloom.scenes.composer import Scene

WORDS = {"frog": "frog", "car": "car", "mesa": "desert"}
CONTAINS = {"street": ("frog", "car"), "mesa": ("mesa",)}
PROMPTS = (
    "a photo of <frog> and <car> on <mesa>",
    "a <frog> riding a <car> on <mesa>",
    "a <frog> on wood",
    "a <car> on <mesa>",
)
IMAGES_PER_PROMPT = 2
DEFAULT_OUT = Path("demo")
_SCENE_SEED = 1


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("demo")(demo)


def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for everything, new or of a demo that stopped while it learned, which goes on."
            f" Default: {DEFAULT_OUT}, or {DEFAULT_OUT}-2, ... when that is not empty.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of every random draw.")] = 0,
) -> None:
    """Compose two pictures, learn three concepts from them without masks, and draw eight new pictures.

    The first picture shows a frog and a car; the second a desert behind a penguin nobody asks for. Drawings and
    photographs are ones that the built-in model has never seen.
    """
    from conceptloom.cli.generate import generate
    from conceptloom.cli.learn import carry_out
    from conceptloom.generation import SHEET, free_folder
    from conceptloom.generation.files import require_free
    from conceptloom.learning import prepare_job, run_folder
    from conceptloom.learning.checkpoint import newest_checkpoint
    from conceptloom.learning.trainer import CHECKPOINTS
    from conceptloom.pictures import write_png

    begun = time.monotonic()
    folder = free_folder(DEFAULT_OUT) if out is None else expanded(out)
    pictures = {name: folder / f"{name}.png" for name in CONTAINS}
    run = run_folder(folder / "set")
    require_free(folder, ())
    _require_only(folder, {run.name, *(path.name for path in pictures.values())})
    for name, scene in demo_scenes().items():
        write_png(pictures[name], scene.pixels, None)
    job = prepare_job(
        list(pictures.values()),
        WORDS,
        folder / "set",
        contains=CONTAINS,
        overrides={"seed": seed},
        resume=newest_checkpoint(run / CHECKPOINTS).checkpoint is not None,
    )
    carry_out(job, f"the same command with --out {folder} goes on")
    generate(folder / "set", list(PROMPTS), num=IMAGES_PER_PROMPT, seed=seed, out=folder / "images")
    typer.echo(f"\nin {time.monotonic() - begun:.0f} seconds; look at")
    for path, what in (
        (pictures["street"], "the first picture: <frog> and <car>"),
        (pictures["mesa"], "the second: <mesa>, and a penguin nobody named"),
        (folder / "set" / "index.html", "the masks as they were found, step by step"),
        (folder / "images" / SHEET, "new pictures in which the three meet"),
    ):
        typer.echo(f"  {path}  {what}")


def _require_only(folder: Path, names: Collection[str]) -> None:
    """Raise `RunError` when `folder` holds anything but `names` and hidden files."""
    held = folder.iterdir() if folder.exists() else ()
    others = sorted(path.name for path in held if path.name not in names and not path.name.startswith("."))
    if others:
        raise RunError(f"'{folder}' holds '{others[0]}' already: choose a new or empty folder for the demo")


def demo_scenes() -> dict[str, Scene]:
    """The demo's two pictures, by name: composed from `dev` sprites and photographs, always the same."""
    from conceptloom.scenes.backgrounds import load_photos, photo_crop
    from conceptloom.scenes.composer import SceneRules, compose
    from conceptloom.scenes.sprites import load_sprites
    from conceptloom.seeding import numpy_generator

    sprites = {sprite.key: sprite for sprite in load_sprites("dev")}
    photos = {photo.label: photo for photo in load_photos("dev")}
    rules = SceneRules()
    scenes = {}
    for name, keys, place, relation in (
        ("street", ("frog/emojione", "car/emojione"), "city", "next to"),
        ("mesa", ("penguin/fxemoji",), "desert", None),
    ):
        rng = numpy_generator(_SCENE_SEED, "demo", name)
        background = photo_crop(photos[place], rng, rules.side_px)
        scenes[name] = compose([sprites[key] for key in keys], place, background, rng, rules, relation)
    return scenes
