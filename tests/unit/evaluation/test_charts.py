"""Charts draw the report's numbers, and nothing but those."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import conceptloom.evaluation.charts as charts
from conceptloom.errors import DataError
from conceptloom.evaluation.charts import (
    LINE_COLOURS,
    NARROW,
    WIDE,
    draw_curves,
    line_colours,
    png_bytes,
    reading_key,
    svg_text,
)
from conceptloom.evaluation.report import Curves, Line, Panel
from conceptloom.evaluation.statistics import smooth
from conceptloom.pictures.colour import rgb_to_lab
from report_fixture import figure_3, periods

FIGURE_3, PERIODS = figure_3(), periods()
RISING = Line(
    label="paper", steps=(0, 20, 40), mean=(0.1, 0.5, 0.3), low=(0.0, 0.4, 0.2), high=(0.2, 0.7, 0.6)
)
FLAT = Line(label="fixed", steps=(0, 40), mean=(0.4, 0.4), low=(0.3, 0.3), high=(0.45, 0.45))


def curves(*lines: Line, window: int = 3, panels: Sequence[Panel] = (), title: str = "title") -> Curves:
    return Curves(
        key="c",
        title=title,
        note="note",
        x_label="step",
        y_label="IoU",
        window=window,
        panels=tuple(panels) or (Panel(title="panel", lines=lines),),
    )


def drawn(one: Curves, most: float = WIDE, *, heading: bool = True) -> Figure:
    return draw_curves(one, line_colours([one]), most, heading=heading)


def lines_like(axes: Axes, values: Sequence[float] | npt.NDArray[np.float64]) -> list[Line2D]:
    """The drawn lines with these very heights."""
    wanted = np.asarray(values, float)
    heights = [(line, np.asarray(line.get_ydata(), float)) for line in axes.lines]
    return [line for line, y in heights if y.shape == wanted.shape and (y == wanted).all()]


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


# Numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", [FIGURE_3, PERIODS], ids=lambda one: one.key)
def test_every_raw_value_is_drawn_at_its_step(one: Curves) -> None:
    for axes, panel in zip(drawn(one).axes, one.panels, strict=True):
        for line in panel.lines:
            (raw,) = lines_like(axes, line.mean)
            assert tuple(np.asarray(raw.get_xdata())) == line.steps


@pytest.mark.parametrize("one", [FIGURE_3, PERIODS], ids=lambda one: one.key)
def test_the_strong_line_is_the_smoothed_curve(one: Curves) -> None:
    for axes, panel in zip(drawn(one).axes, one.panels, strict=True):
        for line in panel.lines:
            if not line.is_flat:
                (strong,) = lines_like(axes, smooth(line.mean, one.window))
                (raw,) = lines_like(axes, line.mean)
                assert strong.get_linewidth() > raw.get_linewidth()
                assert strong.get_alpha() is None
                assert raw.get_alpha() is not None
                assert raw.get_alpha() < 1


def test_the_band_has_the_reports_ends() -> None:
    (axes,) = drawn(curves(RISING)).axes
    (band,) = (found for found in axes.collections if isinstance(found, PolyCollection))
    outline = {(x, y) for x, y in band.get_paths()[0].vertices.tolist()}
    assert RISING.low is not None
    assert RISING.high is not None
    assert outline == {
        *zip(RISING.steps, RISING.low, strict=True),
        *zip(RISING.steps, RISING.high, strict=True),
    }


def test_a_line_without_a_band_has_none() -> None:
    alone = Line(label="one scene", steps=(0, 20, 40), mean=(0.1, 0.5, 0.3))
    (axes,) = drawn(curves(alone)).axes
    assert not axes.collections
    assert "Band" not in reading_key(curves(alone))


def test_a_flat_line_is_dashed_from_end_to_end_without_a_band() -> None:
    (axes,) = drawn(curves(FLAT)).axes
    (line,) = lines_like(axes, FLAT.mean)
    assert line.is_dashed()
    assert not axes.collections


def test_a_flat_lines_interval_stands_beside_the_axes() -> None:
    figure = drawn(curves(RISING, FLAT))
    (axes,) = figure.axes
    (bar,) = lines_like(axes, [0.3, 0.45])
    across = axes.transAxes.inverted().transform(bar.get_transform().transform([(bar.get_xdata()[0], 0.3)]))
    assert 1 < across[0, 0] < 1.1


def test_two_flat_lines_intervals_stand_side_by_side() -> None:
    other = Line(label="oracle", steps=(0, 40), mean=(0.4, 0.4), low=(0.31, 0.31), high=(0.46, 0.46))
    (axes,) = drawn(curves(FLAT, other)).axes
    (first,), (second,) = lines_like(axes, [0.3, 0.45]), lines_like(axes, [0.31, 0.46])
    assert second.get_xdata()[0] - first.get_xdata()[0] > 0.02


def test_a_single_step_is_a_dot_with_its_interval() -> None:
    one = Line(label="a", steps=(20,), mean=(0.5,), low=(0.4,), high=(0.7,))
    (axes,) = drawn(curves(one)).axes
    (dot,), (bar,) = lines_like(axes, [0.5]), lines_like(axes, [0.4, 0.7])
    assert dot.get_marker() == "o"
    assert tuple(bar.get_xdata()) == (20, 20)


def test_without_smoothing_a_curve_is_drawn_once() -> None:
    (axes,) = drawn(curves(RISING, window=1)).axes
    assert len(lines_like(axes, RISING.mean)) == 1
    assert "mean of" not in reading_key(curves(RISING, window=1))


# Axes -------------------------------------------------------------------------------------------------------------


def test_shares_are_drawn_from_0_to_1() -> None:
    assert all(axes.get_ylim() == (0.0, 1.0) for axes in drawn(FIGURE_3).axes)


@pytest.mark.parametrize(
    ("low", "mean", "high"), [(0.2, 0.9, 1.2), (-0.3, 0.1, 0.2), (-0.9, -0.5, -0.2), (3.0, 5.0, 900.0)]
)
def test_other_values_are_all_within_the_axes_and_so_is_0(low: float, mean: float, high: float) -> None:
    line = Line(label="a", steps=(0, 1, 2), mean=(mean,) * 3, low=(low,) * 3, high=(high,) * 3)
    (axes,) = drawn(curves(line)).axes
    bottom, top = axes.get_ylim()
    assert bottom <= min(low, 0) < max(high, 0) <= top


def test_an_axis_that_does_not_need_to_go_below_0_begins_there() -> None:
    (axes,) = drawn(PERIODS).axes
    assert axes.get_ylim()[0] == 0


def test_all_panels_have_the_same_axes() -> None:
    figure = drawn(curves(panels=[Panel(title="a", lines=(RISING,)), Panel(title="b", lines=(FLAT,))]))
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim() == (0, 40)
    assert first.get_ylim() == second.get_ylim()


def test_three_panels_stand_side_by_side_in_a_wide_chart() -> None:
    places = [axes.get_position() for axes in drawn(FIGURE_3).axes]
    assert len({place.y0 for place in places}) == 1
    assert places[0].x1 < places[1].x0 < places[1].x1 < places[2].x0


def test_three_panels_stand_one_above_the_other_in_a_narrow_chart() -> None:
    places = [axes.get_position() for axes in drawn(FIGURE_3, NARROW).axes]
    assert len({place.x0 for place in places}) == 1
    assert places[0].y0 > places[1].y1
    assert places[1].y0 > places[2].y1


@pytest.mark.parametrize("most", [WIDE, NARROW])
@pytest.mark.parametrize("one", [FIGURE_3, PERIODS], ids=lambda one: one.key)
def test_no_text_leaves_the_figure(one: Curves, most: float) -> None:
    figure = drawn(one, most)
    png_bytes(figure)  # lays it out
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [*figure.texts, *figure.legends[0].get_texts(), *(axes.title for axes in figure.axes)]
    for text in texts:
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0, text.get_text()
        assert box.x1 <= figure.bbox.width, text.get_text()
        assert box.y0 >= 0, text.get_text()
        assert box.y1 <= figure.bbox.height, text.get_text()


def test_a_panel_without_lines_says_so() -> None:
    (axes,) = drawn(curves(panels=[Panel(title="empty", lines=())])).axes
    assert [text.get_text() for text in axes.texts] == ["nothing measured"]


def test_curves_without_panels_can_be_drawn() -> None:
    nothing = FIGURE_3.model_copy(update={"panels": ()})
    assert not drawn(nothing).axes


# Colours ----------------------------------------------------------------------------------------------------------


def test_a_label_has_one_colour_in_all_charts() -> None:
    other = curves(FLAT, RISING)
    colours = line_colours([FIGURE_3, other])
    for one in (FIGURE_3, other):
        for axes, panel in zip(draw_curves(one, colours).axes, one.panels, strict=True):
            for line in panel.lines:
                assert {to_hex(found.get_color()) for found in lines_like(axes, line.mean)} == {
                    colours[line.label]
                }


def test_lines_of_one_chart_differ_in_colour() -> None:
    colours = line_colours([FIGURE_3, PERIODS])
    for one in (FIGURE_3, PERIODS):
        labels = {line.label for panel in one.panels for line in panel.lines}
        assert len({colours[label] for label in labels}) == len(labels)


def test_a_new_charts_labels_avoid_the_colours_it_shares() -> None:
    many = [Line(label=str(index), steps=(0, 1), mean=(0.0, 1.0)) for index in range(7)]
    fresh = [Line(label=f"new {index}", steps=(0, 1), mean=(0.0, 1.0)) for index in range(6)]
    charted = [curves(*many), curves(many[0], *fresh)]
    colours = line_colours(charted)
    assert len({colours[line.label] for line in (many[0], *fresh)}) == 7


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)


@pytest.mark.parametrize("sight", [np.eye(3), PROTANOPIA, DEUTERANOPIA], ids=["all", "protan", "deutan"])
def test_colour_blind_readers_can_tell_the_colours_apart(sight: npt.NDArray[np.float64]) -> None:
    rgb = np.array([to_rgb(colour) for colour in LINE_COLOURS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ sight.T, 0, 1)
    coded = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = rgb_to_lab(np.rint(255 * coded[None]).astype(np.uint8))[0]
    assert (
        min(float(np.linalg.norm(a - b)) for a, b in combinations(lab, 2)) > 15
    )  # CIE76; 2.3 can just be seen


# Words ------------------------------------------------------------------------------------------------------------


def test_the_chart_itself_says_window_and_band() -> None:
    said = words(drawn(FIGURE_3, heading=False))
    assert "centred mean of 5 values" in said
    assert "95 % interval" in said


def test_a_chart_that_stands_alone_carries_title_and_note() -> None:
    assert FIGURE_3.title in words(drawn(FIGURE_3))
    assert FIGURE_3.note in words(drawn(FIGURE_3))
    assert FIGURE_3.title not in words(drawn(FIGURE_3, heading=False))


def test_the_legend_names_every_label_once() -> None:
    (legend,) = drawn(FIGURE_3).legends
    assert [text.get_text() for text in legend.get_texts()] == ["paper", "literal", "fixed", "oracle"]


def test_signs_of_formulas_are_drawn_as_they_are() -> None:
    odd = Line(label="$x_1^$ \\frac", steps=(0, 1), mean=(0.0, 1.0))
    svg = svg_text(drawn(curves(odd, title="$a$ \\alpha")))
    assert "$x_1^$ \\frac" in svg
    assert "$a$ \\alpha" in svg


def test_markup_in_words_is_escaped() -> None:
    evil = "--></text><script>alert(1)</script>"
    line = Line(label=evil, steps=(0, 1), mean=(0.0, 1.0))
    one = Curves(
        key="c",
        title=evil,
        note=evil,
        x_label=evil,
        y_label=evil,
        window=1,
        panels=(Panel(title=evil, lines=(line,)),),
    )
    assert "<script" not in svg_text(drawn(one))


# Files ------------------------------------------------------------------------------------------------------------


def test_drawing_twice_gives_the_same_bytes() -> None:
    assert png_bytes(drawn(FIGURE_3)) == png_bytes(drawn(FIGURE_3))
    assert svg_text(drawn(FIGURE_3)) == svg_text(drawn(FIGURE_3))


def test_a_users_own_settings_change_nothing() -> None:
    plain = svg_text(drawn(FIGURE_3))
    with rc_context(
        {"lines.linewidth": 9, "font.size": 30, "axes.facecolor": "black", "svg.fonttype": "path"}
    ):
        assert svg_text(drawn(FIGURE_3)) == plain


def test_drawing_leaves_the_users_settings_alone() -> None:
    before = dict(rcParams)
    png_bytes(drawn(FIGURE_3))
    assert dict(rcParams) == before


def test_an_svg_needs_nothing_from_outside() -> None:
    svg = svg_text(drawn(FIGURE_3))
    assert "url(" not in svg
    assert "<image" not in svg
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', svg))


def test_without_matplotlib_the_advice_is_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="extra 'evaluate'"):
        drawn(FIGURE_3)
