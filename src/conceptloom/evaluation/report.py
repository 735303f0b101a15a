"""What an evaluation found, as data: facts, tables, curves and grids of pictures, in one JSON file.

Everything that is shown is in it, pictures too, so figures and page are drawn from a committed report alone.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from conceptloom.errors import DataError
from conceptloom.evaluation.statistics import Interval
from conceptloom.runs import write_bytes_atomic

NAME = "report.json"
WEBP_QUALITY = 90

Kind = Literal["evidence", "smoke"]
"""A smoke run shows that all works; its numbers are no evidence."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Measured(_Part):
    """An estimate with its 95 % interval; None where there is none, as the ends over a single cluster."""

    value: float | None
    low: float | None = None
    high: float | None = None


Entry = Measured | int | str | None
"""A table's cell; None is an empty one."""


class Row(_Part):
    """One line of a table."""

    label: str
    cells: tuple[Entry, ...]


class Table(_Part):
    """A table: `note` says what is counted, what is resampled, and what the columns' units are."""

    key: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


class Line(_Part):
    """A raw curve with its 95 % band, by step; a flat line has two steps. No band where there is a single scene."""

    label: str
    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None


class Panel(_Part):
    """One set of axes."""

    title: str
    lines: tuple[Line, ...]


class Curves(_Part):
    """Panels side by side; `window` steps of the curve are averaged for the smoothed line beside the raw one."""

    key: str
    title: str
    note: str
    x_label: str
    y_label: str
    window: int
    panels: tuple[Panel, ...]


class Tile(_Part):
    """A picture of a grid by its key in `Report.pictures`, over a caption; no picture leaves the place empty."""

    picture: str | None
    caption: str = ""


class GridRow(_Part):
    """One row of tiles."""

    label: str
    tiles: tuple[Tile, ...]


class Grid(_Part):
    """Rows of pictures under column heads (none, or one a column)."""

    key: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[GridRow, ...]


class Report(_Part):
    """Everything found.

    Attributes:
        format: version of this file's format.
        kind: whether the numbers count.
        title: of the page.
        facts: how it was measured, by name: command, seeds, base model, judge, machine, hours.
        tables: in the order they are shown.
        curves: likewise.
        grids: likewise.
        pictures: WebP in base64, by key.
    """

    format: Literal[1] = 1
    kind: Kind
    title: str
    facts: Mapping[str, str]
    tables: tuple[Table, ...]
    curves: tuple[Curves, ...]
    grids: tuple[Grid, ...]
    pictures: Mapping[str, str]

    @field_validator("pictures")
    @classmethod
    def _pictures_are_base64(cls, pictures: Mapping[str, str]) -> Mapping[str, str]:
        for key, text in pictures.items():
            try:
                base64.b64decode(text, validate=True)
            except ValueError:
                raise ValueError(f"picture '{key}' is no base64") from None
        return pictures

    def picture(self, key: str) -> npt.NDArray[np.uint8]:
        """A picture's pixels (H, W, 3).

        Raises:
            DataError: it is not in the report, or no WebP.
        """
        try:
            with Image.open(io.BytesIO(base64.b64decode(self.pictures[key])), formats=["WEBP"]) as image:
                return np.asarray(image.convert("RGB"))
        except (KeyError, OSError) as error:
            raise DataError(f"the report's picture '{key}' cannot be read: evaluate again") from error


def measured(interval: Interval | None) -> Measured | None:
    """An interval as a table's cell; what is not a number becomes None."""
    if interval is None or not math.isfinite(interval.value):
        return None
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return Measured(value=interval.value)
    return Measured(value=interval.value, low=interval.low, high=interval.high)


def encoded(pixels: npt.NDArray[np.uint8]) -> str:
    """A picture (H, W, 3) as `Report.pictures` holds it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=WEBP_QUALITY, method=6)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def save_report(report: Report, path: Path) -> None:
    """Write it, all or nothing."""
    write_bytes_atomic(path, (report.model_dump_json(indent=1) + "\n").encode())


def load_report(path: Path) -> Report:
    """Read it back. Raises `DataError` when it is missing, damaged or of another format."""
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"the report {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"the report {path} is damaged or of another version (at '{where}': {first['msg']}):"
            " evaluate again with the same --out; finished work is kept"
        ) from error
