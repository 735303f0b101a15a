"""The page of pictures: one self-contained HTML file that shows what was learned, where, and how it went."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from conceptloom.concepts import Concept
from conceptloom.pictures.sheets import COLOURS, Colour

DISPLAY_PX = 384
"""Side of a picture on the page and in the mask previews."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One image with its caption."""

    caption: str
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class PictureStory:
    """A picture and its masks at the start, through EM and at the end."""

    name: str
    prompt: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, eq=False)
class PageInput:
    """Everything the page shows."""

    concepts: tuple[Concept, ...]
    notes: Mapping[str, str]
    """One line per concept: its mask's share of each picture, rescues."""
    stories: tuple[PictureStory, ...]
    samples: tuple[Panel, ...]
    losses: Mapping[str, Sequence[tuple[int, float]]]
    """(step over EM and joint stage, value) by loss name."""
    em_steps: int
    facts: Mapping[str, str]


def concept_colours(names: Sequence[str]) -> dict[str, Colour]:
    """One sRGB colour per concept, in order."""
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}


def enlarge(masks: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.bool_]:
    """(K, n, n) masks at `side` pixels, nearest neighbour."""
    index = np.minimum(np.arange(side) * masks.shape[-1] // side, masks.shape[-1] - 1)
    return masks[:, index][:, :, index]


def render_page(page: PageInput) -> str:
    """The whole page as HTML with style, images and charts inside: it opens offline, from any folder."""
    colours = concept_colours([concept.name for concept in page.concepts])
    names = " ".join(f"&lt;{html.escape(concept.name)}&gt;" for concept in page.concepts)
    chips = "".join(
        _chip(concept, colours[concept.name], page.notes.get(concept.name, "")) for concept in page.concepts
    )
    stories = "".join(_story(story) for story in page.stories)
    samples = ""
    if page.samples:
        samples = f"<section><h2>What the tokens draw</h2>{_figures(page.samples)}</section>"
    charts = "".join(
        line_chart(name, points, page.em_steps) for name, points in page.losses.items() if len(points) > 1
    )
    if charts:
        charts = f"<section><h2>Losses</h2><div class=charts>{charts}</div></section>"
    facts = "".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in page.facts.items()
    )
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8>"
        f"<meta name=viewport content='width=device-width,initial-scale=1'><title>{names}</title>"
        f"<style>{_STYLE}</style></head><body><main>"
        f"<header><h1>{names}</h1><ul class=chips>{chips}</ul></header>"
        f"<section><h2>Pictures and masks</h2>{stories}</section>{samples}{charts}"
        f"<section><h2>Run</h2><dl>{facts}</dl></section></main></body></html>\n"
    )


def line_chart(name: str, points: Sequence[tuple[int, float]], em_steps: int) -> str:
    """Inline SVG of one loss over steps: every value faint, a running mean strong, a line where EM ends."""
    width, height, left, bottom, top = 560, 200, 52, 26, 12
    steps = np.array([step for step, _ in points], dtype=float)
    values = np.array([value for _, value in points], dtype=float)
    window = max(1, len(values) // 25)
    # Only whole windows: a shorter one at the ends would show noise as a trend.
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    middle = steps[window // 2 : window // 2 + len(smooth)]
    low, high = 0.0, float(np.quantile(values, 0.98)) * 1.08 or 1.0
    first = float(steps[0])
    last = max(float(steps[-1]), first + 1)

    def place(x: np.ndarray, y: np.ndarray) -> str:
        across = left + (x - first) / (last - first) * (width - left - 8)
        down = height - bottom - (np.clip(y, low, high) - low) / (high - low) * (height - bottom - top)
        return " ".join(f"{a:.1f},{d:.1f}" for a, d in zip(across, down, strict=True))

    grid = []
    for share in (0.0, 0.5, 1.0):
        y = height - bottom - share * (height - bottom - top)
        grid.append(
            f"<line class=grid x1={left} x2={width - 8} y1={y:.1f} y2={y:.1f} />"
            f"<text x={left - 6} y={y + 4:.1f} text-anchor=end>{low + share * (high - low):.3g}</text>"
        )
    for step, anchor in ((first, "start"), (last, "end")):
        edge = left if anchor == "start" else width - 8
        grid.append(f"<text x={edge} y={height - 8} text-anchor={anchor}>{step:.0f}</text>")
    if first < em_steps < last:
        x = left + (em_steps - first) / (last - first) * (width - left - 8)
        grid.append(
            f"<line class=turn x1={x:.1f} x2={x:.1f} y1={top} y2={height - bottom} />"
            f"<text x={x + 5:.1f} y={top + 10}>joint stage</text>"
        )
    return (
        f"<figure><svg viewBox='0 0 {width} {height}' role=img aria-label='{html.escape(name)} over steps'>"
        f"{''.join(grid)}<polyline class=raw points='{place(steps, values)}' />"
        f"<polyline class=mean points='{place(middle, smooth)}' /></svg>"
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
    )


def _chip(concept: Concept, colour: Colour, note: str) -> str:
    word = (
        f"from the word “{html.escape(concept.initializer)}”"
        if concept.initializer
        else "no initializer word"
    )
    details = "; ".join(part for part in (concept.kind, word, html.escape(note)) if part)
    swatch = f"<i style='background:rgb{colour}'></i>"
    return f"<li>{swatch}<b>&lt;{html.escape(concept.name)}&gt;</b> <span>{details}</span></li>"


def _story(story: PictureStory) -> str:
    prompt = html.escape(story.prompt)
    return f"<article><h3>{html.escape(story.name)} <q>{prompt}</q></h3>{_figures(story.panels)}</article>"


def _figures(panels: Sequence[Panel]) -> str:
    return (
        "<div class=row>"
        + "".join(
            f"<figure><img alt='{html.escape(panel.caption)}' src='{_data_uri(panel.pixels)}'>"
            f"<figcaption>{html.escape(panel.caption)}</figcaption></figure>"
            for panel in panels
        )
        + "</div>"
    )


def _data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="WEBP", quality=90, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


_STYLE = """
:root{color-scheme:light dark;--ink:#1d1f24;--soft:#666b76;--line:#e3e4e8;--page:#fafafb;--card:#fff;--strong:#2c90e2}
@media(prefers-color-scheme:dark){:root{--ink:#eceef2;--soft:#9aa0ac;--line:#33363d;--page:#17181b;--card:#1f2125}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:36px 24px 60px}
h1{font-size:30px;margin:0 0 14px;letter-spacing:-.01em}
h2{font-size:19px;margin:40px 0 12px;padding-bottom:6px;border-bottom:1px solid var(--line)}
h3{font-size:15px;margin:22px 0 8px;font-weight:600}
h3 q{font-weight:400;color:var(--soft);margin-left:8px}
.chips{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:8px}
.chips li{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:7px 13px}
.chips i{display:inline-block;width:12px;height:12px;border-radius:4px;margin-right:8px;vertical-align:-1px}
.chips span{color:var(--soft)}
.row{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:14px}
figure{margin:0}
figure img{width:100%;display:block;border-radius:10px;border:1px solid var(--line)}
figcaption{color:var(--soft);font-size:13px;padding:5px 2px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:18px}
svg{width:100%;background:var(--card);border:1px solid var(--line);border-radius:10px}
svg text{fill:var(--soft);font-size:11px}
.grid{stroke:var(--line)}.turn{stroke:var(--soft);stroke-dasharray:3 4}
.raw,.mean{fill:none;stroke:var(--strong)}.raw{opacity:.22}.mean{stroke-width:2}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 22px;margin:0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
"""
