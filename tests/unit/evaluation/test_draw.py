"""A report as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import conceptloom.evaluation.charts as charts
from conceptloom.errors import DataError
from conceptloom.evaluation.draw import draw_report
from conceptloom.evaluation.grids import draw_grid
from conceptloom.evaluation.page import render_page
from conceptloom.evaluation.report import load_report, save_report
from report_fixture import sample_report


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a drawn report and nothing else."""
    folder = tmp_path_factory.mktemp("drawn") / "new"
    written = draw_report(sample_report(), folder)
    assert set(written) == {path for path in folder.parent.rglob("*") if path.is_file()}
    return folder


def test_every_figure_and_the_page_are_written(drawn: Path) -> None:
    assert sorted(contents(drawn)) == [
        "figures/figure-2.png",
        "figures/figure-3.png",
        "figures/figure-3.svg",
        "figures/figure-4.png",
        "figures/figure-9.png",
        "figures/periods.png",
        "figures/periods.svg",
        "report.html",
    ]


def test_drawing_what_was_saved_gives_the_same_bytes(drawn: Path, tmp_path: Path) -> None:
    save_report(sample_report(), tmp_path / "report.json")
    draw_report(load_report(tmp_path / "report.json"), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(drawn)


def test_the_files_hold_the_page_and_the_grids(drawn: Path) -> None:
    report = sample_report()
    assert (drawn / "report.html").read_text(encoding="utf-8") == render_page(report)
    for grid in report.grids:
        with Image.open(drawn / "figures" / f"{grid.key}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), draw_grid(grid, report))


def test_charts_can_be_read_at_their_size(drawn: Path) -> None:
    with Image.open(drawn / "figures" / "figure-3.png") as image:
        assert image.size[0] == 1560


def test_every_figure_of_a_smoke_run_is_marked(drawn: Path, tmp_path: Path) -> None:
    draw_report(sample_report().model_copy(update={"kind": "smoke"}), tmp_path)
    assert "smoke run, not evidence" in (tmp_path / "figures" / "figure-3.svg").read_text(encoding="utf-8")
    assert "smoke run" not in (drawn / "figures" / "figure-3.svg").read_text(encoding="utf-8")
    evidence, smoke = contents(drawn), contents(tmp_path)
    assert all(evidence[name] != smoke[name] for name in evidence)


def test_figures_of_an_unfinished_evaluation_are_marked(tmp_path: Path) -> None:
    draw_report(sample_report().model_copy(update={"kind": "partial", "grids": ()}), tmp_path)
    figure = (tmp_path / "figures" / "figure-3.svg").read_text(encoding="utf-8")
    assert "partial, runs are missing" in figure


def test_without_matplotlib_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="extra 'evaluate'"):
        draw_report(sample_report(), tmp_path / "new")
    assert not (tmp_path / "new").exists()
