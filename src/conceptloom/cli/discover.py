"""`conceptloom discover`: a picture in, the concepts it may hold out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptloom.cli.notes import tell_notes
from conceptloom.cli.options import (
    BaseModelOption,
    DeviceOption,
    DtypeChoice,
    DtypeOption,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from conceptloom.learning import Proposal


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("discover")(discover)


def discover(
    picture: Annotated[
        Path, typer.Argument(metavar="PICTURE", help="A picture file. Only its centred square is seen.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to make for the masks.")],
    word: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD",
            help="A word that things may have; those the base model was taught unless given. Repeat.",
        ),
    ] = None,
    place: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="A word that the place may have, likewise. Repeat."),
    ] = None,
    most: Annotated[int, typer.Option(metavar="N", min=1, help="Things to propose at most.")] = 4,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of every random draw.")] = 0,
    base_model: BaseModelOption = "builtin",
    device: DeviceOption = "auto",
    dtype: DtypeOption = DtypeChoice.auto,
) -> None:
    """Propose the concepts of a picture when you name none: how many, where, from which words.

    conceptloom discover garden.jpg --out found

    Look at FOLDER/overlays first: masks are right more often than words. The
    last line is the command that learns what was found; mend its words.
    """
    from conceptloom.backbone import load_backbone
    from conceptloom.generation import free_folder
    from conceptloom.learning import discover as find
    from conceptloom.learning.reading import load_pictures
    from conceptloom.learning.segment_files import require_new, save_segments

    require_new(out)
    (loaded,) = load_pictures([picture])
    tell_notes([loaded])
    backbone = load_backbone(base_model, device, dtype.value)
    proposals = find(loaded, words=word, places=place, most=most, base_model=backbone, seed=seed)
    save_segments([proposal.segment for proposal in proposals], {loaded.name: loaded}, out)
    for proposal in proposals:
        share, sure = proposal.segment.mask.mean(), proposal.segment.confidence
        typer.echo(f"{proposal.kind:<10}  <{proposal.name}>  {share:.0%} of it, confidence {sure:.2f}")
    typer.echo(f"done: {out}; to learn them, once their words are right:")
    given = (
        ("--base-model", base_model, "builtin"),
        ("--device", device, "auto"),
        ("--dtype", dtype.value, "auto"),
    )
    options = [part for option, value, default in given if value != default for part in (option, value)]
    options += ["--out", str(free_folder(Path("my-set")))]  # one that is there would be learned further
    typer.echo(learn_command(picture, proposals, backbone.backgrounds, options))


def learn_command(
    picture: Path, proposals: Sequence[Proposal], backgrounds: Collection[str], options: Sequence[str]
) -> str:
    """The command that learns what was found, for a shell.

    Args:
        picture: that it was found in.
        proposals: what was found.
        backgrounds: words that make a background of a concept unless its kind is told.
        options: further ones, and what they are given.
    """
    parts = ["conceptloom", "learn", str(picture)]
    for proposal in proposals:
        parts += ["--concept", f"{proposal.name}={proposal.word}"]
    for proposal in proposals:
        if proposal.kind == "background" or proposal.word.lower() in backgrounds:
            parts += ["--kind", f"{proposal.name}={proposal.kind}"]
    return shlex.join([*parts, *options])
