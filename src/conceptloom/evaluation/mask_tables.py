"""Tables and curves of masks: by method, by group, what EM changes, how runs fail, and fit over steps (Fig. 3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from conceptloom.evaluation.benchmark import Benchmark
from conceptloom.evaluation.groups import groups_of
from conceptloom.evaluation.mask_references import ORACLE, TRIVIAL
from conceptloom.evaluation.mask_scores import (
    MEASURES,
    Measure,
    ScoredMask,
    final_masks,
    first_masks,
    mask_pairs,
    mask_rows,
    mean_curves,
    paired_difference,
    paired_difference_by_noun,
)
from conceptloom.evaluation.methods import MethodName, finds_masks
from conceptloom.evaluation.report import Curves, Entry, Line, MaskHistory, Panel, Row, Table, measured
from conceptloom.evaluation.statistics import band, clopper_pearson, cluster_bootstrap
from conceptloom.evaluation.units import MaskRecord, UnitResult

WINDOW = 5
"""Mask updates averaged for the smoothed curves."""

HISTORY_STEPS = 21
"""At most so many steps of a run are kept in its masks' history."""
DIGITS = 4

RESAMPLED = "Resampled are nouns, or scenes where all is of one noun; the column says how many."
Where = Callable[[ScoredMask], bool]
SceneEvent = tuple[str, bool]
"""A scene, and whether something happened in one of its runs or pictures."""
FAILURES = ("collapsed", "ends rescued", "swapped", "rescues", "diverged", "runs", "scenes")
"""Columns of how runs fail."""
SUBJECTS_AND_PLACES: tuple[tuple[str, Where], ...] = (
    ("subjects", lambda mask: not mask.is_place),
    ("backgrounds", lambda mask: mask.is_place),
)


def mask_table(scored: Sequence[ScoredMask], methods: Sequence[str]) -> Table:
    """Final masks: IoU and boundary IoU by method, subjects and backgrounds apart, resampled by noun."""
    final = final_masks(scored)
    rows = []
    for title, where in SUBJECTS_AND_PLACES:
        found = mask_rows([mask for mask in final if where(mask)], lambda mask: mask.method)
        for method in methods:
            if row := found.get(method):
                cells = (
                    measured(row.iou),
                    measured(row.boundary_iou),
                    row.masks,
                    row.clusters,
                    row.empty,
                    row.full,
                )
                rows.append(Row(label=f"{title}: {method}", cells=cells))
    return Table(
        key="masks",
        title="Masks at the end of EM",
        note="IoU and boundary IoU with the true mask, 0 to 1, means over concepts, pictures and the seeds that every"
        f" method finished; 95 % bootstrap intervals. {RESAMPLED} Oracle: the true masks seen through the latent grid."
        " Trivial: the whole picture for a background, a centred disc of the usual area for a subject. An empty mask"
        " scores 0.",
        columns=("IoU", "boundary IoU", "masks", "resampled", "empty", "full"),
        rows=tuple(rows),
    )


def split_table(scored: Sequence[ScoredMask], benchmark: Benchmark, methods: Sequence[str]) -> Table:
    """Final IoU and boundary IoU by method in every group of the benchmark, resampled by noun."""
    sets = {one.name: one for one in benchmark.sets}
    final = [mask for mask in final_masks(scored) if mask.method in methods]
    groups = {
        title: mask_rows(
            [mask for mask in final if belongs(sets[mask.set], mask.concept)], lambda mask: mask.method
        )
        for title, belongs in groups_of(benchmark)
    }
    rows = []
    for measure in MEASURES:
        for title, found in groups.items():
            if found:
                counts = max(row.masks for row in found.values()), max(row.clusters for row in found.values())
                cells = [measured(found[name].fit(measure)) if name in found else None for name in methods]
                rows.append(Row(label=f"{measure}: {title}", cells=(*cells, *counts)))
    return Table(
        key="masks-split",
        title="Masks by what is learned, and from what",
        note=f"IoU and boundary IoU at the end of EM; 95 % bootstrap intervals. {RESAMPLED} Subjects alone, but for the"
        " rows of backgrounds.",
        columns=(*methods, "masks", "resampled"),
        rows=tuple(rows),
        folded=True,
    )


def change_table(scored: Sequence[ScoredMask], methods: Sequence[str]) -> Table:
    """Paired differences, resampled by scene: the end less the start, and each method less each before it."""
    rows = []
    for label, (ours, others) in _comparisons(scored, methods).items():
        cells: list[Entry] = []
        for _, where in SUBJECTS_AND_PLACES:
            mine = list(filter(where, ours))
            pairs = mask_pairs(mine, others)
            for measure in MEASURES:
                cells.append(measured(paired_difference(mine, others, measure)) if pairs else None)
            cells.append(len({mask.set for mask, _ in pairs}))
        rows.append(Row(label=label, cells=tuple(cells)))
    return Table(
        key="mask-changes",
        title="What changes the masks",
        note="Differences of IoU and, in the columns of boundaries, of boundary IoU on the same scene, picture, concept"
        " and seed; 95 % paired bootstrap intervals over scenes. One that excludes zero is a difference.",
        columns=(
            "subjects",
            "subjects, boundary",
            "scenes",
            "backgrounds",
            "backgrounds, boundary",
            "scenes",
        ),
        rows=tuple(rows),
    )


def change_split_table(scored: Sequence[ScoredMask], benchmark: Benchmark, methods: Sequence[str]) -> Table:
    """The differences of `change_table` in every group of the benchmark, resampled by noun."""
    sets = {one.name: one for one in benchmark.sets}
    compared = _comparisons(scored, methods)
    rows = []
    for measure in MEASURES:
        for title, belongs in groups_of(benchmark):
            cells: list[Entry] = []
            for ours, others in compared.values():
                mine = [mask for mask in ours if belongs(sets[mask.set], mask.concept)]
                shared = mask_pairs(mine, others)
                cells.append(measured(paired_difference_by_noun(mine, others, measure)) if shared else None)
            if any(cell is not None for cell in cells):
                rows.append(Row(label=f"{measure}: {title}", cells=tuple(cells)))
    return Table(
        key="mask-changes-split",
        title="What changes the masks, by what is learned and from what",
        note="As the table before, with 95 % paired bootstrap intervals over nouns, or over scenes where all is of one"
        " noun. Subjects alone, but for the rows of backgrounds.",
        columns=tuple(compared),
        rows=tuple(rows),
        folded=True,
    )


def failure_table(
    units: Sequence[UnitResult], methods: Sequence[MethodName], swaps: Mapping[str, Sequence[SceneEvent]]
) -> Table | None:
    """How often runs end badly, with intervals over scenes: a scene's seeds are not independent.

    None where no run left masks that it found itself and none diverged.

    Args:
        units: of all runs.
        methods: in the table's order.
        swaps: by method, for every picture of two subjects or more, its scene and whether they exchanged masks.
    """
    rows = []
    for method in methods:
        if cells := _failures(units, method, swaps.get(method, ())):
            rows.append(Row(label=method, cells=cells))
    if not rows:
        return None
    return Table(
        key="mask-failures",
        title="How runs fail",
        note="Shares of runs whose last masks hold an empty, full or doubled one (collapsed), or one that was refused"
        " and kept from before (rescued); of pictures with true masks of several subjects, how many exchanged masks"
        " (swapped). 95 % bootstrap intervals over scenes; where none or all did, those of Clopper and Pearson for as"
        " many scenes. Rescues: refused masks in all mask updates of all runs. Diverged: share of all runs whose loss"
        " did not stay finite; they left nothing, and means leave the same runs of other methods out. Runs: those with"
        " masks to look at.",
        columns=FAILURES,
        rows=tuple(rows),
    )


def failure_split_table(
    units: Sequence[UnitResult],
    benchmark: Benchmark,
    methods: Sequence[MethodName],
    swaps: Mapping[str, Sequence[SceneEvent]],
) -> Table | None:
    """`failure_table` in every group of the benchmark; None where there is no such table."""
    sets = {one.name: one for one in benchmark.sets}
    members = {
        title: {
            one.name: frozenset(concept.name for concept in one.concepts if belongs(one, concept))
            for one in benchmark.sets
        }
        for title, belongs in groups_of(benchmark)
    }
    rows = []
    for method in methods:
        for title, group in members.items():
            of_group = [unit for unit in units if group[unit.key.set]]
            exchanged = [
                (scene, swapped)
                for scene, swapped in swaps.get(method, ())
                if any(subject.name in group[scene] for subject in sets[scene].subjects)
            ]
            if cells := _failures(of_group, method, exchanged, group):
                rows.append(Row(label=f"{method}: {title}", cells=cells))
    if not rows:
        return None
    return Table(
        key="mask-failures-split",
        title="How runs fail, by what is learned and from what",
        note="As the table before. Collapsed, ends rescued, rescues: of the group's own masks, which are of subjects"
        " alone, but for the rows of backgrounds. Swapped: pictures of sets with a subject in the group. Diverged and"
        " runs: those of sets with a concept in it.",
        columns=FAILURES,
        rows=tuple(rows),
        folded=True,
    )


def mask_curves(
    scored: Sequence[ScoredMask],
    benchmark: Benchmark,
    methods: Sequence[str],
    flat: Sequence[str],
    measure: Measure = "IoU",
) -> Curves:
    """The counterpart of Fig. 3: fit over steps for a set's first subject, its other subjects, its background.

    Args:
        scored: masks of all steps.
        benchmark: says which subject is the first.
        methods: those with a curve.
        flat: those whose masks are found once, drawn as flat lines.
        measure: of the fit; the paper's figure shows IoU.
    """
    first = {one.name: one.subjects[0].name for one in benchmark.sets if one.subjects}
    panels: list[tuple[str, Where]] = [
        ("subject", lambda mask: not mask.is_place and mask.concept.name == first[mask.set]),
        ("other subjects", lambda mask: not mask.is_place and mask.concept.name != first[mask.set]),
        ("background", lambda mask: mask.is_place),
    ]
    last_step = max((mask.step for mask in scored), default=0)
    drawn = []
    for title, where in panels:
        lines = []
        for method in (*methods, *flat):
            masks = [mask for mask in scored if mask.method == method and where(mask)]
            if masks:
                # Where nothing moves there is one step, and nowhere for a line to go.
                lines.append(
                    _line(method, masks, measure, last_step if last_step and method in flat else None)
                )
        scenes = len({mask.set for mask in scored if where(mask)})
        drawn.append(Panel(title=f"{title} ({scenes} scenes)", lines=tuple(lines)))
    seeds = len({mask.seed for mask in scored if mask.method not in (ORACLE, TRIVIAL)})
    return Curves(
        key="figure-3" if measure == "IoU" else "figure-3-boundary",
        title=f"Fig. 3: mask {measure} over training steps",
        note=f"Mean over scenes of the mean over {seeds} seed{'s' * (seeds > 1)}; bands are 95 % bootstrap intervals"
        " over scenes. Flat lines: masks found once and never updated, the oracle, and trivial masks, which look at"
        " nothing: a curve below theirs has learned nothing.",
        x_label="EM step",
        y_label=f"mask {measure}",
        window=WINDOW,
        panels=tuple(drawn),
    )


def mask_histories(scored: Iterable[ScoredMask]) -> tuple[MaskHistory, ...]:
    """Every mask by set, picture, concept, method and seed, sorted by them.

    Of a run with more than `HISTORY_STEPS` updates some are left out, evenly, and never the first or the last.
    """
    runs: dict[tuple[str, str, str, str, int], list[ScoredMask]] = defaultdict(list)
    for mask in scored:
        runs[mask.set, mask.picture, mask.concept.name, mask.method, mask.seed].append(mask)
    histories = []
    for (scene, picture, concept, method, seed), masks in sorted(runs.items(), key=lambda run: run[0]):
        ordered = sorted(masks, key=lambda mask: mask.step)
        count = min(len(ordered), HISTORY_STEPS)
        kept = [ordered[round(place)] for place in np.linspace(0, len(ordered) - 1, count)]
        history = MaskHistory(
            set=scene,
            picture=picture,
            concept=concept,
            method=method,
            seed=seed,
            steps=tuple(mask.step for mask in kept),
            iou=tuple(round(mask.score.iou, DIGITS) for mask in kept),
            boundary_iou=tuple(round(mask.score.boundary_iou, DIGITS) for mask in kept),
        )
        histories.append(history)
    return tuple(histories)


def _comparisons(
    scored: Sequence[ScoredMask], methods: Sequence[str]
) -> dict[str, tuple[list[ScoredMask], list[ScoredMask]]]:
    """By what it is called, the masks of each comparison; none whose masks have nothing in common."""
    first, final = first_masks(scored), final_masks(scored)
    found = {}
    for method in methods:
        if len({mask.step for mask in scored if mask.method == method}) > 1:
            found[f"{method}: last masks less its first"] = _of(final, method), _of(first, method)
    for baseline, method in combinations(methods, 2):
        found[f"{method} less {baseline}, at the end"] = _of(final, method), _of(final, baseline)
    return {label: pair for label, pair in found.items() if mask_pairs(*pair)}


def _line(method: str, masks: Sequence[ScoredMask], measure: Measure, flat_until: int | None) -> Line:
    steps, curves = mean_curves(masks, measure)
    if flat_until is not None:
        # A run that never updates its masks has them from step 0 on.
        steps, curves = [0, flat_until], curves[:, [-1, -1]]
    mean, low, high = band(curves)
    banded = len(curves) > 1
    return Line(
        label=method,
        steps=tuple(steps),
        mean=tuple(mean.tolist()),
        low=tuple(low.tolist()) if banded else None,
        high=tuple(high.tolist()) if banded else None,
    )


def _of(scored: Iterable[ScoredMask], method: str) -> list[ScoredMask]:
    return [mask for mask in scored if mask.method == method]


def _failures(
    units: Iterable[UnitResult],
    method: MethodName,
    swaps: Sequence[SceneEvent],
    group: Mapping[str, frozenset[str]] | None = None,
) -> tuple[Entry, ...] | None:
    """A row of `FAILURES` over the concepts that a group has in each set, or over all; None where nothing is told.

    That is where no run of the method left masks that it found itself and none diverged.
    """
    of_method = [unit for unit in units if unit.key.method == method]
    found = [unit for unit in of_method if unit.masks and finds_masks(method)]
    diverged = [(unit.key.set, unit.diverged is not None) for unit in of_method]
    if not found and not any(early for _, early in diverged):
        return None

    def count(unit: UnitResult, names: Iterable[str]) -> int:
        return sum(group is None or name in group[unit.key.set] for name in names)

    def ends(unit: UnitResult, names: Callable[[MaskRecord], Iterable[str]]) -> SceneEvent:
        return unit.key.set, any(count(unit, names(last)) for last in unit.last_masks)

    return (
        _rate([ends(unit, lambda last: last.collapsed) for unit in found]),
        _rate([ends(unit, lambda last: last.rescued) for unit in found]),
        _rate(swaps),
        sum(count(unit, record.rescued) for unit in found for record in unit.masks),
        _rate(diverged),
        len(found),
        len({unit.key.set for unit in found}),
    )


def _rate(events: Sequence[SceneEvent]) -> Entry:
    if not events:
        return None
    scenes, happened = zip(*events, strict=True)
    if len(set(happened)) > 1:
        return measured(cluster_bootstrap([float(one) for one in happened], scenes))
    count = len(set(scenes))  # scenes do not differ, so a bootstrap over them has no width
    return measured(clopper_pearson(count if happened[0] else 0, count))
