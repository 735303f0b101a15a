"""Grids of pictures: every picture in its place, whole, large enough, over all of its caption."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from conceptloom.errors import DataError
from conceptloom.evaluation.grids import LARGEST_TIMES, WIDEST_PX, draw_grid
from conceptloom.evaluation.report import Grid, GridRow, Report, Tile, encoded
from report_fixture import plain_report, sample_report

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

PALETTE: tuple[Colour, ...] = (
    (200, 30, 30),
    (30, 150, 30),
    (40, 40, 200),
    (200, 160, 20),
    (150, 30, 170),
    (20, 160, 170),
    (120, 90, 40),
    (250, 190, 210),
)


def report_of(
    rows: Sequence[Sequence[int | None]],
    size: tuple[int, int] = (128, 128),
    columns: tuple[str, ...] = (),
    caption: str = "",
    label: str = "row",
) -> Report:
    """A report with one grid; a tile is a picture (width, height) in plain colour by its number, or None."""
    width, height = size
    pictures = {
        str(index): encoded(np.full((height, width, 3), colour, np.uint8))
        for index, colour in enumerate(PALETTE)
    }
    drawn = tuple(
        GridRow(
            label=label,
            tiles=tuple(Tile(picture=None if one is None else str(one), caption=caption) for one in row),
        )
        for row in rows
    )
    grid = Grid(key="g", title="A title", note="A note.", columns=columns, rows=drawn)
    return plain_report(grids=(grid,), pictures=pictures)


def sheet_of(report: Report) -> Pixels:
    return draw_grid(report.grids[0], report)


def where(sheet: Pixels, number: int) -> npt.NDArray[np.bool_]:
    """Pixels of a picture's colour, as far as WebP keeps it."""
    return (np.abs(sheet.astype(int) - PALETTE[number]) <= 6).all(axis=2)


def box(sheet: Pixels, number: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the only picture of a colour; all within is of that colour."""
    found = where(sheet, number)
    (rows,), (columns,) = np.nonzero(found.any(axis=1)), np.nonzero(found.any(axis=0))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    assert found[top:bottom, left:right].all()
    return int(left), int(top), int(right), int(bottom)


def size_of(sheet: Pixels, number: int) -> tuple[int, int]:
    left, top, right, bottom = box(sheet, number)
    return right - left, bottom - top


# Size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("across", "times"), [(1, 3), (3, 3), (4, 2), (5, 2), (6, 1), (8, 1)])
def test_small_pictures_are_enlarged_by_a_whole_number(across: int, times: int) -> None:
    sheet = sheet_of(report_of([range(across)]))
    assert times <= LARGEST_TIMES
    assert [size_of(sheet, number) for number in range(across)] == [(128 * times, 128 * times)] * across


@pytest.mark.parametrize("side", [16, 128, 512])
@pytest.mark.parametrize("across", [1, 4, 8])
def test_no_grid_is_wider_than_what_can_be_read(side: int, across: int) -> None:
    assert sheet_of(report_of([range(across)], (side, side))).shape[1] <= WIDEST_PX


def test_pictures_without_room_are_reduced() -> None:
    sheet = sheet_of(report_of([range(8)], (512, 512)))
    width, height = size_of(sheet, 3)
    assert width == height
    assert 150 < width < 200


@pytest.mark.parametrize("size", [(128, 64), (60, 120), (600, 300), (300, 900)])
def test_a_picture_keeps_its_proportions(size: tuple[int, int]) -> None:
    width, height = size_of(sheet_of(report_of([range(4)], size)), 2)
    assert width / height == pytest.approx(size[0] / size[1], rel=0.01)


def test_pictures_of_different_sizes_fill_tiles_of_one_size() -> None:
    pictures = {
        "0": encoded(np.full((64, 64, 3), PALETTE[0], np.uint8)),
        "1": encoded(np.full((128, 128, 3), PALETTE[1], np.uint8)),
    }
    row = GridRow(label="", tiles=(Tile(picture="0"), Tile(picture="1")))
    grid = Grid(key="g", title="", note="", columns=(), rows=(row,))
    sheet = sheet_of(plain_report(grids=(grid,), pictures=pictures))
    assert size_of(sheet, 0) == size_of(sheet, 1)


# Place ------------------------------------------------------------------------------------------------------------


def test_pictures_stand_in_their_row_and_column() -> None:
    sheet = sheet_of(report_of([(0, 1, 2), (3, 4, 5)], columns=("a", "b", "c")))
    boxes = [box(sheet, number) for number in range(6)]
    for first, second in ((0, 1), (1, 2), (3, 4), (4, 5)):
        assert boxes[first][2] < boxes[second][0]
        assert boxes[first][1] == boxes[second][1]
    for above, below in ((0, 3), (1, 4), (2, 5)):
        assert boxes[above][3] < boxes[below][1]
        assert boxes[above][0] == boxes[below][0]


def test_an_empty_place_stays_empty_and_keeps_its_column() -> None:
    sheet = sheet_of(report_of([(0, None, 2), (3, 4, 5)]))
    left, top, right, bottom = box(sheet, 0)
    step = box(sheet, 4)[0] - box(sheet, 3)[0]
    assert box(sheet, 2)[0] == left + 2 * step
    assert (sheet[top:bottom, left + step : right + step] == 255).all()


def test_a_missing_picture_with_a_caption_is_framed() -> None:
    sheet = sheet_of(report_of([(0, None)], caption="not drawn"))
    left, top, right, bottom = box(sheet, 0)
    place = sheet[top:bottom, right + 1 : right + 1 + (right - left) + 20]
    assert (place < 255).any()
    assert (place[20:-20, 40:-40] == 255).all()


def test_rows_may_be_of_different_lengths() -> None:
    sheet = sheet_of(report_of([(0, 1, 2), (3,)]))
    assert box(sheet, 3)[0] == box(sheet, 0)[0]


def test_a_grid_of_nothing_can_be_drawn() -> None:
    grid = Grid(key="g", title="A title", note="A note.", columns=(), rows=())
    assert sheet_of(plain_report(grids=(grid,))).shape[2] == 3


# Words ------------------------------------------------------------------------------------------------------------


def test_labels_stand_left_of_their_row() -> None:
    sheet, bare = sheet_of(report_of([(0, 1)])), sheet_of(report_of([(0, 1)], label=""))
    left, top, _, bottom = box(sheet, 0)
    assert (sheet[top:bottom, :left] < 128).any()
    assert box(bare, 0)[0] < left


def test_a_long_label_keeps_out_of_other_rows() -> None:
    sheet = sheet_of(report_of([range(8)], label="long " * 60))
    _, top, _, bottom = box(sheet, 0)
    assert sheet.shape[0] > bottom + 300
    assert (sheet[:top, :140] < 128).any(axis=(1, 2)).sum() < 30  # the title alone


def test_heads_stand_over_their_column() -> None:
    sheet = sheet_of(report_of([(0, 1)], columns=("first", "")))
    left, top, right, _ = box(sheet, 0)
    other_left, _, other_right, _ = box(sheet, 1)
    assert (sheet[top - 20 : top, left:right] < 128).any()
    assert (sheet[top - 20 : top, other_left:other_right] == 255).all()


@pytest.mark.parametrize("word", ["word ", "x"])
def test_the_whole_caption_fits_under_its_picture(word: str) -> None:
    def caption_lines(count: int) -> tuple[int, Pixels]:
        sheet = sheet_of(report_of([(0, None, 2), (3, 4, 5)], caption=word * count))
        return box(sheet, 3)[1] - box(sheet, 0)[3], sheet

    short, _ = caption_lines(5)
    long, sheet = caption_lines(400)
    assert long > short + 5 * 15
    left, _, right, bottom = box(sheet, 0)
    gap = sheet[bottom : box(sheet, 3)[1], right : right + 8]
    assert (gap == 255).all()
    assert (sheet[bottom : box(sheet, 3)[1], left:right] < 255).any(axis=(1, 2)).sum() > 5 * 10


def test_a_long_title_and_note_grow_downwards_only() -> None:
    report = report_of([(0, 1)])
    wordy = report.grids[0].model_copy(update={"title": "title " * 60, "note": "note " * 200})
    short, long = sheet_of(report), draw_grid(wordy, report)
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0] + 100
    assert (long[:, -20:] == 255).all()


# Files ------------------------------------------------------------------------------------------------------------


def test_drawing_twice_gives_the_same_pixels() -> None:
    report = sample_report()
    for grid in report.grids:
        np.testing.assert_array_equal(draw_grid(grid, report), draw_grid(grid, report))


def test_a_damaged_picture_says_which() -> None:
    report = report_of([(0, 1)])
    damaged = report.model_copy(update={"pictures": {**report.pictures, "1": "AAAA"}})
    with pytest.raises(DataError, match="picture '1'"):
        sheet_of(damaged)
