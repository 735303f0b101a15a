"""Pictures for people: masks laid over a picture, and sheets of labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation, binary_erosion

Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = (
    (230, 60, 60),
    (40, 130, 240),
    (60, 180, 75),
    (250, 170, 30),
    (160, 80, 220),
    (20, 185, 190),
    (240, 95, 180),
    (140, 105, 60),
)
"""One sRGB colour per concept, in order, then from the first again."""

_TINT = 0.42
_PAPER = (255, 255, 255)
_INK = (30, 32, 36)
_LABEL_LINES = 3


def overlay(
    pixels: npt.NDArray[np.uint8], masks: npt.NDArray[np.bool_], colours: Sequence[Colour] | None = None
) -> npt.NDArray[np.uint8]:
    """The picture (H, W, 3) with each mask of (K, H, W) tinted and outlined in its colour: uint8 (H, W, 3).

    The first ``COLOURS`` are used unless others are given, one a mask. The rest keeps its colours.
    """
    chosen = [COLOURS[index % len(COLOURS)] for index in range(len(masks))] if colours is None else colours
    assert masks.shape[1:] == pixels.shape[:2], f"masks {masks.shape} on a picture {pixels.shape}"
    assert len(chosen) == len(masks), f"{len(chosen)} colours for {len(masks)} masks"
    shown = pixels.astype(np.float32)
    for mask, colour in zip(masks, chosen, strict=True):
        shown[mask] = (1 - _TINT) * shown[mask] + _TINT * np.array(colour, dtype=np.float32)
    # Outlines after all tints, so that where masks overlap each stays readable.
    stroke_px = max(1, round(min(pixels.shape[:2]) / 192))
    for mask, colour in zip(masks, chosen, strict=True):
        inside = binary_erosion(mask, iterations=stroke_px, border_value=1)
        shown[mask & ~inside] = colour
        halo = binary_dilation(mask) & ~mask
        shown[halo] = 0.35 * shown[halo] + 0.65 * 255
    return np.rint(shown).astype(np.uint8)


def contact_sheet(
    images: Sequence[npt.NDArray[np.uint8]],
    columns: int,
    labels: Sequence[str] | None = None,
    pad_px: int = 10,
) -> npt.NDArray[np.uint8]:
    """Images (h, w, 3), row by row on white paper, each over its label: one image uint8 (H, W, 3).

    All cells are as large as the largest image; smaller ones are centred, none is resized. Labels wrap at the cell's
    width and are cut with an ellipsis after three lines.
    """
    assert images, "a contact sheet of no images"
    assert columns > 0, f"{columns} columns"
    assert labels is None or len(labels) == len(images), (
        f"{len(labels or ())} labels for {len(images)} images"
    )
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell_height = max(image.shape[0] for image in images)
    cell_width = max(image.shape[1] for image in images)
    font = _font(_font_size_px(cell_width))
    line_px = sum(font.getmetrics())
    wrapped = [_wrap(label, font, cell_width) for label in labels] if labels else []
    lines = max((len(text) for text in wrapped), default=0)
    label_px = lines * line_px + pad_px // 2 if lines else 0
    step_y, step_x = cell_height + label_px + pad_px, cell_width + pad_px
    sheet = Image.new("RGB", (columns * step_x + pad_px, rows * step_y + pad_px), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        top, left = pad_px + index // columns * step_y, pad_px + index % columns * step_x
        height, width, _ = image.shape
        place = (left + (cell_width - width) // 2, top + (cell_height - height) // 2)
        sheet.paste(Image.fromarray(np.ascontiguousarray(image)), place)
        for number, line in enumerate(wrapped[index] if wrapped else ()):
            where = (left + cell_width / 2, top + cell_height + pad_px // 2 + number * line_px)
            draw.text(where, line, font=font, fill=_INK, anchor="ma")
    return np.array(sheet)


def _font_size_px(cell_width: int) -> int:
    """About 20 characters a line, between what can be read and what would shout."""
    return min(max(round(cell_width / 11), 13), 22)


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _wrap(label: str, font: ImageFont.FreeTypeFont, width_px: int) -> list[str]:
    """The label in at most ``_LABEL_LINES`` lines of ``width_px``; words too long for a line are broken."""
    lines: list[str] = []
    line = ""
    for word in label.split():
        if line and font.getlength(f"{line} {word}") > width_px:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
        while font.getlength(line) > width_px and len(line) > 1:
            fits = next(
                n for n in range(len(line) - 1, 0, -1) if n == 1 or font.getlength(line[:n]) <= width_px
            )
            lines.append(line[:fits])
            line = line[fits:]
    lines.append(line)
    if len(lines) > _LABEL_LINES:
        last = lines[_LABEL_LINES - 1]
        while last and font.getlength(f"{last}…") > width_px:
            last = last[:-1]
        lines = [*lines[: _LABEL_LINES - 1], f"{last.rstrip()}…"]
    return lines
