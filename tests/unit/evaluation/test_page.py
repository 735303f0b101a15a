"""The page shows every number and every word of a report, and needs nothing else."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import pytest

import conceptloom.evaluation.charts as charts
from conceptloom.errors import DataError
from conceptloom.evaluation.page import PARTIAL, SMOKE, decimals_for, number_text, render_page
from conceptloom.evaluation.report import Entry, Measured, Report, Row, Table
from report_fixture import plain_report, sample_report

EVIL = "\"'><script>alert('x')</script>&<img src=http://evil.example/x onerror=alert(1)>"
MINUS = "\N{MINUS SIGN}"
DASH = "–"
VOID = {"meta", "img"}


@dataclass
class Node:
    """An element of a page."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Node | str] = field(default_factory=list)

    def all(self, tag: str) -> Iterator[Node]:
        for child in self.children:
            if isinstance(child, Node):
                if child.tag == tag:
                    yield child
                yield from child.all(tag)

    def everything(self) -> Iterator[Node]:
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.everything()

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def has_class(self, name: str) -> bool:
        return name in (self.attributes.get("class") or "").split()


class Parser(HTMLParser):
    """Refuses elements that end out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        assert len(node.attributes) == len(attrs), f"an attribute of <{tag}> comes twice"
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> ends <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parsed(page: str) -> Node:
    parser = Parser()
    parser.feed(page)
    parser.close()
    assert len(parser.open) == 1, f"<{parser.open[-1].tag}> never ends"
    return parser.root


def page_of(*cells: Entry, more: tuple[Entry, ...] = ()) -> str:
    """A page of one table of one column; a row per cell."""
    rows = tuple(Row(label=f"row {index}", cells=(cell,)) for index, cell in enumerate((*cells, *more)))
    return render_page(plain_report(tables=(Table(key="t", title="", note="", columns=("c",), rows=rows),)))


def shown_cells(page: str) -> list[list[Node]]:
    """The cells of every row of the only table."""
    (table,) = parsed(page).all("table")
    (body,) = table.all("tbody")
    return [list(row.all("td")) for row in body.all("tr")]


@pytest.fixture(scope="module")
def report() -> Report:
    return sample_report()


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render_page(report)


@pytest.fixture(scope="module")
def tree(page: str) -> Node:
    return parsed(page)


# Numbers ----------------------------------------------------------------------------------------------------------


def read(text: str) -> float:
    return float(text.replace(MINUS, "-"))


def half_a_digit(text: str) -> float:
    return 0.5000001 * 10.0 ** -len(text.partition(".")[2])


def test_every_number_of_every_table_is_in_its_cell(report: Report, tree: Node) -> None:
    tables = [table for table in tree.all("table") if table.has_class("data")]
    seen = 0
    for table, shown in zip(report.tables, tables, strict=True):
        (body,) = shown.all("tbody")
        for row, shown_row in zip(table.rows, body.all("tr"), strict=True):
            assert [head.text for head in shown_row.all("th")] == [row.label]
            texts = [cell.text for cell in shown_row.all("td")]
            for entry in row.cells:
                value = texts.pop(0)
                # The second half of a column with intervals.
                interval = texts.pop(0) if texts and (texts[0] == "" or texts[0].startswith("[")) else ""
                if isinstance(entry, Measured):
                    assert entry.value is not None
                    assert abs(read(value) - entry.value) <= half_a_digit(value)
                    ends = re.findall(rf"[{MINUS}\d.]+", interval)
                    assert len(ends) == (0 if entry.low is None else 2)
                    for end, text in zip((entry.low, entry.high), ends, strict=False):
                        assert end is not None
                        assert abs(read(text) - end) <= half_a_digit(text)
                        seen += 1
                else:
                    assert value == (DASH if entry is None else str(entry))
                seen += 1
            assert not texts
    assert seen > 200


def test_an_estimate_is_bold_and_its_interval_stands_beside_it() -> None:
    ((value, interval), _) = shown_cells(page_of(Measured(value=0.4378, low=0.3451, high=0.535), more=(1,)))
    assert [bold.text for bold in value.all("b")] == ["0.438"]
    assert interval.text == "[0.345, 0.535]"


def test_an_estimate_without_an_interval_has_nothing_beside_it() -> None:
    cells = shown_cells(page_of(Measured(value=0.2), Measured(value=0.4, low=0.3, high=0.5)))
    assert [cell.text for cell in cells[0]] == ["0.200", ""]


@pytest.mark.parametrize("nothing", [None, Measured(value=None)])
def test_nothing_is_a_dash_and_no_more(nothing: Entry) -> None:
    cells = shown_cells(page_of(nothing, Measured(value=0.4, low=0.3, high=0.5)))
    assert [cell.text for cell in cells[0]] == [DASH, ""]
    assert not any(list(cell.all("svg")) for cell in cells[0])


def test_numbers_end_at_the_right_and_words_begin_at_the_left() -> None:
    assert all(
        cell.has_class("number") for (cell,) in shown_cells(page_of(3, "0.13", "12 %", "<0.001", None))
    )
    assert all(cell.has_class("text") for (cell,) in shown_cells(page_of("11 people", None)))


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.4378, 3, "0.438"),
        (-0.0934, 3, f"{MINUS}0.093"),
        (0.0, 3, "0.000"),
        (-0.0, 3, "0.000"),
        (1e-17, 3, "0.000"),
        (0.0004, 3, "0.0004"),
        (-0.0004, 3, f"{MINUS}0.0004"),
        (0.0005001, 3, "0.001"),
        (71.84, 1, "71.8"),
        (1234.5, 0, "1234"),
        (0, 0, "0"),
        (-7, 0, f"{MINUS}7"),
    ],
)
def test_a_number_is_rounded_without_hiding_that_it_is_not_0(value: float, decimals: int, text: str) -> None:
    assert number_text(value, decimals) == text


@pytest.mark.parametrize(
    ("values", "decimals"), [((), 3), ((0.1, -9.99), 3), ((0.1, 10.0), 1), ((-250.0,), 1), ((1000.0, 0.1), 0)]
)
def test_what_stands_under_each_other_has_as_many_decimals(values: tuple[float, ...], decimals: int) -> None:
    assert decimals_for(values) == decimals


# Bars -------------------------------------------------------------------------------------------------------------


def bars(page: str) -> list[dict[str, str]]:
    """Of every bar its paths, by class."""
    return [
        {path.attributes["class"] or "": path.attributes["d"] or "" for path in svg.all("path")}
        for svg in parsed(page).all("svg")
    ]


def test_a_bar_draws_its_interval_from_0_to_1() -> None:
    first, second = bars(
        page_of(Measured(value=0.5, low=0.25, high=0.75), Measured(value=1.0, low=0.0, high=1.0))
    )
    assert first == {"axis": "M1 4H99", "zero": "M1.0 0V8", "range": "M25.5 4H74.5", "value": "M50.0 0V8"}
    assert second["range"] == "M1.0 4H99.0"


def test_bars_of_differences_share_a_scale_with_a_tick_at_0() -> None:
    first, second = bars(
        page_of(Measured(value=-0.1, low=-0.2, high=0.0), Measured(value=0.1, low=0.05, high=0.2))
    )
    assert first["zero"] == second["zero"] == "M50.0 0V8"
    assert first["range"] == "M1.0 4H50.0"
    assert second["value"] == "M74.5 0V8"


def test_bars_of_percentages_begin_at_0() -> None:
    first, second = bars(
        page_of(Measured(value=40.0, low=20.0, high=60.0), Measured(value=60.0, low=50.0, high=80.0))
    )
    assert first["zero"] == "M1.0 0V8"
    assert first["range"] == "M25.5 4H74.5"
    assert second["range"].endswith("H99.0")


def test_an_estimate_outside_its_interval_or_without_one_counts_for_the_scale() -> None:
    first, second = bars(
        page_of(
            Measured(value=-5.0, low=-1.0, high=0.0),
            Measured(value=0.0, low=0.0, high=1.0),
            Measured(value=5.0),
        )
    )
    assert first["value"] == "M1.0 0V8"
    assert second["range"] == "M50.0 4H59.8"


def test_a_single_interval_has_no_bar() -> None:
    assert bars(page_of(Measured(value=0.5, low=0.25, high=0.75), Measured(value=0.1))) == []


# Folded tables ----------------------------------------------------------------------------------------------------


def test_a_folded_table_is_whole_behind_a_line_that_counts_its_rows() -> None:
    cells = (Measured(value=0.5, low=0.25, high=0.75), Measured(value=0.1, low=0.0, high=0.2))
    rows = tuple(Row(label=f"row {index}", cells=(cell,)) for index, cell in enumerate(cells))
    table = Table(key="t", title="", note="", columns=("c",), rows=rows, folded=True)
    page = render_page(plain_report(tables=(table,)))
    (folded,) = parsed(page).all("details")
    (line,) = folded.all("summary")
    assert line.text == "2 rows"
    assert [[cell.text for cell in row] for row in shown_cells(page)] == [
        ["0.500", "[0.250, 0.750]"],
        ["0.100", "[0.000, 0.200]"],
    ]
    assert bars(page) == []


def test_other_tables_are_open(tree: Node) -> None:
    assert not list(tree.all("details"))


# Words ------------------------------------------------------------------------------------------------------------


WORDS = {"title", "note", "label", "caption", "x_label", "y_label"}


def poisoned(value: Any, name: str = "") -> Any:
    """A report's data with every text that is shown replaced by markup."""
    if isinstance(value, dict):
        if name == "facts":
            return {f"{EVIL} {key}": EVIL for key in value}
        return {key: poisoned(one, key) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [poisoned(one, name) for one in value]
    return EVIL if isinstance(value, str) and (name in WORDS or name in ("columns", "cells")) else value


@pytest.fixture(scope="module")
def poisoned_page(report: Report) -> str:
    return render_page(Report.model_validate(poisoned(report.model_dump())))


def test_no_text_of_a_report_becomes_markup(poisoned_page: str) -> None:
    assert "<script" not in poisoned_page
    assert "<img src=http" not in poisoned_page
    for node in parsed(poisoned_page).everything():
        assert node.tag not in ("script", "iframe", "object", "embed", "link", "base")
        assert not any(name.startswith("on") for name in node.attributes)


def test_text_that_looks_like_markup_is_shown_as_it_is(report: Report, poisoned_page: str) -> None:
    tree = parsed(poisoned_page)
    (heading,) = tree.all("h1")
    assert heading.text == EVIL
    assert [part.text for part in tree.all("h3")] == [EVIL] * 10
    assert [fact.text for fact in tree.all("dd")] == [EVIL] * len(report.facts)
    rows = [head for head in tree.all("th") if head.attributes.get("scope") == "row"]
    assert {row.text for row in rows} == {EVIL}
    alternatives = {image.attributes["alt"] for image in tree.all("img")}
    assert alternatives == {EVIL}


def test_every_word_of_a_report_is_on_the_page(report: Report, page: str) -> None:
    text = html.unescape(page).replace("\N{NO-BREAK SPACE}", " ")

    def words(value: Any, name: str = "") -> Iterator[str]:
        if isinstance(value, dict):
            for key, one in value.items():
                if name == "facts":
                    yield key
                yield from words(one, "fact" if name == "facts" else key)
        elif isinstance(value, tuple | list):
            for one in value:
                yield from words(one, name)
        elif isinstance(value, str) and (name in WORDS or name in ("columns", "cells", "fact")):
            yield value

    told = list(words(report.model_dump()))
    assert len(told) > 200
    assert [word for word in told if word not in text] == []


def test_a_percent_sign_stays_with_its_number() -> None:
    table = Table(key="t", title="", note="95 % intervals", columns=(), rows=())
    assert "95&nbsp;% intervals" in render_page(plain_report(tables=(table,)))


# The page ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["page", "poisoned_page"])
def test_the_page_needs_nothing_from_outside(which: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(which)
    assert "@import" not in text
    assert "url(" not in text
    for node in parsed(text).everything():
        for name, value in node.attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                assert re.match(r"#|data:image/webp;base64,", value or ""), (node.tag, name)


def test_the_browser_is_told_to_fetch_nothing(tree: Node) -> None:
    policies = [
        meta.attributes["content"]
        for meta in tree.all("meta")
        if meta.attributes.get("http-equiv") is not None
    ]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_only_a_smoke_run_says_that_it_is_no_evidence(report: Report, page: str) -> None:
    smoke = render_page(report.model_copy(update={"kind": "smoke"}))
    (main,) = parsed(smoke).all("main")
    first = main.children[0]
    assert isinstance(first, Node)
    assert first.has_class("smoke")
    assert SMOKE.lower() == "smoke run, not evidence"
    assert SMOKE in first.text
    assert SMOKE not in page


def test_a_report_of_an_unfinished_evaluation_says_so_first(report: Report, page: str) -> None:
    (main,) = parsed(render_page(report.model_copy(update={"kind": "partial"}))).all("main")
    first = main.children[0]
    assert isinstance(first, Node)
    assert PARTIAL in first.text
    assert PARTIAL not in page


def test_contents_lead_to_every_part_and_no_id_comes_twice(report: Report, tree: Node) -> None:
    ids = [node.attributes["id"] for node in tree.everything() if "id" in node.attributes]
    assert len(set(ids)) == len(ids)
    (contents,) = tree.all("nav")
    targets = [(link.attributes["href"] or "").removeprefix("#") for link in contents.all("a")]
    assert targets == [
        *(part.key for parts in (report.tables, report.curves, report.grids) for part in parts),
        "facts",
    ]
    assert set(targets) <= set(ids)


def test_links_within_charts_lead_to_their_own_marks(tree: Node) -> None:
    ids = {node.attributes["id"] for node in tree.everything() if "id" in node.attributes}
    links = [
        node.attributes["xlink:href"] or "" for node in tree.everything() if "xlink:href" in node.attributes
    ]
    assert links
    assert {link.removeprefix("#") for link in links} <= ids


def test_a_key_with_spaces_and_letters_of_any_language_can_be_linked_to() -> None:
    table = Table(key="seeds-Mein süßer Hund", title="", note="", columns=(), rows=())
    tree = parsed(render_page(plain_report(tables=(table,))))
    (article,) = tree.all("article")
    link = next(tree.all("a"))
    assert link.attributes["href"] == f"#{article.attributes['id']}"
    assert " " not in (article.attributes["id"] or "")


def test_every_tile_shows_its_picture_and_caption(report: Report, tree: Node) -> None:
    grids = [table for table in tree.all("table") if table.has_class("grid")]
    for grid, shown in zip(report.grids, grids, strict=True):
        (body,) = shown.all("tbody")
        for row, shown_row in zip(grid.rows, body.all("tr"), strict=True):
            cells = list(shown_row.all("td"))
            assert len(cells) == grid.width
            for tile, cell in zip(row.tiles, cells, strict=False):
                sources = [image.attributes["src"] for image in cell.all("img")]
                wanted = [] if tile.picture is None else [report.pictures[tile.picture]]
                assert sources == [f"data:image/webp;base64,{one}" for one in wanted]
                assert cell.text == tile.caption


def test_facts_come_last(report: Report, tree: Node) -> None:
    (main,) = tree.all("main")
    last = main.children[-1]
    assert isinstance(last, Node)
    assert last.attributes["id"] == "facts"
    names, values = ([node.text for node in last.all(tag)] for tag in ("dt", "dd"))
    assert dict(zip(names, values, strict=True)) == report.facts


def test_a_report_of_nothing_is_a_page_too() -> None:
    (heading,) = parsed(render_page(plain_report(title="Nothing"))).all("h1")
    assert heading.text == "Nothing"


def test_rendering_twice_gives_the_same_page(report: Report, page: str) -> None:
    assert render_page(report) == page


def test_without_matplotlib_the_advice_is_to_install_it(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="extra 'evaluate'"):
        render_page(report)
