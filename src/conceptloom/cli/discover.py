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
    from collections.abc import Sequence

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
    from conceptloom.learning import discover as find
    from conceptloom.learning.reading import load_pictures
    from conceptloom.learning.segment_files import require_new, save_segments

    require_new(out)
    (loaded,) = load_pictures([picture])
    tell_notes([loaded])
    proposals = find(
        loaded,
        words=word,
        places=place,
        most=most,
        base_model=base_model,
        seed=seed,
        device=device,
        dtype=dtype.value,
    )
    save_segments([proposal.segment for proposal in proposals], {loaded.name: loaded}, out)
    for proposal in proposals:
        share, sure = proposal.segment.mask.mean(), proposal.segment.confidence
        typer.echo(f"{proposal.kind:<10}  <{proposal.name}>  {share:.0%} of it, confidence {sure:.2f}")
    typer.echo(f"done: {out}; to learn them, once their words are right:")
    typer.echo(learn_command(picture, proposals))


def learn_command(picture: Path, proposals: Sequence[Proposal]) -> str:
    """The command that learns what was found, for a shell."""
    parts = ["conceptloom", "learn", str(picture)]
    for proposal in proposals:
        parts += ["--concept", f"{proposal.name}={proposal.word}"]
    for proposal in proposals:
        if proposal.kind == "background":
            parts += ["--kind", f"{proposal.name}=background"]
    return shlex.join([*parts, "--out", "my-set"])
