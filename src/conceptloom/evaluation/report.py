"""What an evaluation found, as data: facts, tables, curves and grids of pictures, in one JSON file.

Everything that is shown is in it, pictures too, so figures and page are drawn from a committed report alone; so is how
each mask fits, which is too much to be shown.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from conceptloom.concepts.storage import is_plain_name
from conceptloom.errors import DataError
from conceptloom.evaluation.statistics import Interval
from conceptloom.runs import write_bytes_atomic

NAME = "report.json"
WEBP_QUALITY = 90

Kind = Literal["evidence", "partial", "smoke"]
"""Of a partial one runs are missing. A smoke run shows that all works; its numbers are no evidence."""


def _plain(key: str) -> str:
    if not key or not key.isprintable() or not is_plain_name(f"{key}.png"):
        raise ValueError(f"the key {key[:64]!r} cannot be a file name")
    return key


Key = Annotated[str, AfterValidator(_plain)]
"""Names a table, curves or a grid within its report; figures are files of this name."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Measured(_Part):
    """An estimate with its 95 % interval; None where there is none, as the ends over a single cluster."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _ends_belong_to_a_value(self) -> Self:
        if (self.low is None) != (self.high is None) or (self.value is None and self.low is not None):
            raise ValueError("an interval has a value and two ends")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"an interval from {self.low} to {self.high} ends before it begins")
        return self


Count = Annotated[int, Field(ge=-(2**53), le=2**53)]
"""What every reader of JSON takes for the same number."""
Entry = Measured | Count | str | None
"""A table's cell; None is an empty one."""


class Row(_Part):
    """One line of a table."""

    label: str
    cells: tuple[Entry, ...]


class Table(_Part):
    """A table: `note` says what is counted, what is resampled, and what the columns' units are.

    One that is `folded` is to be looked things up in: the page shows it on demand.
    """

    key: Key
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    folded: bool = False

    @model_validator(mode="after")
    def _rows_fill_the_columns(self) -> Self:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"row '{row.label}' has {len(row.cells)} cells for {len(self.columns)} columns"
                )
        return self


class Line(_Part):
    """A raw curve with its 95 % band, by step; a flat line has two steps. No band where there is a single scene."""

    label: str
    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None

    @property
    def is_flat(self) -> bool:
        """Whether it is one value, drawn from end to end."""
        return len(self.steps) == 2 and self.mean[0] == self.mean[1]

    @model_validator(mode="after")
    def _values_belong_to_steps(self) -> Self:
        if not self.steps or any(after <= before for before, after in pairwise(self.steps)):
            raise ValueError(f"the steps of '{self.label}' do not increase")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"the band of '{self.label}' has one end")
        for values in (self.mean, self.low, self.high):
            if values is not None and len(values) != len(self.steps):
                raise ValueError(f"'{self.label}' has {len(values)} values at {len(self.steps)} steps")
        if self.low and self.high and any(a > b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError(f"the band of '{self.label}' is upside down")
        return self


class Panel(_Part):
    """One set of axes."""

    title: str
    lines: tuple[Line, ...]


class Curves(_Part):
    """Panels side by side; `window` steps of the curve are averaged for the smoothed line beside the raw one."""

    key: Key
    title: str
    note: str
    x_label: str
    y_label: str
    window: int
    panels: tuple[Panel, ...]

    @field_validator("window")
    @classmethod
    def _window_has_a_middle(cls, window: int) -> int:
        if window < 1 or window % 2 == 0:
            raise ValueError(f"a window of {window} has no middle")
        return window


class MaskHistory(_Part):
    """How well one concept's masks in one picture fit the true one over one run: values at some of its steps."""

    set: str
    picture: str
    concept: str
    method: str
    seed: Count
    steps: tuple[Count, ...]
    iou: tuple[float, ...]
    boundary_iou: tuple[float, ...]

    @model_validator(mode="after")
    def _values_belong_to_steps(self) -> Self:
        if not len(self.steps) == len(self.iou) == len(self.boundary_iou) > 0:
            raise ValueError(
                f"<{self.concept}> of '{self.set}' has {len(self.iou)} and {len(self.boundary_iou)} values at"
                f" {len(self.steps)} steps"
            )
        return self


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

    key: Key
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[GridRow, ...]

    @property
    def width(self) -> int:
        """Places of a row: its column heads or, without any, the tiles of the longest row."""
        return len(self.columns) or max((len(row.tiles) for row in self.rows), default=0)

    @model_validator(mode="after")
    def _tiles_stand_under_heads(self) -> Self:
        for row in self.rows:
            if len(row.tiles) > self.width:
                raise ValueError(f"row '{row.label}' has {len(row.tiles)} tiles under {self.width} heads")
        return self


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
        masks: of every run, picture and concept; not shown, to be looked up.
        pictures: WebP in base64, by key.
    """

    format: Literal[1] = 1
    kind: Kind
    title: str
    facts: Mapping[str, str]
    tables: tuple[Table, ...]
    curves: tuple[Curves, ...]
    grids: tuple[Grid, ...]
    masks: tuple[MaskHistory, ...] = ()
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

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        # Figures are files, and some file systems do not tell capitals from small letters.
        keys = [part.key.casefold() for parts in (self.tables, self.curves, self.grids) for part in parts]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ValueError(f"two parts have the key '{twice}'")
        for grid in self.grids:
            for tile in (tile for row in grid.rows for tile in row.tiles):
                if tile.picture is not None and tile.picture not in self.pictures:
                    raise ValueError(
                        f"the grid '{grid.key}' shows the picture '{tile.picture}', which is missing"
                    )
        return self

    def picture(self, key: str) -> npt.NDArray[np.uint8]:
        """A picture's pixels (H, W, 3).

        Raises:
            DataError: it is not in the report, or no WebP.
        """
        try:
            with Image.open(io.BytesIO(base64.b64decode(self.pictures[key])), formats=["WEBP"]) as image:
                return np.asarray(image.convert("RGB"))
        except (KeyError, OSError, Image.DecompressionBombError) as error:
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
