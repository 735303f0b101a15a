"""What the user is told of the pictures they gave."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from conceptloom.pictures import Picture


def tell_notes(pictures: Iterable[Picture]) -> None:
    """Print a line for each note of each picture."""
    for picture in pictures:
        for note in picture.notes:
            typer.echo(f"note: '{picture.name}' {note}")
