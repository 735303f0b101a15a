"""A report as one HTML page that needs nothing else: tables with intervals, curves, grids of pictures, facts."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from conceptloom.evaluation.charts import NARROW, WIDE, draw_curves, line_colours, svg_text
from conceptloom.evaluation.report import Curves, Entry, Grid, Kind, Measured, Report, Table, Tile

SMOKE = "Smoke run, not evidence"
PARTIAL = "Partial, runs are missing"
MARKS: Mapping[Kind, str] = {"smoke": SMOKE, "partial": PARTIAL}
"""By which a report and its figures are known that are not all that was asked for."""
_MEANINGS: Mapping[Kind, str] = {
    "smoke": "It shows that all works; its numbers say nothing.",
    "partial": "It holds what is finished; the numbers change when the rest is.",
}
NOTHING = "–"
_MINUS = "\N{MINUS SIGN}"
_TINIEST = 1e-12
"""What is nearer to 0 is what rounding left."""
_NUMBER = re.compile(r"[-+<\N{MINUS SIGN}]?\s*[\d.,]+\s*%?")


@dataclass(frozen=True)
class _Section:
    """A part of the page under its heading."""

    anchor: str
    title: str
    body: str


def render_page(report: Report) -> str:
    """The whole page, with style, charts and pictures inside: it opens offline, from any folder.

    Raises:
        DataError: matplotlib is not installed.
    """
    colours = line_colours(report.curves)
    groups = [
        ("Tables", [_section(table, _table(table)) for table in report.tables]),
        ("Curves", [_section(curves, _charts(curves, colours)) for curves in report.curves]),
        ("Pictures", [_section(grid, _grid(grid, report.pictures)) for grid in report.grids]),
    ]
    groups = [(title, sections) for title, sections in groups if sections]
    mark, banner = MARKS.get(report.kind), ""
    if mark is not None:
        banner = f"<p class={report.kind} role=note><b>{mark}.</b> {_MEANINGS[report.kind]}</p>"
    contents = "".join(
        f"<div><h2>{title}</h2><ul>{''.join(_link(section) for section in sections)}</ul></div>"
        for title, sections in groups
    )
    contents += "<div><h2>Facts</h2><ul><li><a href='#facts'>How it was measured</a></li></ul></div>"
    parts = "".join(_group(title, sections) for title, sections in groups)
    facts = "".join(f"<dt>{_safe(name)}</dt><dd>{_safe(text)}</dd>" for name, text in report.facts.items())
    title = _safe(report.title)
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f'<meta http-equiv=Content-Security-Policy content="{_POLICY}">'
        f"<title>{title}{f' ({mark})' if mark else ''}</title><style>{_STYLE}</style></head><body><main>"
        f"{banner}<h1>{title}</h1><nav aria-label=Contents>{contents}</nav>{parts}"
        f"<section id=facts><h2>How it was measured</h2><dl>{facts}</dl></section></main></body></html>\n"
    )


def number_text(value: float, decimals: int) -> str:
    """A number for reading: a true minus; what rounds to zero and is not keeps one digit."""
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        text = f"{value:.1g}" if abs(value) > _TINIEST else f"{0:.{decimals}f}"
    return text.replace("-", _MINUS)


def decimals_for(values: Iterable[float]) -> int:
    """Digits after the point for numbers that stand under each other: three below 10, one below 1000, else none."""
    largest = max(map(abs, values), default=0.0)
    return 3 if largest < 10 else 1 if largest < 1000 else 0


# Parts of the page ------------------------------------------------------------------------------------------------


def _section(part: Table | Curves | Grid, body: str) -> _Section:
    return _Section(quote(part.key, safe=""), part.title, f"{body}<p class=note>{_prose(part.note)}</p>")


def _link(section: _Section) -> str:
    return f"<li><a href='#{section.anchor}'>{_safe(section.title)}</a></li>"


def _group(title: str, sections: Sequence[_Section]) -> str:
    told = _TABLES_KEY if title == "Tables" else ""
    inside = "".join(
        f"<article id='{section.anchor}'><h3>{_safe(section.title)}</h3>{section.body}</article>"
        for section in sections
    )
    return f"<section><h2>{title}</h2>{told}{inside}</section>"


def _table(table: Table) -> str:
    columns = list(zip(*(row.cells for row in table.rows), strict=True)) or [()] * len(table.columns)
    head = "".join(_head(name, cells) for name, cells in zip(table.columns, columns, strict=True))
    drawn = [_cells(cells, bars=not table.folded) for cells in columns]
    groups = [row.label.partition(": ")[0] for row in table.rows]
    body = []
    for index, row in enumerate(table.rows):
        begins = index > 0 and groups[index] != groups[index - 1] and len(set(groups)) < len(groups)
        cells = "".join(cells[index] for cells in drawn)
        body.append(f"<tr{' class=first' * begins}><th scope=row>{_safe(row.label)}</th>{cells}</tr>")
    whole = (
        f"<div class=scroll><table class=data><thead><tr><td></td>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
    return f"<details><summary>{len(body)} rows</summary>{whole}</details>" if table.folded else whole


def _head(name: str, cells: Sequence[Entry]) -> str:
    span = " colspan=2" if _has_intervals(cells) else ""
    return f"<th scope=col class={_kind(cells)}{span}>{_safe(name)}</th>"


def _kind(cells: Sequence[Entry]) -> str:
    """Texts begin at the left, numbers end at the right."""
    texts = [cell for cell in cells if isinstance(cell, str)]
    return "number" if all(_NUMBER.fullmatch(text.strip()) for text in texts) else "text"


def _has_intervals(cells: Sequence[Entry]) -> bool:
    return any(isinstance(cell, Measured) and cell.low is not None for cell in cells)


def _cells(cells: Sequence[Entry], bars: bool) -> list[str]:
    """A column's cells: numbers with as many decimals, intervals beside them, with bars on one scale."""
    estimates = [cell for cell in cells if isinstance(cell, Measured)]
    numbers = [number for one in estimates for number in (one.value, one.low, one.high) if number is not None]
    decimals = decimals_for(numbers)
    # A single interval has nothing to be compared with.
    scale = _scale(numbers) if bars and sum(one.low is not None for one in estimates) > 1 else None
    kind, has_intervals = _kind(cells), _has_intervals(cells)
    drawn = []
    for cell in cells:
        value = f"<td class={kind}>{_value(cell, decimals)}</td>"
        drawn.append(value + (f"<td class=interval>{_interval(cell, decimals, scale)}</td>" * has_intervals))
    return drawn


def _value(cell: Entry, decimals: int) -> str:
    if isinstance(cell, Measured):
        return _EMPTY if cell.value is None else f"<b>{number_text(cell.value, decimals)}</b>"
    if cell is None:
        return _EMPTY
    return _safe(cell) if isinstance(cell, str) else number_text(cell, 0)


def _interval(cell: Entry, decimals: int, scale: tuple[float, float] | None) -> str:
    if not isinstance(cell, Measured) or cell.value is None or cell.low is None or cell.high is None:
        return ""
    ends = f"[{number_text(cell.low, decimals)}, {number_text(cell.high, decimals)}]"
    return ends if scale is None else ends + _bar(cell.value, cell.low, cell.high, scale)


def _scale(numbers: Sequence[float]) -> tuple[float, float]:
    """0 to 1 where all of a column lies within, else all of it and 0."""
    low, high = min(*numbers, 0.0), max(*numbers, 0.0)
    return (0.0, 1.0) if low == 0 and high <= 1 else (low, high)


def _bar(value: float, low: float, high: float, scale: tuple[float, float]) -> str:
    """The interval as a bar, the estimate as a stroke across it, and a tick at 0."""
    first, last = scale
    span = (last - first) or 1.0

    def at(number: float) -> str:
        return f"{1 + 98 * (number - first) / span:.1f}"

    return (
        "<svg class=bar viewBox='0 0 100 8' preserveAspectRatio=none aria-hidden=true>"
        f"<path class=axis d='M1 4H99'/><path class=zero d='M{at(0)} 0V8'/>"
        f"<path class=range d='M{at(low)} 4H{at(high)}'/><path class=value d='M{at(value)} 0V8'/></svg>"
    )


def _charts(curves: Curves, colours: Mapping[str, str]) -> str:
    """Twice: side by side, and one above the other for narrow screens."""
    drawn = []
    for layout, most in (("wide", WIDE), ("narrow", NARROW)):
        figure = draw_curves(curves, colours, most, heading=False)
        svg = _inline(svg_text(figure), f"{quote(curves.key, safe='')}-{layout}", curves.title)
        drawn.append(f"<div class='chart {layout}'>{svg}</div>")
    return "".join(drawn)


def _inline(svg: str, name: str, title: str) -> str:
    """An SVG file as part of a page: no prolog, style or size of its own; ids under its name, for a page has many."""
    head, size, body = _SIZE.split(svg[svg.index("<svg") :], maxsplit=1)
    body = _IDS.sub(rf"\g<0>{name}-", _OWN_STYLE.sub("", body))
    return f"{head} role=img aria-label='{_safe(title)}' style='width:{1.5 * float(size):.0f}px'{body}"


_SIZE = re.compile(r' width="([\d.]+)pt" height="[\d.]+pt"')
_OWN_STYLE = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_IDS = re.compile(r'\bid="|\bhref="#')


def _grid(grid: Grid, pictures: Mapping[str, str]) -> str:
    labelled = any(row.label for row in grid.rows)
    corner = "<td></td>" if labelled else ""
    head = "".join(f"<th scope=col>{_safe(name)}</th>" for name in grid.columns)
    if head:
        head = f"<thead><tr>{corner}{head}</tr></thead>"
    rows = []
    for row in grid.rows:
        tiles = [*row.tiles, *[Tile(picture=None)] * (grid.width - len(row.tiles))]
        label = f"<th scope=row>{_safe(row.label)}</th>" if labelled else ""
        rows.append(f"<tr>{label}{''.join(_tile(tile, pictures) for tile in tiles)}</tr>")
    return (
        f"<div class=scroll><table class=grid style='--tiles:{grid.width}'>{head}"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _tile(tile: Tile, pictures: Mapping[str, str]) -> str:
    caption = f"<p>{_safe(tile.caption)}</p>" if tile.caption else ""
    if tile.picture is None:
        return f"<td><div class=absent></div>{caption}</td>" if caption else "<td></td>"
    source = f"data:image/webp;base64,{pictures[tile.picture]}"
    return f"<td><img alt='{_safe(tile.caption)}' src='{source}'>{caption}</td>"


def _prose(text: str) -> str:
    return _safe(text).replace(" %", "&nbsp;%")


def _safe(text: str) -> str:
    return html.escape(text, quote=True)


_EMPTY = f"<span class=none>{NOTHING}</span>"

_TABLES_KEY = (
    "<p class=note>An estimate and, in brackets, its 95&nbsp;% interval; without brackets it has none. The bar"
    " beneath draws it on a scale from 0 to 1 or, where a column leaves that, over all of the column; the grey tick"
    f" is 0. Where nothing was measured stands {NOTHING}. Long tables are folded, without bars: open them to look"
    " something up.</p>"
)

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root{--ink:#1d1f24;--soft:#5c616b;--line:#e3e4e8;--page:#fafafb;--card:#fff;--strong:#0072b2}
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:36px 24px 60px}
h1{font-size:30px;line-height:1.2;margin:0 0 20px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:19px;margin:48px 0 12px;padding-bottom:6px;border-bottom:1px solid var(--line)}
h3{font-size:16px;margin:0 0 10px;font-weight:600}
a{color:var(--strong);text-decoration:none}a:hover{text-decoration:underline}
.smoke,.partial{margin:0 0 24px;padding:12px 16px;background:#fff3d6;border:1px solid #e0b040;border-radius:10px}
nav{display:grid;grid-template-columns:repeat(auto-fit,minmax(240px,1fr));gap:8px 32px;padding:16px 20px;
 background:var(--card);border:1px solid var(--line);border-radius:10px;font-size:14px}
nav h2{font-size:13px;margin:0 0 4px;padding:0;border:0;color:var(--soft);font-weight:600}
nav ul{list-style:none;margin:0;padding:0}nav li{padding:2px 0}
article{margin:26px 0 40px;scroll-margin-top:16px}
.note{color:var(--soft);font-size:13.5px;max-width:80ch;margin:8px 0 0;text-wrap:pretty}
.scroll{overflow-x:auto}
summary{width:fit-content;margin:0 0 8px;cursor:pointer;color:var(--strong);font-size:14px}
table{border-collapse:collapse}
.data{border-collapse:separate;border-spacing:0;background:var(--card);border:1px solid var(--line);font-size:14px}
.data th,.data td{padding:7px 14px;border-top:1px solid var(--line);vertical-align:top}
.data thead th,.data thead td{border-top:0;border-bottom:1px solid #b9bcc4;color:var(--soft);vertical-align:bottom}
.data thead th{font-weight:600}
.data tbody th{text-align:left;font-weight:400;min-width:11em}
.data .first>*{border-top-color:#b9bcc4}
.number,.interval{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.text{text-align:left}
.data b{font-weight:650}
.data td.interval{padding-left:0;color:var(--soft);font-size:12.5px;line-height:1.75}
.none{color:var(--soft)}
.bar{display:block;width:100%;min-width:90px;height:8px;margin:1px 0}
.bar path{fill:none;stroke:var(--line);vector-effect:non-scaling-stroke}
.bar .zero{stroke:#8d929c}.bar .range{stroke:#7db4d8;stroke-width:4}.bar .value{stroke:var(--ink);stroke-width:1.5}
.chart{width:fit-content;max-width:100%;padding:12px;background:var(--card);border:1px solid var(--line);
 border-radius:10px}
.chart svg{display:block;max-width:100%;height:auto}.chart text{font-family:system-ui,sans-serif!important}
.narrow{display:none}
.grid{table-layout:fixed;width:min(100%,120px + var(--tiles)*274px);min-width:calc(96px + var(--tiles)*104px)}
.grid th,.grid td{padding:0 5px 12px;vertical-align:top;text-align:left;font-weight:400;font-size:14px;
 overflow-wrap:anywhere}
.grid thead th{padding-bottom:4px;vertical-align:bottom;font-weight:600;font-size:13px}
.grid tbody th{width:120px;padding-left:0}.grid thead td{width:120px}
.grid img,.absent{display:block;width:100%;aspect-ratio:1;object-fit:contain;border-radius:4px}
.absent{border:1px dashed #b9bcc4}
.grid p{margin:3px 0 0;color:var(--soft);font-size:12px;line-height:1.35}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 22px;margin:0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
@media screen and (max-width:760px){
main{padding:20px 14px 40px}h1{font-size:24px}h2{margin-top:36px}
.wide{display:none}.narrow{display:block}
.data th,.data td{padding:6px 10px}
.data tbody th,.grid tbody th{position:sticky;left:0;background:var(--card);min-width:96px}
.grid tbody th{background:var(--page);width:80px;font-size:12.5px}.grid thead td{width:80px}
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:8px}}
@media print{
@page{margin:14mm 12mm}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
body{background:#fff;font-size:10pt}main{max-width:none;padding:0}nav{display:none}
.wide{display:block}.narrow{display:none}.scroll{overflow:visible}
.data{font-size:8.5pt}.data th,.data td{padding:3px 8px}.data td.interval{font-size:7.5pt}.bar{width:80px}
.grid{min-width:0}.grid th,.grid td{font-size:8pt;padding:0 3px 8px}.grid p{font-size:7pt}
h2,h3{break-after:avoid}.data,tr,.chart,dt,dd{break-inside:avoid}}
"""
