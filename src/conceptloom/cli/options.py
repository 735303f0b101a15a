"""Options that several verbs share, and what is read from them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from conceptloom.errors import ConfigError


class DtypeChoice(StrEnum):
    """Precision of the U-Net."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


ContainsOption = Annotated[
    list[str] | None,
    typer.Option("--in", metavar="PICTURE=NAME,NAME", help="Which concepts a picture contains; else all."),
]
MaskOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PICTURE:NAME=FILE",
        help="Mask of a concept in a picture, white = concept; held while the others are found.",
    ),
]
BoxOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PICTURE:NAME=L,T,R,B",
        help="Box (left, top, right, bottom) in the picture's pixels that a concept does not leave.",
    ),
]
StrokeOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PICTURE:NAME=FILE",
        help="Strokes on a grey or transparent ground: white = this is it, black = this is not.",
    ),
]
PromptOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PICTURE=TEXT", help='Your own words for a picture: "cat=<cat> asleep near <plant>".'
    ),
]
KindOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=subject|background|pattern",
        help="What a concept is; else a background where the base model knows its word as one, or a subject.",
    ),
]
BaseModelOption = Annotated[
    str,
    typer.Option(
        metavar="FOLDER",
        help="Stable Diffusion 1.x or 2.x as a diffusers folder; for a learned set, the one it was learned on.",
    ),
]
DeviceOption = Annotated[
    str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:N or mps: where to compute.")
]
DtypeOption = Annotated[DtypeChoice, typer.Option(help="Precision of the U-Net.")]


def parse_concepts(options: Sequence[str]) -> dict[str, str | None]:
    """Initializer word by name from `NAME[=WORD]`."""
    concepts: dict[str, str | None] = {}
    for option in options:
        name, equals, word = option.partition("=")
        if name in concepts:
            raise ConfigError(f"--concept {name} is given twice: give each concept a name of its own")
        concepts[name] = word if equals else None
    return concepts


def parse_pairs(flag: str, options: Sequence[str] | None) -> dict[str, str]:
    """`KEY=VALUE` options by key; raises `ConfigError` where the = is missing or a key comes twice."""
    pairs: dict[str, str] = {}
    for option in options or ():
        key, equals, value = option.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"{flag} {option}: expected an = with something on both sides")
        if key in pairs:
            raise ConfigError(f"{flag} {key} is given twice: say it once")
        pairs[key] = value
    return pairs


def parse_contains(options: Sequence[str] | None) -> dict[str, list[str]]:
    """Concept names by picture from `PICTURE=NAME,NAME`; spaces after a comma do not count."""
    return {
        picture: [name.strip() for name in names.split(",")]
        for picture, names in parse_pairs("--in", options).items()
    }


def parse_places(flag: str, options: Sequence[str] | None, value: str) -> dict[tuple[str, str], str]:
    """What is given by (picture, concept) from `PICTURE:NAME=...`; `value` names it in an error."""
    places = {}
    for key, given in parse_pairs(flag, options).items():
        picture, colon, name = key.rpartition(":")
        if not colon:
            raise ConfigError(f"{flag} {key}={given}: expected PICTURE:NAME={value}")
        places[picture, name] = given
    return places


def parse_files(flag: str, options: Sequence[str] | None) -> dict[tuple[str, str], Path]:
    """File by (picture, concept) from `PICTURE:NAME=FILE`."""
    return {place: Path(file) for place, file in parse_places(flag, options, "FILE").items()}


def parse_boxes(options: Sequence[str] | None) -> dict[tuple[str, str], tuple[float, float, float, float]]:
    """Box by (picture, concept) from `PICTURE:NAME=LEFT,TOP,RIGHT,BOTTOM`."""
    boxes = {}
    for (picture, name), given in parse_places("--box", options, "LEFT,TOP,RIGHT,BOTTOM").items():
        try:
            left, top, right, bottom = (float(side) for side in given.split(","))
        except ValueError:
            raise ConfigError(
                f"--box {picture}:{name}={given}: expected four numbers LEFT,TOP,RIGHT,BOTTOM"
            ) from None
        boxes[picture, name] = (left, top, right, bottom)
    return boxes


def parse_kinds(options: Sequence[str] | None) -> dict[str, Any]:
    """Kind by concept name."""
    kinds = parse_pairs("--kind", options)
    for name, kind in kinds.items():
        if kind not in ("subject", "background", "pattern"):
            raise ConfigError(f"--kind {name}={kind}: expected subject, background or pattern")
    return kinds
