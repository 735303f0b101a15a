"""What the user is told of the pictures and words they gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from conceptloom.backbone import Backbone
    from conceptloom.learning.request import LearnRequest
    from conceptloom.pictures import Picture


def tell_notes(pictures: Iterable[Picture]) -> None:
    """Print a line for each note of each picture."""
    for picture in pictures:
        for note in picture.notes:
            typer.echo(f"note: '{picture.name}' {note}")


def tell_unknown_words(backbone: Backbone, texts: Iterable[str], *, err: bool = False) -> None:
    """Print a line that names the words which the built-in model was not taught, if there are any."""
    from conceptloom.backbone import unknown_words

    unknown = dict.fromkeys(word for text in texts for word in unknown_words(backbone, text))
    if unknown:
        words = ", ".join(f"'{word}'" for word in unknown)
        typer.echo(
            f"note: {words}: not taught to the built-in model, so without meaning to it (docs/builtin-model.md lists"
            " what it knows)",
            err=err,
        )


def tell_of_request(backbone: Backbone, request: LearnRequest) -> None:
    """Print what of the words and prompts for pictures the base model does not know or read."""
    tell_unknown_words(backbone, request.own_texts)
    tell_dropped_tokens(request.dropped_tokens(backbone))


def tell_dropped_tokens(dropped: Mapping[str, int], *, err: bool = False) -> None:
    """Print a line for each prompt that is too long: how many tokens at its end are not read."""
    for prompt, count in dropped.items():
        typer.echo(f"the last {count} tokens do not fit and are not read: {prompt}", err=err)
