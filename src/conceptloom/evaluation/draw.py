"""Everything that a report shows, as files: one image a figure, and one page."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from conceptloom.evaluation.charts import draw_curves, line_colours, png_bytes, svg_text
from conceptloom.evaluation.grids import draw_grid
from conceptloom.evaluation.page import MARKS, render_page
from conceptloom.evaluation.report import Curves, Grid, Report
from conceptloom.pictures import write_png
from conceptloom.runs import write_bytes_atomic, write_text_atomic

_Figure = TypeVar("_Figure", Curves, Grid)

PAGE = "report.html"
FIGURES = "figures"


def draw_report(report: Report, folder: Path) -> list[Path]:
    """Draw figures and page into the folder, each file all or nothing; the same report gives the same bytes.

    Figures that stand alone carry title and note, and say so where they come from a smoke run or a partial one.

    Returns:
        What was written: ``figures/<key>.png`` and, of curves, ``.svg``; the page last.

    Raises:
        DataError: matplotlib is not installed, or a picture of the report cannot be read.
        OSError: the disk refuses.
    """
    page = render_page(report)
    figures, written = folder / FIGURES, []
    colours = line_colours(report.curves)
    for curves in report.curves:
        figure = draw_curves(_marked(curves, report), colours)
        for suffix, data in ((".png", png_bytes(figure)), (".svg", svg_text(figure).encode())):
            written.append(figures / f"{curves.key}{suffix}")
            write_bytes_atomic(written[-1], data)
    for grid in report.grids:
        written.append(figures / f"{grid.key}.png")
        write_png(written[-1], draw_grid(_marked(grid, report), report))
    written.append(folder / PAGE)
    write_text_atomic(written[-1], page)
    return written


def _marked(part: _Figure, report: Report) -> _Figure:
    mark = MARKS.get(report.kind)
    return part if mark is None else part.model_copy(update={"title": f"{part.title} ({mark.lower()})"})
