"""What a report holds, keeps and refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from conceptloom.errors import DataError
from conceptloom.evaluation.report import (
    Curves,
    Grid,
    GridRow,
    Line,
    MaskHistory,
    Measured,
    Panel,
    Report,
    Row,
    Table,
    Tile,
    encoded,
    load_report,
    measured,
    save_report,
)
from conceptloom.evaluation.statistics import Interval
from mutations import json_like, value_or_refusal
from report_fixture import plain_report, sample_report

PIXELS = np.full((16, 24, 3), (200, 40, 90), np.uint8)


def table(*cells: object, key: str = "t", columns: int | None = None) -> Table:
    heads = tuple(str(index) for index in range(len(cells) if columns is None else columns))
    rows = [{"label": "row", "cells": cells}]
    return Table.model_validate({"key": key, "title": "", "note": "", "columns": heads, "rows": rows})


def curves(**changes: object) -> Curves:
    empty = {"key": "c", "title": "", "note": "", "x_label": "", "y_label": "", "window": 1, "panels": ()}
    return Curves.model_validate({**empty, **changes})


def grid(*rows: GridRow, columns: tuple[str, ...] = (), key: str = "g") -> Grid:
    return Grid(key=key, title="", note="", columns=columns, rows=rows)


def line(**changes: object) -> Line:
    return Line.model_validate({"label": "a", "steps": (0, 1), "mean": (0.0, 1.0), **changes})


# Saving and loading -----------------------------------------------------------------------------------------------


def test_loading_what_was_saved_gives_the_same_report(tmp_path: Path) -> None:
    report = sample_report()
    save_report(report, tmp_path / "report.json")
    assert load_report(tmp_path / "report.json") == report


def test_every_number_survives_saving_to_the_last_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(500) * 10.0 ** np.arange(-250, 250)
    report = plain_report(tables=(table(*(Measured(value=value) for value in values.tolist())),))
    save_report(report, tmp_path / "report.json")
    cells = load_report(tmp_path / "report.json").tables[0].rows[0].cells
    assert [cell.value for cell in cells if isinstance(cell, Measured)] == values.tolist()


def test_cells_keep_their_kinds(tmp_path: Path) -> None:
    cells = (3, "3", "0.13", None, Measured(value=3.0), Measured(value=None))
    save_report(plain_report(tables=(table(*cells),)), tmp_path / "report.json")
    loaded = load_report(tmp_path / "report.json").tables[0].rows[0].cells
    assert loaded == cells
    assert [type(cell) for cell in loaded] == [type(cell) for cell in cells]


def test_a_whole_number_beyond_what_json_readers_agree_on_is_refused(tmp_path: Path) -> None:
    save_report(plain_report(tables=(table(7),)), tmp_path / "report.json")
    cells = json.loads((tmp_path / "report.json").read_text())
    cells["tables"][0]["rows"][0]["cells"] = [10**400]
    (tmp_path / "report.json").write_text(json.dumps(cells))
    with pytest.raises(DataError) as raised:
        load_report(tmp_path / "report.json")
    assert "\n" not in str(raised.value)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_a_report_of_any_content_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    parts = {
        "tables": (table(Measured(value=0.5, low=0.4, high=0.6), 3, "no", None),),
        "curves": (curves(panels=(Panel(title="p", lines=(line(low=(0.0, 0.5), high=(0.5, 1.0)),)),)),),
        "grids": (grid(GridRow(label="r", tiles=(Tile(picture="p", caption="<cat>"),)), columns=("x",)),),
        "pictures": {"p": encoded(PIXELS)},
    }
    content = data.draw(json_like(plain_report(**parts).model_dump(mode="json")))
    path = tmp_path_factory.getbasetemp() / "any-report.json"
    report = value_or_refusal(load_report, path, content)
    assert report is None or set(report.pictures) >= {
        tile.picture for one in report.grids for row in one.rows for tile in row.tiles if tile.picture
    }


def test_the_same_report_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_report(sample_report(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_missing_report_says_which(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        load_report(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 2}', "\ud800".encode("utf-8", "replace").decode()]
)
def test_a_damaged_report_is_refused_with_advice(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="evaluate again"):
        load_report(tmp_path / "report.json")


def test_a_report_of_another_format_is_refused(tmp_path: Path) -> None:
    text = plain_report().model_dump_json().replace('"format":1', '"format":2')
    (tmp_path / "report.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="format"):
        load_report(tmp_path / "report.json")


# Numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_cannot_enter(number: float) -> None:
    for field in ("value", "low", "high"):
        with pytest.raises(ValidationError, match="finite"):
            Measured.model_validate({"value": 0.0, "low": 0.0, "high": 0.0, field: number})
    for field in ("mean", "low", "high"):
        with pytest.raises(ValidationError, match="finite"):
            line(**{"low": (0.0, 0.0), "high": (1.0, 1.0), field: (number, 1.0)})


def test_what_is_no_number_cannot_be_loaded(tmp_path: Path) -> None:
    text = plain_report(tables=(table(Measured(value=0.25)),)).model_dump_json().replace("0.25", "NaN")
    (tmp_path / "report.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="damaged"):
        load_report(tmp_path / "report.json")


def test_an_interval_becomes_a_cell_with_its_numbers() -> None:
    assert measured(Interval(0.5, 0.25, 0.75)) == Measured(value=0.5, low=0.25, high=0.75)


def test_an_interval_over_one_cluster_becomes_its_value_alone() -> None:
    assert measured(Interval(0.5, math.nan, math.nan)) == Measured(value=0.5)


@pytest.mark.parametrize("interval", [None, Interval(math.nan, math.nan, math.nan)])
def test_what_was_not_measured_becomes_an_empty_cell(interval: Interval | None) -> None:
    assert measured(interval) is None


@pytest.mark.parametrize(
    "ends",
    [
        {"value": 0.5, "low": 0.25},
        {"value": 0.5, "high": 0.75},
        {"value": None, "low": 0.25, "high": 0.75},
        {"value": 0.5, "low": 0.75, "high": 0.25},
    ],
)
def test_half_an_interval_is_refused(ends: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="interval"):
        Measured.model_validate(ends)


def test_two_equal_values_are_a_flat_line() -> None:
    assert line(mean=(0.5, 0.5)).is_flat


@pytest.mark.parametrize("values", [{"mean": (0.5, 0.6)}, {"steps": (0, 1, 2), "mean": (0.5, 0.5, 0.5)}])
def test_other_lines_are_not_flat(values: dict[str, Any]) -> None:
    assert not line(**values).is_flat


# Shape ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"steps": (), "mean": ()}, "do not increase"),
        ({"steps": (1, 0)}, "do not increase"),
        ({"steps": (1, 1)}, "do not increase"),
        ({"mean": (0.0,)}, "1 values at 2 steps"),
        ({"low": (0.0, 0.0)}, "one end"),
        ({"low": (0.0,), "high": (1.0,)}, "1 values at 2 steps"),
        ({"low": (0.0, 1.0), "high": (1.0, 0.5)}, "upside down"),
    ],
)
def test_a_line_whose_values_do_not_fit_its_steps_is_refused(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        line(**values)


@pytest.mark.parametrize(
    "values", [{"steps": ()}, {"iou": (0.5,)}, {"boundary_iou": (0.5, 0.5, 0.5)}, {"iou": (0.5, math.nan)}]
)
def test_a_history_whose_values_do_not_fit_its_steps_is_refused(values: dict[str, Any]) -> None:
    whole = {"set": "a", "picture": "p", "concept": "cat", "method": "paper", "seed": 0}
    series = {"steps": (0, 20), "iou": (0.1, 0.2), "boundary_iou": (0.1, 0.2)}
    assert MaskHistory.model_validate({**whole, **series}).steps == (0, 20)
    with pytest.raises(ValidationError):
        MaskHistory.model_validate({**whole, **series, **values})


@pytest.mark.parametrize("window", [-1, 0, 4])
def test_a_window_without_a_middle_is_refused(window: int) -> None:
    with pytest.raises(ValidationError, match="middle"):
        curves(window=window)


def test_a_row_that_does_not_fill_its_table_is_refused() -> None:
    with pytest.raises(ValidationError, match="2 cells for 3 columns"):
        table(1, 2, columns=3)


def test_more_tiles_than_heads_are_refused() -> None:
    row = GridRow(label="row", tiles=(Tile(picture=None),) * 3)
    with pytest.raises(ValidationError, match="3 tiles under 2 heads"):
        grid(row, columns=("a", "b"))


def test_a_grid_is_as_wide_as_its_heads_or_its_longest_row() -> None:
    rows = [GridRow(label="row", tiles=(Tile(picture=None),) * count) for count in (1, 3, 2)]
    assert grid(*rows).width == 3
    assert grid(*rows, columns=("a", "b", "c", "d")).width == 4
    assert grid().width == 0


@pytest.mark.parametrize("key", ["", "../x", "a/b", "a\\b", "C:x", "a\nb", "x" * 300])
def test_a_key_that_could_leave_its_folder_is_refused(key: str) -> None:
    for part in (table, curves, grid):
        with pytest.raises(ValidationError, match="file name"):
            part(key=key)


def test_a_set_s_own_name_may_be_a_key() -> None:
    assert grid(key="seeds-Mein Hund 2").key == "seeds-Mein Hund 2"


def test_two_parts_of_one_key_are_refused() -> None:
    with pytest.raises(ValidationError, match="two parts have the key 'same'"):
        plain_report(tables=(table(key="same"),), grids=(grid(key="Same"),))


# Pictures ---------------------------------------------------------------------------------------------------------


def test_a_picture_comes_back_as_it_looked() -> None:
    report = plain_report(pictures={"p": encoded(PIXELS)})
    shown = report.picture("p")
    assert shown.shape == PIXELS.shape
    assert np.abs(shown.astype(int) - PIXELS.astype(int)).max() <= 6  # lossy


def test_a_grid_of_a_missing_picture_is_refused() -> None:
    row = GridRow(label="row", tiles=(Tile(picture="absent"),))
    with pytest.raises(ValidationError, match="'absent', which is missing"):
        plain_report(grids=(grid(row),))


def test_a_picture_that_is_no_base64_is_refused() -> None:
    with pytest.raises(ValidationError, match="picture 'p' is no base64"):
        plain_report(pictures={"p": "'><script>"})


@pytest.mark.parametrize("pictures", [{}, {"p": "AAAA"}, {"p": ""}, {"p": encoded(PIXELS)[:40]}])
def test_a_picture_that_cannot_be_read_says_which(pictures: dict[str, str]) -> None:
    with pytest.raises(DataError, match="picture 'p'"):
        plain_report(pictures=pictures).picture("p")


def test_a_report_cannot_be_changed() -> None:
    report = plain_report()
    with pytest.raises(ValidationError, match="frozen"):
        report.title = "another"  # type: ignore[misc]


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="colour"):
        Report.model_validate({**plain_report().model_dump(), "colour": "red"})
    with pytest.raises(ValidationError, match="unit"):
        Row.model_validate({"label": "row", "cells": (), "unit": "s"})
