"""A report's curves as charts: small multiples of raw values, smoothed curves and their bands."""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from conceptloom.errors import DataError
from conceptloom.evaluation.report import Curves, Line, Panel
from conceptloom.evaluation.statistics import smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d")
"""Those of Okabe and Ito (2008), which colour-blind readers tell apart; no yellow, too faint on white; softer black."""

INK, SOFT, RULE = "#1d1f24", "#5c616b", "#e3e4e8"
DASHES = (0, (5, 2))
DPI = 150

# Inches, from the figure's top left corner.
WIDE, NARROW = 10.4, 3.8
_PANEL_LEAST, _PANEL_MOST, _PANEL_HIGH = 2.6, 3.9, 2.2
_PANEL_TITLE, _PANEL_TITLE_LINE, _PANEL_FOOT = 0.27, 0.16, 0.5
_LEFT, _RIGHT, _BETWEEN = 0.56, 0.32, 0.42
_MARGIN, _TITLE_LINE, _LEGEND_LINE, _LINE = 0.1, 0.22, 0.2, 0.175
_POINTS, _PANEL_TITLE_POINTS, _TITLE_POINTS = 8.5, 9.5, 11.5
_LETTER = 0.57 * _POINTS / 72
"""Mean width of a letter."""
_LONGEST_LINE = 150
"""Letters."""


def require_matplotlib() -> None:
    """Refuse to begin what could not be drawn.

    Raises:
        DataError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise DataError("drawing a report needs matplotlib: install conceptloom with its extra 'evaluate'")


def line_colours(curves: Iterable[Curves]) -> dict[str, str]:
    """A colour per label, the same in all of the charts, in order of first appearance.

    A colour comes again only when all are used, and then, as long as there are enough, not in the same chart.
    """
    colours: dict[str, str] = {}
    for one in curves:
        labels = dict.fromkeys(line.label for panel in one.panels for line in panel.lines)
        for label in (label for label in labels if label not in colours):
            near = {colours[other] for other in labels if other in colours}
            times = Counter(colours.values())
            colours[label] = min(LINE_COLOURS, key=lambda colour: (colour in near, times[colour]))
    return colours


def draw_curves(
    curves: Curves, colours: Mapping[str, str], most: float = WIDE, *, heading: bool = True
) -> Figure:
    """The panels, as many side by side as fit: each line's raw values thin, their 95 % band, and the smoothed curve.

    A flat line is dashed, and its interval stands at its right end. The y axis, the same in all panels, goes from 0 to
    1 unless values or intervals lie outside. What lines, bands and bars mean is said beneath.

    Args:
        curves: what is drawn; `curves.window` values are averaged by `smooth`.
        colours: of every label; see `line_colours`.
        most: inches that it may be wide: `WIDE` has room for three panels in a row, `NARROW` for one.
        heading: whether title and note are drawn too, for a chart that stands alone.

    Raises:
        DataError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_style()):
        handles = _handles(curves, colours)
        plan = _plan(curves, most, heading, [str(handle.get_label()) for handle in handles])
        figure = Figure((plan.width, plan.height), dpi=DPI)
        for number, text in enumerate(plan.title):
            place = plan.point(_MARGIN, _MARGIN + number * _TITLE_LINE)
            figure.text(*place, text, va="top", size=_TITLE_POINTS, weight="bold")
        place = plan.point(_MARGIN, plan.legend_top)
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=place, ncols=plan.legend_columns)
        for index, panel in enumerate(curves.panels):
            axes = figure.add_axes(plan.panel(index))
            _draw_panel(axes, panel, curves.window, colours)
            axes.set_title("\n".join(plan.panel_titles[index]), loc="left")
            begins_a_row = index % plan.across == 0
            axes.set(xlim=_x_ends(curves), ylim=_y_ends(curves), xlabel=curves.x_label)
            axes.set_ylabel(curves.y_label if begins_a_row else "")
            axes.tick_params(labelleft=begins_a_row)
            if _y_ends(curves)[0] < 0:
                axes.axhline(0, color=SOFT, linewidth=0.7, zorder=1, clip_on=False)
        for number, text in enumerate(plan.foot):
            place = plan.point(_MARGIN, plan.height - _MARGIN - (len(plan.foot) - number) * _LINE)
            figure.text(*place, text, va="top", color=SOFT)
    return figure


def reading_key(curves: Curves) -> str:
    """What the marks of a chart mean, as far as it has them."""
    lines = [line for panel in curves.panels for line in panel.lines]
    moving = [line for line in lines if not line.is_flat]
    flat = [line for line in lines if line.is_flat]
    told = []
    if moving and curves.window > 1:
        told.append(
            f"Strong line: centred mean of {curves.window} values, fewer at the ends. Thin line: the values."
        )
    if any(line.low for line in moving):
        told.append("Band: 95 % interval of each value, not smoothed.")
    if flat:
        told.append("Dashed: one value throughout.")
    if any(line.low for line in flat):
        told.append("Bar at the right: its 95 % interval.")
    return " ".join(told)


def png_bytes(figure: Figure) -> bytes:
    """The chart as PNG; the same bytes for the same curves."""
    return _saved(figure, "png", ("Software",), _style())


def svg_text(figure: Figure) -> str:
    """The chart as SVG, its text as text; the same for the same curves."""
    about = ("Creator", "Date", "Format", "Type")
    return _saved(figure, "svg", about, {**_style(), "svg.hashsalt": "conceptloom"}).decode()


def _saved(figure: Figure, kind: str, left_out: tuple[str, ...], style: Any) -> bytes:
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(style):
        figure.savefig(buffer, format=kind, metadata=dict.fromkeys(left_out))
    return buffer.getvalue()


@dataclass(frozen=True)
class _Plan:
    """Where things are."""

    width: float
    height: float
    across: int
    panel_width: float
    panels_top: float
    panel_titles: list[list[str]]
    title: list[str]
    legend_top: float
    legend_columns: int
    foot: list[str]

    @property
    def head(self) -> float:
        """Height of the panels' titles."""
        return _PANEL_TITLE + (max(map(len, self.panel_titles), default=1) - 1) * _PANEL_TITLE_LINE

    def point(self, left: float, top: float) -> tuple[float, float]:
        """A place as matplotlib counts it: shares of the figure, upwards."""
        return left / self.width, 1 - top / self.height

    def panel(self, index: int) -> tuple[float, float, float, float]:
        row, column = divmod(index, self.across)
        left = _LEFT + column * (self.panel_width + _BETWEEN)
        top = self.panels_top + row * (self.head + _PANEL_HIGH + _PANEL_FOOT) + self.head
        size = self.panel_width / self.width, _PANEL_HIGH / self.height
        return *self.point(left, top + _PANEL_HIGH), *size


def _plan(curves: Curves, most: float, heading: bool, labels: list[str]) -> _Plan:
    fitting = int((most - _LEFT - _RIGHT + _BETWEEN) / (_PANEL_LEAST + _BETWEEN))
    across = max(1, min(fitting, len(curves.panels)))
    beside = _LEFT + _RIGHT + (across - 1) * _BETWEEN
    panel_width = min(_PANEL_MOST, (most - beside) / across)
    width = beside + across * panel_width
    letters = int((width - 2 * _MARGIN) / _LETTER)
    title, foot = [], textwrap.wrap(reading_key(curves), min(letters, _LONGEST_LINE))
    if heading:
        title = textwrap.wrap(curves.title, _letters(width - 2 * _MARGIN, _TITLE_POINTS))
        foot += textwrap.wrap(curves.note, min(letters, _LONGEST_LINE))
    longest = max(map(len, labels), default=1) * _LETTER + 0.6
    legend_columns = max(1, min(len(labels), int((width - 2 * _MARGIN) / longest)))
    legend_top = _MARGIN + len(title) * _TITLE_LINE + (0.06 if title else 0)
    panels_top = legend_top + -(-len(labels) // legend_columns) * _LEGEND_LINE
    down = -(-len(curves.panels) // across)
    heads = [
        textwrap.wrap(panel.title, _letters(panel_width, _PANEL_TITLE_POINTS)) for panel in curves.panels
    ]
    plan = _Plan(width, 0.0, across, panel_width, panels_top, heads, title, legend_top, legend_columns, foot)
    height = panels_top + down * (plan.head + _PANEL_HIGH + _PANEL_FOOT) + len(foot) * _LINE + _MARGIN
    return replace(plan, height=height)


def _letters(width: float, bold_points: float) -> int:
    """How many bold letters fit: they are wider than others."""
    return int(0.85 * width / _LETTER * _POINTS / bold_points)


def _draw_panel(axes: Axes, panel: Panel, window: int, colours: Mapping[str, str]) -> None:
    axes.grid(visible=True, axis="y")
    beside = 1.025
    for line in panel.lines:
        colour = colours[line.label]
        if line.is_flat:
            axes.plot(line.steps, line.mean, color=colour, linestyle=DASHES, linewidth=1.4)
            if line.low is not None:
                # Beside the axes, one after the other: bands would cover those of the curves.
                _draw_interval(axes, beside, line, colour, transform=axes.get_yaxis_transform())
                beside += 0.03
        elif len(line.steps) == 1:
            _draw_interval(axes, line.steps[0], line, colour)
        else:
            _draw_curve(axes, line, window, colour)
    # Nothing lies outside the axes but what is meant to.
    for artist in (*axes.lines, *axes.collections, *axes.get_xgridlines(), *axes.get_ygridlines()):
        artist.set_clip_on(False)
    if not panel.lines:
        axes.text(0.5, 0.5, "nothing measured", transform=axes.transAxes, ha="center", color=SOFT)


def _draw_curve(axes: Axes, line: Line, window: int, colour: str) -> None:
    if line.low is not None and line.high is not None:
        axes.fill_between(line.steps, line.low, line.high, color=colour, alpha=0.13, linewidth=0)
        for ends in (line.low, line.high):
            axes.plot(line.steps, ends, color=colour, alpha=0.4, linewidth=0.5)
    if window == 1:
        axes.plot(line.steps, line.mean, color=colour, linewidth=2)
        return
    axes.plot(line.steps, line.mean, color=colour, alpha=0.6, linewidth=0.8)
    axes.plot(line.steps, smooth(line.mean, window), color=colour, linewidth=2)


def _draw_interval(axes: Axes, x: float, line: Line, colour: str, **place: Any) -> None:
    if line.low is not None and line.high is not None:
        axes.plot([x, x], [line.low[0], line.high[0]], color=colour, linewidth=1.6, **place)
    axes.plot([x], [line.mean[0]], "o", color=colour, markersize=3.4, **place)


def _handles(curves: Curves, colours: Mapping[str, str]) -> list[Line2D]:
    """One sample of every label's line, as it looks where it comes first."""
    from matplotlib.lines import Line2D

    first: dict[str, Line] = {}
    for panel in curves.panels:
        for line in panel.lines:
            first.setdefault(line.label, line)
    return [
        Line2D(
            [],
            [],
            color=colours[label],
            label=label,
            linestyle=DASHES if line.is_flat else "-",
            linewidth=1.4 if line.is_flat else 1.9,
        )
        for label, line in first.items()
    ]


def _x_ends(curves: Curves) -> tuple[float, float]:
    steps = [step for panel in curves.panels for line in panel.lines for step in line.steps]
    first, last = min(steps, default=0), max(steps, default=1)
    return (first, last) if last > first else (first - 1, last + 1)


def _y_ends(curves: Curves) -> tuple[float, float]:
    values = [
        value
        for panel in curves.panels
        for line in panel.lines
        for ends in (line.mean, line.low, line.high)
        for value in ends or ()
    ]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    margin = 0.05 * (high - min(low, 0.0))
    return (0.0 if low >= 0 else low - margin), max(high, 0.0) + margin


def _style() -> Any:
    """The same on every machine: a user's own settings are left out."""
    from matplotlib import rcParamsDefault

    own = {
        "font.family": "DejaVu Sans",
        "font.size": _POINTS,
        "text.color": INK,
        "text.parse_math": False,
        "axes.edgecolor": SOFT,
        "axes.labelcolor": SOFT,
        "axes.labelsize": _POINTS,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": _PANEL_TITLE_POINTS,
        "axes.titleweight": "bold",
        "axes.titlecolor": INK,
        "axes.titlepad": 7,
        "axes.axisbelow": True,
        "grid.color": RULE,
        "grid.linewidth": 0.7,
        "legend.frameon": False,
        "legend.borderpad": 0,
        "legend.borderaxespad": 0,
        "legend.handlelength": 2.2,
        "legend.labelspacing": 0.35,
        "legend.columnspacing": 1.8,
        "lines.solid_capstyle": "butt",
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "xtick.major.size": 3,
        "ytick.major.size": 0,
        "svg.fonttype": "none",
    }
    return {name: value for name, value in rcParamsDefault.items() if name != "backend"} | own
