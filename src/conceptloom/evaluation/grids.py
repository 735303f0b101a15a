"""A report's grid of pictures as one image: heads over columns, labels beside rows, captions under pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from conceptloom.evaluation.report import Grid, GridRow, Report, Tile

Pixels = npt.NDArray[np.uint8]

WIDEST_PX = 1600
LARGEST_TIMES = 3
"""A picture is enlarged so many times at most."""

_PAPER, _INK, _SOFT, _RULE = (255, 255, 255), (29, 31, 36), (92, 97, 107), (215, 217, 222)
_MARGIN, _GAP, _ROW_GAP, _HEAD_GAP, _CAPTION_GAP = 20, 10, 18, 6, 4
_LABEL_WIDE, _LABEL_GAP = 140, 16
_TITLE_PX, _HEAD_PX, _TEXT_PX = 24, 17, 15
_NARROWEST = 720
"""Room for title and note beside few pictures."""


@dataclass(frozen=True)
class _Frame:
    """Where things are, in pixels: a tile's side, where the first tile begins, how wide the image is."""

    side: int
    left: int
    width: int

    def column(self, index: int) -> int:
        return self.left + index * (self.side + _GAP)


def draw_grid(grid: Grid, report: Report) -> Pixels:
    """The grid under its title, its note beneath: (H, W, 3), at most `WIDEST_PX` wide.

    Small pictures are enlarged by a whole number, at most `LARGEST_TIMES`; larger ones than have room are reduced. A
    place without a picture stays empty, framed where a caption says what is missing.

    Raises:
        DataError: a picture cannot be read.
    """
    keys = [tile.picture for row in grid.rows for tile in row.tiles if tile.picture is not None]
    pictures = {key: Image.fromarray(report.picture(key)) for key in dict.fromkeys(keys)}
    frame = _frame(grid, [max(picture.size) for picture in pictures.values()])
    shown = {key: _fitted(picture, frame.side) for key, picture in pictures.items()}
    title = _wrapped(grid.title, _TITLE_PX, frame.width - 2 * _MARGIN)
    note = _wrapped(grid.note, _TEXT_PX, frame.width - 2 * _MARGIN)
    heads = [_wrapped(head, _HEAD_PX, frame.side) for head in grid.columns]
    heads_px = _lines_px(_HEAD_PX, max(map(len, heads), default=0))
    heads_top = _MARGIN + _lines_px(_TITLE_PX, len(title)) + _GAP
    rows = [_laid_out(row, frame) for row in grid.rows]
    note_top = heads_top + heads_px + _HEAD_GAP + sum(row.height + _ROW_GAP for row in rows)
    height = note_top + _lines_px(_TEXT_PX, len(note)) + _MARGIN
    sheet = Image.new("RGB", (frame.width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, title, (_MARGIN, _MARGIN), _TITLE_PX, _INK)
    for index, lines in enumerate(heads):
        # Standing on the pictures, not hanging from above.
        above = heads_top + heads_px - _lines_px(_HEAD_PX, len(lines))
        _write(draw, lines, (frame.column(index), above), _HEAD_PX, _INK)
    top = heads_top + heads_px + _HEAD_GAP
    for row in rows:
        _write(draw, row.label, (_MARGIN, top + row.label_top), _HEAD_PX, _INK)
        for index, (tile, caption) in enumerate(zip(row.tiles, row.captions, strict=True)):
            left = frame.column(index)
            _paste(sheet, draw, tile, shown, (left, top), frame.side)
            _write(draw, caption, (left, top + frame.side + _CAPTION_GAP), _TEXT_PX, _SOFT)
        top += row.height + _ROW_GAP
    _write(draw, note, (_MARGIN, note_top), _TEXT_PX, _SOFT)
    return np.array(sheet)


@dataclass(frozen=True)
class _LaidOut:
    """A row with its words in lines: its label beside the middle of its pictures, unless that is too long."""

    tiles: tuple[Tile, ...]
    label: list[str]
    label_top: int
    captions: list[list[str]]
    height: int


def _laid_out(row: GridRow, frame: _Frame) -> _LaidOut:
    label = _wrapped(row.label, _HEAD_PX, _LABEL_WIDE)
    captions = [_wrapped(tile.caption, _TEXT_PX, frame.side) for tile in row.tiles]
    label_px = _lines_px(_HEAD_PX, len(label))
    tiles_px = frame.side + _lines_px(_TEXT_PX, max(map(len, captions), default=0))
    return _LaidOut(row.tiles, label, max(0, (frame.side - label_px) // 2), captions, max(tiles_px, label_px))


def _frame(grid: Grid, sides: list[int]) -> _Frame:
    across = max(1, grid.width)
    labels = [line for row in grid.rows for line in _wrapped(row.label, _HEAD_PX, _LABEL_WIDE)]
    left = _MARGIN
    if labels:
        left += round(max(_font(_HEAD_PX).getlength(line) for line in labels)) + _LABEL_GAP
    room = (WIDEST_PX - left - _MARGIN - (across - 1) * _GAP) // across
    side = max(sides, default=128)
    side = room if side > room else side * min(LARGEST_TIMES, room // side)
    width = left + across * side + (across - 1) * _GAP + _MARGIN
    return _Frame(side, left, max(width, _NARROWEST))


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    """As large as fits into a square of `side`."""
    times = side // max(picture.size)
    if times >= 1:
        # Smooth: squares of single pixels would be the first thing one sees of a photograph of 128 pixels.
        return picture.resize((picture.width * times, picture.height * times), Image.Resampling.BICUBIC)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _paste(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    tile: Tile,
    shown: dict[str, Image.Image],
    place: tuple[int, int],
    side: int,
) -> None:
    if tile.picture is not None:
        picture = shown[tile.picture]
        left, top = place[0] + (side - picture.width) // 2, place[1] + (side - picture.height) // 2
        sheet.paste(picture, (left, top))
    elif tile.caption:
        draw.rectangle((*place, place[0] + side - 1, place[1] + side - 1), outline=_RULE)


def _write(
    draw: ImageDraw.ImageDraw,
    lines: list[str],
    place: tuple[int, int],
    size_px: int,
    colour: tuple[int, int, int],
) -> None:
    for number, line in enumerate(lines):
        draw.text((place[0], place[1] + _lines_px(size_px, number)), line, font=_font(size_px), fill=colour)


def _lines_px(size_px: int, lines: int) -> int:
    return lines * round(size_px * 1.3)


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _wrapped(text: str, size_px: int, width_px: int) -> list[str]:
    """The whole text in lines of `width_px`; words too long for a line are broken."""
    font = _font(size_px)
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if line and font.getlength(longer) > width_px:
            lines.append(line)
            longer = word
        while len(longer) > 1 and font.getlength(longer) > width_px:
            fits = _fitting(longer, font, width_px)
            lines.append(longer[:fits])
            longer = longer[fits:]
        line = longer
    return [*lines, line] if line else lines


def _fitting(word: str, font: ImageFont.FreeTypeFont, width_px: int) -> int:
    """How many of a word's letters fit into a line; at least one."""
    count = 1
    while count < len(word) and font.getlength(word[: count + 1]) <= width_px:
        count += 1
    return count
