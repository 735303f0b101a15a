"""From finished units to the report: every table, curve and grid, and nothing that a unit does not hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from conceptloom.backbone import Backbone, family_of
from conceptloom.evaluation.benchmark import Benchmark
from conceptloom.evaluation.image_tables import (
    Judged,
    Place,
    identity_table,
    image_change_split_table,
    image_change_table,
    kind_table,
    metric_split_table,
    metric_table,
    place_of,
    preference_split_table,
    preference_table,
    rivals_table,
)
from conceptloom.evaluation.mask_references import ORACLE, ORACLE_NO_CRF, TRIVIAL, reference_masks
from conceptloom.evaluation.mask_scores import MEASURES, ScoredMask, scored_masks, swapped_pictures
from conceptloom.evaluation.mask_tables import (
    change_split_table,
    change_table,
    failure_split_table,
    failure_table,
    mask_curves,
    mask_histories,
    mask_table,
    split_table,
)
from conceptloom.evaluation.methods import BASELINE, FINDS_ONCE, OURS, MethodName, finds_masks, our_method
from conceptloom.evaluation.parts import PartRow
from conceptloom.evaluation.picture_grids import (
    Album,
    SetResults,
    all_grids,
    worst_images_grid,
)
from conceptloom.evaluation.plan import MASKS, QUICK, Size
from conceptloom.evaluation.protocols import PROTOCOLS
from conceptloom.evaluation.report import Curves, Grid, Kind, Report, Row, Table, measured
from conceptloom.evaluation.run_strip import strip_grid
from conceptloom.evaluation.study_export import POPULATION_SEED, population
from conceptloom.evaluation.units import UnitResult
from conceptloom.learning import resolve_config

COVERAGE = (
    "95 %. Few scenes make them too short: comparing a method with itself over 20 scenes in 100 simulations, the 95 %"
    " interval of the forced choice held .5 in 90"
)
Of = TypeVar("Of", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Findings:
    """What an evaluation ran and what its units left.

    Attributes:
        benchmark: the sets.
        methods: in the tables' order.
        size: how much was asked for.
        results: the finished units of the comparison.
        judged: scores of the images, None where no judge looked.
        parts: rows of the table "Parts", empty where it was not run.
        missing: how many of the runs asked for are not finished.
        study: protocol of the study for people, None where none is made.
    """

    benchmark: Benchmark
    methods: tuple[MethodName, ...]
    size: Size
    results: tuple[UnitResult, ...]
    judged: Judged | None = None
    parts: tuple[PartRow, ...] = ()
    missing: int = 0
    study: str | None = None

    @property
    def kind(self) -> Kind:
        """Whether the numbers count."""
        if self.size.smoke:
            return "smoke"
        return "partial" if self.missing else "evidence"


def build_report(findings: Findings, backbone: Backbone, facts: Mapping[str, str]) -> Report:
    """Measure the masks in the units and lay out everything that was found."""
    sets = {one.name: one for one in findings.benchmark.sets}
    album = Album()
    results = set_results(findings, backbone.size)
    scored = [
        mask
        for unit in findings.results
        if finds_masks(unit.key.method)
        for mask in scored_masks(sets[unit.key.set], unit)
    ]
    tables, curves = mask_findings(findings, backbone, scored)
    images = image_tables(findings)
    parts: tuple[Table, ...] = ()
    if findings.parts:
        parts = _present(parts_report_table(findings.parts), parts_split_table(findings.parts))
    grids: list[Grid | None] = [*all_grids(results, findings.methods, scored, album)]
    if findings.judged is not None:
        grids.append(worst_images_grid(results, album, findings.judged.compared))
    # In the order of the paper's figures: the strip after the first.
    place = 1 if grids and grids[0] is not None and grids[0].key == "figure-1" else 0
    grids.insert(place, strip_grid(results, album))
    return Report(
        kind=findings.kind,
        title=f"Evaluation: {findings.benchmark.name}, {findings.benchmark.split}",
        facts={
            **facts,
            "Work": _work(findings.results),
            "Intervals": COVERAGE,
            **_diverged(findings.results),
        },
        tables=(*tables, *images, *parts, cost_table(findings)),
        curves=curves,
        grids=tuple(grid for grid in grids if grid is not None),
        masks=mask_histories(scored),
        pictures=album.pictures,
    )


def image_tables(findings: Findings) -> tuple[Table, ...]:
    """Tables of images; none where no judge looked or nothing was drawn.

    Votes are over images that both methods drew, means over the sets of which every method drew some.
    """
    judged = findings.judged
    if judged is None or not judged.compared:
        return ()
    drawn = [
        method for method in findings.methods if any(score.method == method for score in judged.compared)
    ]
    ours = [method for method in OURS if method in drawn]
    votes = _present(
        preference_table(judged, ours, BASELINE, _populations(findings, judged, ours)),
        preference_split_table(judged, findings.benchmark, ours, BASELINE),
        rivals_table(judged, ours, drawn),
    )
    changes = _present(
        image_change_table(judged, ours, BASELINE),
        image_change_split_table(judged, findings.benchmark, ours, BASELINE),
    )
    common = common_to_all((score.method, score.set) for score in judged.compared)
    if not common:
        return (*votes, *changes)
    drew = [unit for unit in findings.results if unit.key.set in common]
    alike = replace(
        judged,
        compared=tuple(score for score in judged.compared if score.set in common),
        sanity=tuple(score for score in judged.sanity if score.set in common),
    )
    return (
        *votes,
        metric_table(alike, drawn, drew),
        *changes,
        identity_table(alike, findings.benchmark, drawn),
        metric_split_table(alike, findings.benchmark, drawn, drew),
        kind_table(alike, drawn),
    )


def _populations(findings: Findings, judged: Judged, ours: Sequence[str]) -> dict[str, frozenset[Place]]:
    """The images of the study's population, by its protocol: of those that our first method and the baseline drew."""
    if findings.study is None or not ours:
        return {}
    mine, theirs = (
        {place_of(score) for score in judged.compared if score.method == method}
        for method in (ours[0], BASELINE)
    )
    protocol = PROTOCOLS[findings.study]
    return {findings.study: population(findings.benchmark, mine & theirs, protocol, POPULATION_SEED)}


def _present(*tables: Table | None) -> tuple[Table, ...]:
    return tuple(table for table in tables if table is not None)


def common_to_all(pairs: Iterable[tuple[str, Of]]) -> frozenset[Of]:
    """What every method has, of (method, what it has): means over anything else are not of the same things."""
    by_method: dict[str, set[Of]] = defaultdict(set)
    for method, what in pairs:
        by_method[method].add(what)
    return frozenset(set.intersection(*by_method.values()))


def parts_report_table(rows: Sequence[PartRow]) -> Table:
    """Table "Parts" as the report holds it; image columns are those that some row has."""
    metrics = list(dict.fromkeys(metric for row in rows for metric in row.images))
    hours = sum({row.run: row.work for row in rows}.values()) / 3600
    return Table(
        key="parts",
        title="Parts: one switch at a time",
        note="IoU of subjects and backgrounds at the end, 95 % bootstrap intervals over nouns; differences to paper on"
        " the same scene and concept, intervals over scenes. Rows whose switch is the preset are paper's own runs."
        " Refused: masks that the rescue rules refused, of all that were made. Collapsed: scenes whose last masks hold"
        " an empty, full or doubled one. Scenes: those whose run is done and did not diverge. Seconds: learning a"
        f" scene, to stage 3 or 4. All runs, paper's own among them, took {hours:.1f} hours of one worker.",
        columns=(
            "subjects",
            "less paper",
            "backgrounds",
            "less paper",
            "refused",
            "of",
            "collapsed",
            "scenes",
            "seconds",
            "stages",
            *metrics,
        ),
        rows=tuple(
            Row(
                label=row.title,
                cells=(
                    measured(row.subjects),
                    measured(row.subjects_change),
                    measured(row.places),
                    measured(row.places_change),
                    row.rescues,
                    row.updates,
                    row.collapsed,
                    row.scenes,
                    round(row.seconds),
                    row.stages,
                    *(measured(row.images.get(metric)) for metric in metrics),
                ),
            )
            for row in rows
        ),
    )


def parts_split_table(rows: Sequence[PartRow]) -> Table | None:
    """Masks of table "Parts" by group, the parts of a group under each other; None where no part has a group."""
    lines = [
        Row(
            label=f"{title}: {row.title}",
            cells=(
                measured(row.groups[title].iou),
                measured(row.groups[title].change),
                row.groups[title].masks,
                row.groups[title].clusters,
            ),
        )
        for title in dict.fromkeys(title for row in rows for title in row.groups)
        for row in rows
        if title in row.groups
    ]
    if not lines:
        return None
    return Table(
        key="parts-split",
        title="Parts: masks by what is learned, and from what",
        note="IoU at the end, and differences to paper on the same scene and concept; 95 % bootstrap intervals, over"
        " nouns, or over scenes where all is of one noun: the last column says how many. Subjects alone, but for the"
        " groups of backgrounds.",
        columns=("IoU", "less paper", "masks", "resampled"),
        rows=tuple(lines),
        folded=True,
    )


def mask_findings(
    findings: Findings, backbone: Backbone, scored: list[ScoredMask]
) -> tuple[tuple[Table, ...], tuple[Curves, ...]]:
    """Tables and curves of masks; how runs fail alone where no mask has a truth.

    Means and curves are over the runs, set and seed, that every method finished; failures are counted over all.
    """
    swaps: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    every = {one.name: one for one in findings.benchmark.sets}
    for unit in findings.results:
        if finds_masks(unit.key.method):
            found = swapped_pictures(every[unit.key.set], unit).values()
            swaps[unit.key.method] += [(unit.key.set, swapped) for swapped in found]
    failures = _present(
        failure_table(findings.results, findings.methods, swaps),
        failure_split_table(findings.results, findings.benchmark, findings.methods, swaps),
    )
    if not scored:
        return failures, ()
    methods = [method for method in findings.methods if any(mask.method == method for mask in scored)]
    crf = resolve_config(family_of(backbone.version), {"method": "paper"}).crf.crf_config()
    latent = (backbone.latent_shape[1], backbone.latent_shape[2])
    common = common_to_all((mask.method, (mask.set, mask.seed)) for mask in scored)
    alike = [mask for mask in scored if (mask.set, mask.seed) in common]
    changes = change_table(scored, methods)
    if not alike:
        return (changes, *failures), ()
    measured_sets = {mask.set for mask in alike}
    shown = Benchmark(
        findings.benchmark.name,
        findings.benchmark.split,
        tuple(one for one in findings.benchmark.sets if one.name in measured_sets),
    )
    references = reference_masks(shown, backbone.size, latent, crf)
    everything = [*alike, *references]
    framing = [mask for mask in references if mask.method in (ORACLE, TRIVIAL)]
    flat = [method for method in methods if method in FINDS_ONCE]
    moving = [method for method in methods if method not in FINDS_ONCE]
    tables = (
        mask_table(everything, [*methods, ORACLE, ORACLE_NO_CRF, TRIVIAL]),
        changes,
        change_split_table(scored, findings.benchmark, methods),
        split_table(everything, shown, [*methods, ORACLE, TRIVIAL]),
        *failures,
    )
    curves = tuple(
        mask_curves([*alike, *framing], shown, moving, [*flat, ORACLE, TRIVIAL], measure)
        for measure in MEASURES
    )
    return tables, curves


def set_results(findings: Findings, side: int) -> list[SetResults]:
    """By set, in order, its units at the first seed that left something; those with images before those without."""
    by_set: dict[str, dict[str, UnitResult]] = defaultdict(dict)
    for unit in sorted(findings.results, key=lambda unit: not unit.images):
        if unit.key.seed == 0 and unit.diverged is None:
            by_set[unit.key.set].setdefault(unit.key.method, unit)
    ours = our_method({unit.key.method for unit in findings.results}) or OURS[0]
    return [
        SetResults(one, by_set[one.name], side, ours) for one in findings.benchmark.sets if one.name in by_set
    ]


def cost_table(findings: Findings) -> Table:
    """What the units took, in seconds of one worker."""
    rows = []
    for method in findings.methods:
        for variant, told in (("", "learn and draw"), (QUICK, "smoke run"), (MASKS, "masks only")):
            units = [u for u in findings.results if u.key.method == method and u.key.variant == variant]
            if not units:
                continue
            learn, draw = ([unit.seconds[what] for unit in units] for what in ("learn", "draw"))
            images = sum(len(unit.images) for unit in units)
            cells = (
                len(units),
                round(sum(learn) / len(units)),
                round(sum(draw) / len(units)),
                images,
                f"{(sum(learn) + sum(draw)) / 3600:.2f}",
            )
            rows.append(Row(label=f"{method}: {told}", cells=cells))
    return Table(
        key="cost",
        title="What it cost",
        note="Wall seconds of one worker (a thread on a CPU), as measured while the evaluation ran.",
        columns=("units", "learning, s each", "drawing, s each", "images", "hours in all"),
        rows=tuple(rows),
    )


def _work(results: tuple[UnitResult, ...]) -> str:
    seconds = sum(sum(unit.seconds.values()) for unit in results)
    images = sum(len(unit.images) for unit in results)
    return f"{len(results)} units, {images} images, {seconds / 3600:.1f} worker hours"


def _diverged(results: Sequence[UnitResult]) -> dict[str, str]:
    """How many runs ended early and why the first did; nothing where none did."""
    reasons = [(unit.key.folder_name, unit.diverged) for unit in results if unit.diverged is not None]
    if not reasons:
        return {}
    name, reason = reasons[0]
    return {"Diverged": f"{len(reasons)} of {len(results)} runs; the first, {name}: {reason}"}
