"""`conceptloom info`: what a concept set holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptloom.runs import read_jsonl

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console
    from rich.text import Text

    from conceptloom.concepts import Concept, ConceptSet

THUMBNAIL_CELLS = 16
"""Width of a thumbnail in the terminal, in characters."""
FINAL_STEPS = 20
"""Final losses are means over so many last steps: a single one is mostly noise."""
PAGE = "index.html"


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("info")(info)


def info(
    concept_set: Annotated[Path, typer.Argument(metavar="SET", help="Folder of a learned concept set.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """Show a concept set: concepts, words, pictures, base model, how it was learned, thumbnails."""
    from rich.console import Console

    from conceptloom.concepts import ConceptSet

    loaded = ConceptSet.load(concept_set)
    description = describe(loaded, loaded.folder or concept_set)
    if as_json:
        typer.echo(json.dumps(description, indent=2))
    else:
        show(Console(highlight=False, markup=False, emoji=False), loaded, description)


def describe(concept_set: ConceptSet, folder: Path) -> dict[str, Any]:
    """Plain data about a set that was loaded from `folder`."""
    from conceptloom.concepts.concept_set import FORMAT_VERSION, MASKS, THUMBNAILS

    base, weights, origin = concept_set.base, concept_set.weights, concept_set.provenance
    metrics = read_jsonl(concept_set.metrics) if concept_set.metrics else []
    return {
        "folder": str(folder),
        "format_version": FORMAT_VERSION,
        "size_bytes": size_on_disk(folder),
        "concepts": [
            {
                "placeholder_token": concept.placeholder_token,
                "kind": concept.kind,
                "initializer": concept.initializer,
                "num_vectors": concept.num_vectors,
                "pictures": pictures_of(concept_set, concept.name),
            }
            for concept in concept_set.concepts
        ],
        "base_model": {"name": base.name, "version": base.version, "fingerprint": base.fingerprint},
        "method": concept_set.config.get("method"),
        "weights": None if weights is None else {"kind": weights.kind, "rank": weights.rank},
        "final_losses": final_losses(metrics),
        "drift": drift_of(origin),
        "rescues": origin.get("rescues") or {},
        "learned_with": {key: value for key, value in origin.items() if isinstance(value, str)},
        "masks": str(folder / MASKS) if concept_set.masks else None,
        "thumbnails": str(folder / THUMBNAILS) if concept_set.thumbnails else None,
        "page": str(folder / PAGE) if (folder / PAGE).is_file() else None,
    }


def pictures_of(concept_set: ConceptSet, name: str) -> dict[str, float]:
    """Pictures that the concept was learned from, with the share of each that its mask covers."""
    return {
        picture: round(float(mask.mean()), 4)
        for (picture, concept), mask in concept_set.masks.items()
        if concept == name
    }


def size_on_disk(folder: Path) -> int:
    """Bytes of all files in a folder; links are not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def final_losses(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean of every loss over the last steps of each stage, by stage and name."""
    steps: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        if isinstance(row.get("stage"), str) and "loss" in row:
            losses = {
                name: value for name, value in row.items() if name != "seconds" and isinstance(value, float)
            }
            steps.setdefault(row["stage"], []).append(losses)
    final = {}
    for stage, taken in steps.items():
        last = taken[-FINAL_STEPS:]
        final[stage] = {name: fmean(losses[name] for losses in last if name in losses) for name in last[-1]}
    return final


def drift_of(provenance: Mapping[str, Any]) -> dict[str, float] | None:
    """Loss on other nouns before and after learning, where it was measured."""
    drift = provenance.get("drift")
    if not isinstance(drift, dict) or not all(
        isinstance(drift.get(key), float) for key in ("before", "after")
    ):
        return None
    return {"before": drift["before"], "after": drift["after"]}


def show(console: Console, concept_set: ConceptSet, description: Mapping[str, Any]) -> None:
    """Print a description for people."""
    with_thumbnails = shows_pictures(console)
    for concept, told in zip(concept_set.concepts, description["concepts"], strict=True):
        lines = concept_lines(concept, told["pictures"])
        thumbnail = concept_set.thumbnails.get(concept.name)
        if with_thumbnails and thumbnail is not None:
            console.print(beside(half_blocks(thumbnail, THUMBNAIL_CELLS), lines))
        else:
            for line in lines:
                console.print(line, soft_wrap=True)
        console.print()
    for key, value in facts(description).items():
        console.print(printable(f"{key:<13} {value}"), soft_wrap=True)


def concept_lines(concept: Concept, pictures: Mapping[str, float]) -> list[Text]:
    """What is said about one concept; the first line is its placeholder token."""
    from rich.text import Text

    word = "no initializer word" if concept.initializer is None else f"from the word '{concept.initializer}'"
    places = ", ".join(f"{picture} ({share:.0%} of it)" for picture, share in pictures.items())
    vectors = "1 vector" if concept.num_vectors == 1 else f"{concept.num_vectors} vectors"
    return [
        Text(concept.placeholder_token, style="bold"),
        Text(printable(f"{concept.kind}, {word}, {vectors}")),
        Text(printable(f"in {places or 'no picture'}")),
    ]


def facts(description: Mapping[str, Any]) -> dict[str, str]:
    """The rest of a description in words, by what it is about; what the set does not say is left out."""
    base, weights, drift = description["base_model"], description["weights"], description["drift"]
    learned = [f"method {description['method']}"] if description["method"] else []
    learned.append("tokens only" if weights is None else f"tokens and weights ({weights['kind']})")
    told = {
        "base model": f"{base['name']} ({base['version'] or base['fingerprint'][:12]})",
        "learned": ", ".join(learned),
    }
    for stage, losses in description["final_losses"].items():
        told[f"{stage} at end"] = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
    if drift:
        told["drift"] = f"loss on other nouns {drift['before']:.4f} before, {drift['after']:.4f} after"
    told["size"] = f"{description['size_bytes'] / 1e6:.1f} MB, format {description['format_version']}"
    for key in ("masks", "thumbnails", "page"):
        if description[key]:
            told[key] = description[key]
    return told


def shows_pictures(console: Console) -> bool:
    """Whether the output is a terminal with 24-bit colour and the block characters."""
    return console.is_terminal and console.color_system == "truecolor" and console.encoding.startswith("utf")


def half_blocks(pixels: npt.NDArray[np.uint8], cells: int) -> Text:
    """A picture (H, W, 3) as its centre square in `cells` characters by half as many lines.

    A character is about twice as high as wide: the upper half block shows one pixel in its own colour above another
    in the background's.
    """
    from rich.text import Text

    from conceptloom.pictures import square_frame

    square = square_frame(pixels, cells)
    picture = Text()
    for upper, lower in zip(square[0::2], square[1::2], strict=True):
        for top, bottom in zip(upper.tolist(), lower.tolist(), strict=True):
            picture.append(
                "▀", style=f"rgb({top[0]},{top[1]},{top[2]}) on rgb({bottom[0]},{bottom[1]},{bottom[2]})"
            )
        picture.append("\n")
    picture.rstrip()
    return picture


def beside(picture: Text, lines: Iterable[Text]) -> Any:
    """A thumbnail with lines of text to its right, as something rich prints."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_row(picture, Text("\n").join(lines))
    return table


def printable(text: str) -> str:
    """Without control codes: names come from a file that somebody else may have written, and reach a terminal."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
