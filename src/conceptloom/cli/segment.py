"""`conceptloom segment`: pictures and words in, masks out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("segment")(segment)


def segment(
    pictures: Annotated[
        list[Path],
        typer.Argument(metavar="PICTURE...", help="Picture files. Only the centred square of each is seen."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to make for the masks.")],
    concept: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=WORD]", help="What to look for; WORD is its rough class. Repeat."),
    ] = None,
    concept_set: Annotated[
        Path | None,
        typer.Option(
            "--set", metavar="SET", help="Learned before: its concepts, unless --concept names some."
        ),
    ] = None,
    contains: ContainsOption = None,
    mask: MaskOption = None,
    box: BoxOption = None,
    stroke: StrokeOption = None,
    prompt: PromptOption = None,
    kind: KindOption = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of every random draw.")] = 0,
    base_model: BaseModelOption = "builtin",
    device: DeviceOption = "auto",
    dtype: DtypeOption = DtypeChoice.auto,
) -> None:
    """Find where concepts are in pictures: masks alone, in seconds, nothing is learned.

    conceptloom segment garden.jpg --concept cat=cat --out masks

    FOLDER then holds masks/PICTURE/NAME.png (white = the concept),
    overlays/PICTURE.png to look at, and masks.json in COCO's format with a
    confidence for each.
    """
    from conceptloom.learning import prepare_segments
    from conceptloom.learning.e_step import same_thing_notice
    from conceptloom.learning.reading import load_pictures
    from conceptloom.learning.segment_files import require_new, save_segments

    require_new(out)
    loaded = load_pictures(pictures)
    tell_notes(loaded)
    job = prepare_segments(
        loaded,
        parse_concepts(concept) if concept else None,
        concept_set=concept_set,
        contains=parse_contains(contains),
        prompts=parse_pairs("--prompt", prompt),
        masks=parse_files("--mask", mask),
        boxes=parse_boxes(box),
        strokes=parse_files("--stroke", stroke),
        kinds=parse_kinds(kind),
        base_model=base_model,
        seed=seed,
        device=device,
        dtype=dtype.value,
    )
    tell_of_request(job.backbone, job.request)
    found = job.segments()
    save_segments(found, {picture.name: picture for picture in loaded}, out)
    for one in found:
        share = one.mask.mean()
        typer.echo(f"{one.picture}  <{one.concept}>  {share:.0%} of it, confidence {one.confidence:.2f}")
    for one in found:
        for other in one.coincides_with:
            if one.concept < other:
                typer.echo(f"note: {same_thing_notice(one.concept, other, one.picture)}")
    typer.echo(f"done: {out}")
