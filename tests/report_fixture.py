"""A report with everything a real one has, of made-up numbers and composed pictures: seconds, no model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from conceptloom.evaluation.benchmark import BenchmarkSet
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.picture_grids import Album
from conceptloom.evaluation.report import (
    Curves,
    Entry,
    Grid,
    GridRow,
    Kind,
    Line,
    Measured,
    Panel,
    Report,
    Row,
    Table,
    Tile,
    measured,
)
from conceptloom.evaluation.statistics import Interval, band, clopper_pearson, cluster_bootstrap
from conceptloom.pictures import overlay
from conceptloom.seeding import numpy_generator

STEPS = tuple(range(0, 401, 20))
SCENES = 40
REPEATS = 400


@cache
def sample_report(kind: Kind = "evidence") -> Report:
    """Five tables, two curves (one of three panels), three grids."""
    album, sets = Album(), builtin_benchmark("dev", 4).sets
    grids = (_seven_rows(album, sets), _strip(album, sets[0]), _gaps(album, sets[2]))
    return Report(
        kind=kind,
        title="Evaluation: builtin, dev",
        facts={
            "Command": "conceptloom evaluate --benchmark builtin --split dev --methods gt,fixed,paper --out runs/dev",
            "Benchmark": "builtin, split dev: 40 sets, masks over 3 seeds, images of 20 sets x 10 prompts x 2 images",
            "Base model": "builtin-v1, 3f9a0c21d77e",
            "Judge": "examiner 2, right on 98.1 % of clean renders",
            "Work": "412 units, 4820 images, 31.4 worker hours",
        },
        tables=(_masks(), _changes(), _split(), _forced_choice(), _cost()),
        curves=(figure_3(), periods()),
        grids=grids,
        pictures=album.pictures,
    )


def plain_report(**changes: object) -> Report:
    """An evidence report of nothing at all but the parts given."""
    empty = {
        "kind": "evidence",
        "title": "t",
        "facts": {},
        "tables": (),
        "curves": (),
        "grids": (),
        "pictures": {},
    }
    return Report.model_validate({**empty, **changes})


# Curves -----------------------------------------------------------------------------------------------------------


@cache
def figure_3() -> Curves:
    """Three panels of two curves and two flat lines."""
    panels = []
    for title, scenes, start, end, fixed, oracle in (
        ("subject", SCENES, 0.38, 0.57, 0.40, 0.88),
        ("other subjects", 19, 0.30, 0.41, 0.33, 0.86),
        ("background", 36, 0.62, 0.79, 0.66, 0.96),
    ):
        lines = (
            _rising("paper", title, scenes, start, end),
            _rising("literal", title, scenes, start, 0.5 * (start + end)),
            _flat("fixed", title, scenes, fixed, 0.2),
            _flat("oracle", title, scenes, oracle, 0.03),
        )
        panels.append(Panel(title=f"{title} ({scenes} scenes)", lines=lines))
    return Curves(
        key="figure-3",
        title="Fig. 3: mask IoU over training steps",
        note="Mean over scenes of the mean over 3 seeds; bands are 95 % bootstrap intervals over scenes. Flat lines:"
        " masks found once and never updated, and the oracle.",
        x_label="EM step",
        y_label="mask IoU",
        window=5,
        panels=tuple(panels),
    )


@cache
def periods() -> Curves:
    """One panel whose values leave 0 to 1, one of its lines without a band."""
    lines = tuple(
        _rising(f"every {period} steps", "loss", 12, 2.4, end, noise=0.3)
        for period, end in ((1, 1.5), (5, 1.1), (20, 0.7), (50, 0.8))
    )
    alone = Line(label="one scene only", steps=STEPS[::4], mean=(2.5, 2.1, 1.9, 1.6, 1.7, 1.5))
    return Curves(
        key="periods",
        title="Loss by period of the mask update",
        note="Mean over 12 scenes, seed 0; bands are 95 % bootstrap intervals over scenes.",
        x_label="EM step",
        y_label="Eq. 3",
        window=3,
        panels=(Panel(title="masked loss", lines=(*lines, alone)),),
    )


def _rising(label: str, where: str, scenes: int, start: float, end: float, noise: float = 0.15) -> Line:
    rng = numpy_generator(0, "curves", label, where)
    trend = end + (start - end) * np.exp(-np.array(STEPS) / 120)
    curves = trend + rng.normal(0, noise, (scenes, 1)) + rng.normal(0, noise / 2, (scenes, len(STEPS)))
    mean, low, high = band(curves, repeats=REPEATS)
    return Line(label=label, steps=STEPS, mean=_told(mean), low=_told(low), high=_told(high))


def _flat(label: str, where: str, scenes: int, level: float, spread: float) -> Line:
    values = _around(level, spread, scenes, label, where)
    mean, low, high = band(np.repeat(values[:, None], 2, axis=1), repeats=REPEATS)
    return Line(label=label, steps=(0, STEPS[-1]), mean=_told(mean), low=_told(low), high=_told(high))


def _told(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(values.tolist())


# Tables -----------------------------------------------------------------------------------------------------------


def _masks() -> Table:
    rows = []
    for group, count, levels in (
        ("subjects", 243, (0.41, 0.53, 0.88, 0.79, 0.17)),
        ("backgrounds", 108, (0.66, 0.79, 0.96, 0.93, 0.71)),
    ):
        for method, level in zip(
            ("fixed", "paper", "oracle", "oracle, no CRF", "trivial"), levels, strict=True
        ):
            spread = 0.03 if "oracle" in method else 0.2
            cells: tuple[Entry, ...] = (
                _mean(level, spread, method, group, "iou"),
                _mean(level - 0.1, spread, method, group, "boundary"),
                count,
                3 if method == "paper" else 0,
                11 if method == "fixed" else 0,
            )
            rows.append(Row(label=f"{group}: {method}", cells=cells))
    return Table(
        key="masks",
        title="Masks at the end of EM",
        note="IoU and boundary IoU with the true mask, 0 to 1, means over concepts, pictures and seeds; 95 % bootstrap"
        " intervals over nouns. Oracle: the true masks seen through the latent grid. Trivial: the whole picture for a"
        " background, a centred disc of the usual area for a subject. An empty mask scores 0.",
        columns=("IoU", "boundary IoU", "masks", "empty", "full"),
        rows=tuple(rows),
    )


def _changes() -> Table:
    def row(label: str, subjects: float, backgrounds: float | None) -> Row:
        other = None if backgrounds is None else _mean(backgrounds, 0.12, label, "backgrounds")
        return Row(label=label, cells=(_mean(subjects, 0.12, label, "subjects"), other))

    return Table(
        key="mask-changes",
        title="What changes the masks",
        note="Differences of IoU on the same scene, picture, concept and seed; 95 % paired bootstrap intervals over"
        " scenes. One that excludes zero is a difference.",
        columns=("subjects", "backgrounds"),
        rows=(
            row("paper: last masks less its first", 0.142, 0.131),
            row("literal: last masks less its first", -0.005, 0.02),
            row("paper less fixed, at the end", 0.118, 0.127),
            row("literal less paper, at the end", -0.093, None),
        ),
    )


def _split() -> Table:
    methods = {"fixed": 0.41, "paper": 0.53, "oracle": 0.88, "trivial": 0.17}
    groups = (
        "instances of known nouns",
        "novel nouns",
        "one picture",
        "two pictures",
        "a concept in both pictures",
        "subjects of different styles",
        "on a learned photograph",
        "on a learned pattern",
        "background: drawn scene",
    )
    rows = []
    for index, group in enumerate(groups):
        cells: list[Entry] = [_mean(level, 0.15, method, group) for method, level in methods.items()]
        if group == "a concept in both pictures":
            cells = [Measured(value=cell.value) for cell in cells if isinstance(cell, Measured)]
        if group == "background: drawn scene":
            cells[1] = None
        rows.append(Row(label=group, cells=(*cells, 120 - 11 * index)))
    return Table(
        key="masks-split",
        title="Masks by what is learned, and from what",
        note="IoU at the end of EM; 95 % bootstrap intervals over nouns. Subjects alone, but for the rows of"
        " backgrounds.",
        columns=(*methods, "masks"),
        rows=tuple(rows),
    )


def _forced_choice() -> Table:
    def judged(label: str, baseline: int, neutral: int, ours: int) -> Row:
        pairs = baseline + neutral + ours
        shares = (_percent(clopper_pearson(count, pairs)) for count in (baseline, neutral, ours))
        return Row(label=label, cells=(*shares, pairs, "automatic judge"))

    def reported(label: str, baseline: float, neutral: float, ours: float, who: str) -> Row:
        shares = (Measured(value=value) for value in (baseline, neutral, ours))
        return Row(label=label, cells=(*shares, None, who))

    return Table(
        key="table-1",
        title="Table 1: forced choice",
        note="Which of two images is more faithful to the things in the references and to the text, in % of pairs;"
        " 95 % Clopper-Pearson intervals. The neutral margin was fixed on dev before any comparison.",
        columns=("baseline", "neutral", "ours", "pairs", "answered by"),
        rows=(
            reported("Random, as published", 10.92, 17.29, 71.8, "11 people"),
            judged("Random, ours", 61, 118, 221),
            reported("MSCOCO, as published", 21.87, 18.69, 59.44, "17 people"),
            judged("Random, half the margin", 84, 63, 253),
            judged("paper against itself", 98, 204, 98),
        ),
    )


def _cost() -> Table:
    return Table(
        key="cost",
        title="What it cost",
        note="Wall seconds of one worker (a thread on a CPU), as measured while the evaluation ran.",
        columns=("units", "learning, s each", "drawing, s each", "images", "hours in all"),
        rows=(
            Row(label="gt: learn and draw", cells=(20, 118, 61, 400, "1.01")),
            Row(label="fixed: learn and draw", cells=(20, 205, 60, 400, "1.47")),
            Row(label="paper: learn and draw", cells=(20, 221, 62, 560, "1.57")),
            Row(label="paper: masks only", cells=(100, 164, 0, 0, "4.56")),
        ),
    )


def _mean(level: float, spread: float, *what: str) -> Measured | None:
    values = _around(level, spread, SCENES, *what)
    return measured(cluster_bootstrap(values, range(SCENES), repeats=REPEATS))


def _around(level: float, spread: float, count: int, *what: str) -> npt.NDArray[np.float64]:
    return level + spread * numpy_generator(0, "values", *what).uniform(-1, 1, count)


def _percent(share: Interval) -> Measured:
    return Measured(value=100 * share.value, low=100 * share.low, high=100 * share.high)


# Grids ------------------------------------------------------------------------------------------------------------


def _seven_rows(album: Album, sets: Sequence[BenchmarkSet]) -> Grid:
    shown = [one.pictures[-1] for one in sets]
    plain = [picture.pixels for picture in shown]
    masked = [overlay(picture.pixels, np.stack(list(picture.masks.values()))) for picture in shown]
    shifted = [
        overlay(picture.pixels, np.roll(np.stack(list(picture.masks.values())), 9, axis=2))
        for picture in shown
    ]
    names = [", ".join(f"<{name}>" for name in one.contains[one.pictures[-1].name]) for one in sets]
    prompts = [one.prompts[1].text for one in sets]
    rows = (
        ("input", plain, names),
        ("true masks", masked, None),
        ("masks: fixed", shifted, None),
        ("masks: paper", masked, None),
        ("image: true masks", plain, prompts),
        ("image: fixed", plain[::-1], prompts),
        ("image: paper", [*plain[1:], plain[0]], prompts),
    )
    return Grid(
        key="figure-4",
        title="Fig. 4: with true masks, masks found once, and masks learned with the tokens",
        note="The first 4 sets; of two pictures the second is shown. Image 0 of seed 0 of the set's first interaction,"
        " or first context where it has one subject: same starting noise for all.",
        columns=tuple(one.name for one in sets),
        rows=tuple(_row(album, *row) for row in rows),
    )


def _strip(album: Album, one: BenchmarkSet) -> Grid:
    picture = one.pictures[0]
    rows = []
    for name, mask in picture.masks.items():
        shades = [
            picture.pixels.astype(np.float64) * (0.15 + 0.85 * share * mask[..., None]) for share in _ramp()
        ]
        captions = [
            f"<{name}> at step {step}: {prompt.text}"
            for step, prompt in zip(range(0, 400, 50), one.prompts, strict=False)
        ]
        rows.append(_row(album, f"<{name}>", [np.rint(shade).astype(np.uint8) for shade in shades], captions))
    return Grid(
        key="figure-2",
        title="Fig. 2: one run, from attention to masks",
        note=f"Set {one.name}, seed 0: the first of one picture with two subjects and a learned background.",
        columns=tuple(f"step {step}" for step in range(0, 400, 50)),
        rows=tuple(rows),
    )


def _gaps(album: Album, one: BenchmarkSet) -> Grid:
    """No heads, rows of different lengths, empty places, a prompt as a row's label."""
    first, second = (album.add(picture.pixels, picture.name) for picture in one.pictures)
    nothing = Tile(picture=None)
    absent = Tile(picture=None, caption="not drawn")
    return Grid(
        key="figure-9",
        title="Fig. 9: many images of one prompt",
        note="The first 4 sets: a picture learned from, then images 0, 1, ... of seed 0. Method: paper.",
        columns=(),
        rows=(
            GridRow(label=one.prompts[1].text, tiles=(first, nothing, second, absent, first)),
            GridRow(label=one.prompts[2].text, tiles=(second, first)),
        ),
    )


def _ramp() -> npt.NDArray[np.float64]:
    return np.linspace(0.1, 1.0, 8)


def _row(
    album: Album, label: str, pictures: Sequence[npt.NDArray[np.uint8]], captions: Sequence[str] | None
) -> GridRow:
    told = captions or [""] * len(pictures)
    tiles = tuple(album.add(picture, caption) for picture, caption in zip(pictures, told, strict=True))
    return GridRow(label=label, tiles=tiles)
