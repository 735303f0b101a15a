"""Tables of images: metrics by method beside real and wrong pictures, by group and kind of prompt; forced choice."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from conceptloom.evaluation.benchmark import PROMPT_KINDS, Benchmark, BenchmarkSet, TrueConcept
from conceptloom.evaluation.forced_choice import CITATION, JUDGE, PAPER_ROWS, Trial, table, tally
from conceptloom.evaluation.groups import Member, groups_of
from conceptloom.evaluation.image_rows import (
    METRICS,
    Group,
    MetricRow,
    Where,
    drift_rows,
    image_rows,
    paired_rows,
)
from conceptloom.evaluation.image_sanity import REAL, WRONG
from conceptloom.evaluation.image_scores import ImageScore
from conceptloom.evaluation.margins import Margin
from conceptloom.evaluation.plan import QUICK
from conceptloom.evaluation.report import Entry, Measured, Row, Table, measured
from conceptloom.evaluation.statistics import holm
from conceptloom.evaluation.units import UnitResult

Place = tuple[str, int, int]
"""Set, number of the prompt, number of the image."""
OTHER_SEED = "the same, another seed"
DRIFT = "drift of the base model"
POPULATION = (
    " Rows of a protocol are over the images that its study for people is made from, the others over all."
)
NUMBERS_ASKED: tuple[tuple[str, Where], ...] = (
    ("one subject asked for", lambda score, _: len(score.concepts) == 1),
    ("several subjects asked for", lambda score, _: len(score.concepts) > 1),
)
"""Groups that prompts make, beside those of the sets."""
SPLIT_METRICS = (
    "identity",
    "leakage",
    "learned place likeness",
    "known thing",
    "relation true",
    "mixing",
    "overall",
)
"""Columns of the paired differences by group."""


@dataclass(frozen=True)
class Judged:
    """Scores of a comparison's images.

    Attributes:
        compared: of all methods at the first seed.
        other_seed: of our method's images at the second seed.
        sanity: of real pictures and of wrong subjects (`image_sanity`).
        margin: score difference that is a tie, None where it was never measured.
        subjects: how many different ones the sets that draw learn: what ACC^1 and ACC^3 tell apart.
        composed: whether the real pictures are composed anew, or the sets' own ones.
    """

    compared: tuple[ImageScore, ...]
    other_seed: tuple[ImageScore, ...]
    sanity: tuple[ImageScore, ...]
    margin: Margin | None
    subjects: int
    composed: bool = True


def metric_table(judged: Judged, methods: Sequence[str], results: Iterable[UnitResult]) -> Table:
    """Every metric: a row each, a column for each method, for real pictures, and for wrong subjects.

    Args:
        judged: the scores.
        methods: the columns.
        results: units, for the drift of the base model; those that draw at the first seed count, as for the images.
    """
    rows = image_rows([*judged.compared, *judged.sanity], lambda score, _: score.method)
    columns = [*methods, REAL, WRONG]
    by_metric = {metric: {name: row.get(metric) for name, row in rows.items()} for metric in METRICS}
    found = [
        _metric_cells(metric, by_metric[metric], columns)
        for metric in METRICS
        if any(by_metric[metric].values())
    ]
    if drift := _drift(results):
        found.append(_metric_cells(DRIFT, drift, columns))
    meanings = "; ".join(
        f"{metric}: {METRICS[metric]}" for metric in (row.label for row in found) if metric in METRICS
    )
    real = (
        "other pictures composed of the same drawings, judged as if generated"
        if judged.composed
        else "the sets' own pictures, judged as if generated, each against the others alone where they show a concept"
    )
    return Table(
        key="images",
        title="Images",
        note="Means over the sets of which every method drew, with 95 % bootstrap intervals, over nouns for what is a"
        " concept's (scenes where all is of one noun) and over scenes for the rest; the last column says over how many."
        f" '{REAL}': {real}: right answers that repeat no picture, so"
        f" what is like the pictures learned from (SIM^C, place likeness, copies) can be above it. '{WRONG}': the same"
        f" of another set, the floor. {meanings}. The sets that draw learn {judged.subjects} different subjects. Drift:"
        " how much the base model's loss on its own images of other nouns rose.",
        columns=(*columns, "resampled"),
        rows=tuple(found),
    )


def image_change_table(judged: Judged, ours: Sequence[str], baseline: str) -> Table | None:
    """Every metric of each of our methods less the baseline's, image by image; None without images of both."""
    changes = [
        (f"{method} less {baseline}: {metric}", row)
        for method in ours
        for metric, row in paired_rows(_of(judged.compared, method), _of(judged.compared, baseline)).items()
        if metric != "relation chance"
    ]
    if not changes:
        return None
    corrected = holm([row.p_value for _, row in changes])
    rows = [
        Row(
            label=label,
            cells=(
                measured(row.change.mean),
                row.change.n,
                row.change.clusters,
                Measured(value=row.p_value),
                Measured(value=p_value),
            ),
        )
        for (label, row), p_value in zip(changes, corrected, strict=True)
    ]
    return Table(
        key="image-changes",
        title="What changes the images",
        note="Differences on the same set, prompt, number of the image and concept; 95 % paired bootstrap intervals"
        " over nouns for what is a concept's (scenes where all is of one noun) and over scenes for the rest. p:"
        " Wilcoxon's signed-rank test over their mean differences. Corrected p: Holm's, over the rows.",
        columns=("difference", "values", "resampled", "p", "corrected p"),
        rows=tuple(rows),
    )


def image_change_split_table(
    judged: Judged, benchmark: Benchmark, ours: Sequence[str], baseline: str
) -> Table | None:
    """`SPLIT_METRICS` of our methods less the baseline's in every group; None without images of both."""
    rows = []
    for method in ours:
        mine, theirs = _of(judged.compared, method), _of(judged.compared, baseline)
        for title, where in _groups(benchmark):
            found = paired_rows(mine, theirs, where)
            changes = [found[metric].change if metric in found else None for metric in SPLIT_METRICS]
            if any(changes):
                scenes = len({score.set for score in mine if where(score, None)})
                cells = (*map(_mean, changes), scenes)
                rows.append(Row(label=f"{method} less {baseline}: {title}", cells=cells))
    if not rows:
        return None
    return Table(
        key="image-changes-split",
        title="What changes the images, by what is learned and from what",
        note="As the table before. A metric of whole images counts in every group that a concept asked for belongs to.",
        columns=(*SPLIT_METRICS, "scenes"),
        rows=tuple(rows),
    )


def identity_table(judged: Judged, benchmark: Benchmark, methods: Sequence[str]) -> Table:
    """Identity by what is learned and from what, resampled by noun."""
    rows = []
    for title, where in _groups(benchmark):
        found = image_rows(judged.compared, _methods_where(where))
        identities = {
            method: found[method]["identity"] for method in methods if "identity" in found.get(method, {})
        }
        if identities:
            cells = [_mean(identities.get(method)) for method in methods]
            counts = (
                max(row.n for row in identities.values()),
                max(row.clusters for row in identities.values()),
            )
            rows.append(Row(label=title, cells=(*cells, *counts)))
    return Table(
        key="identity-split",
        title="Identity by what is learned, and from what",
        note="Cosine of a subject's matched region with its references, 0 where there is none; 95 % bootstrap intervals"
        " over nouns, or scenes where all is of one noun; the last column says how many.",
        columns=(*methods, "values", "resampled"),
        rows=tuple(rows),
    )


def metric_split_table(
    judged: Judged, benchmark: Benchmark, methods: Sequence[str], results: Iterable[UnitResult]
) -> Table:
    """Every metric of `metric_table` by what is learned, from what, and how much is asked for."""
    groups = {
        title: image_rows(judged.compared, _methods_where(where)) for title, where in _groups(benchmark)
    }
    rows = []
    for metric in METRICS:
        for title, found in groups.items():
            by_method = {method: found.get(method, {}).get(metric) for method in methods}
            if any(by_method.values()):
                rows.append(_metric_cells(f"{metric}: {title}", by_method, methods))
    results = tuple(results)
    for title, belongs in groups_of(benchmark):
        members = {
            one.name for one in benchmark.sets if any(belongs(one, concept) for concept in one.concepts)
        }
        if drift := _drift(unit for unit in results if unit.key.set in members):
            rows.append(_metric_cells(f"{DRIFT}: {title}", drift, methods))
    return Table(
        key="images-split",
        title="Images by what is learned, and from what",
        note="The metrics of the table of images, each in every group that has it; 95 % bootstrap intervals over nouns"
        " for what is a concept's (scenes where all is of one noun) and over scenes for the rest; the last column says"
        " over how many. A metric of whole images counts in every group that a concept asked for belongs to, drift in"
        " every group that a concept of the set belongs to.",
        columns=(*methods, "resampled"),
        rows=tuple(rows),
        folded=True,
    )


def kind_table(judged: Judged, methods: Sequence[str]) -> Table:
    """The judge's overall score by kind of prompt, resampled by scene."""
    found = image_rows(judged.compared, lambda score, _: (score.kind, score.method))
    by_kind = {
        kind: {method: found[kind, method].get("overall") for method in methods if (kind, method) in found}
        for kind in PROMPT_KINDS
    }
    rows = [_metric_cells(kind, scores, methods) for kind, scores in by_kind.items() if any(scores.values())]
    return Table(
        key="prompt-kinds",
        title="What is asked for",
        note="Mean of the prompt's checklist, 0 to 1; 95 % bootstrap intervals over scenes.",
        columns=(*methods, "scenes"),
        rows=tuple(rows),
    )


def preference_table(
    judged: Judged,
    ours: Sequence[str],
    baseline: str,
    populations: Mapping[str, Collection[Place]] = MappingProxyType({}),
) -> Table | None:
    """The counterpart of Table 1, each of our methods in turn; None without a margin or without images of both.

    Args:
        judged: the scores.
        ours: our methods.
        baseline: the other one.
        populations: by protocol, the images that it draws of those that are compared; each gets rows of its own.
    """
    trials = _trials(judged, ours, [baseline])
    if judged.margin is None or not trials:
        return None
    rows = []
    for (method, _), votes in trials.items():
        rows += _vote_rows(method, votes, judged.margin)
    for protocol, places in populations.items():
        drawn = tuple(score for score in judged.compared if place_of(score) in places)
        for (method, _), votes in _trials(replace(judged, compared=drawn), ours, [baseline]).items():
            rows += _vote_rows(f"{method}, protocol {protocol}", votes, judged.margin)
    for paper in PAPER_ROWS:
        shares = (paper.baseline, paper.neutral, paper.ours)
        cells: tuple[Entry, ...] = (*(Measured(value=share) for share in shares), None, None, None)
        rows.append(Row(label=f"the paper, {paper.data}: {paper.voter}", cells=cells))
        cells = (Measured(value=1 - paper.decided), None, Measured(value=paper.decided), None, None, None)
        rows.append(Row(label=f"the paper, {paper.data}: {paper.voter}, decided votes", cells=cells))
    return Table(
        key="table-1",
        title=f"Table 1: forced choice, {' and '.join(method for method, _ in trials)} against {baseline}",
        note=f"Shares of votes. The {JUDGE} prefers the image with the higher overall score; within the margin, it is"
        f" neutral. The margin, {judged.margin.value:.4f}, is the median absolute difference between two seeds of"
        f" {judged.margin.method} on {judged.margin.where}. 95 % bootstrap intervals over scenes; p: sign test over"
        f" scenes' majorities.{POPULATION if populations else ''}"
        f" The paper's rows are people's votes on other pictures, without intervals: {CITATION}.",
        columns=(baseline, "neutral", "ours", "votes", "scenes", "p"),
        rows=tuple(rows),
    )


def preference_split_table(
    judged: Judged, benchmark: Benchmark, ours: Sequence[str], baseline: str
) -> Table | None:
    """Table 1 at once the margin in every group; None where there is no Table 1."""
    if judged.margin is None:
        return None
    rows = []
    for method in ours:
        for title, where in _groups(benchmark):
            chosen = [score for score in judged.compared if where(score, None)]
            trials = paired_trials(_of(chosen, method), _of(chosen, baseline))
            if not trials:
                continue
            found = tally(trials, judged.margin.value)
            shares = (measured(found.shares[vote]) for vote in ("baseline", "neutral", "ours"))
            cells = (*shares, sum(found.counts.values()), found.scenes)
            rows.append(Row(label=f"{method}: {title}", cells=cells))
    if not rows:
        return None
    return Table(
        key="table-1-split",
        title=f"Table 1 by what is learned, and from what: against {baseline}",
        note="As Table 1, at once the margin. An image is in every group that a concept asked for belongs to; it may"
        " show several nouns, so 95 % bootstrap intervals are over scenes.",
        columns=(baseline, "neutral", "ours", "votes", "scenes"),
        rows=tuple(rows),
    )


def rivals_table(judged: Judged, ours: Sequence[str], methods: Sequence[str]) -> Table | None:
    """Forced choice of each of our methods against every other, and of one against itself with another seed."""
    if judged.margin is None:
        return None
    tallies = {
        f"{method} against {rival}": tally(trials, judged.margin.value)
        for (method, rival), trials in _trials(judged, ours, [*methods, OTHER_SEED]).items()
    }
    if not tallies:
        return None
    corrected = holm([found.p_value for found in tallies.values()])
    rows = [
        Row(
            label=name,
            cells=(
                measured(found.shares["baseline"]),
                measured(found.shares["neutral"]),
                measured(found.shares["ours"]),
                sum(found.counts.values()),
                found.scenes,
                Measured(value=found.p_value),
                Measured(value=p_value),
            ),
        )
        for (name, found), p_value in zip(tallies.items(), corrected, strict=True)
    ]
    return Table(
        key="rivals",
        title="Forced choice: ours against every other method",
        note=f"As Table 1, at once the margin. Two methods of ours meet once. The row '{OTHER_SEED}' compares a method"
        " with itself: it should find even odds. On the sets that the margin was measured on, as on dev, it is of the"
        " very images that made the margin: half of its votes are neutral by construction. Corrected p: Holm's, over"
        " the rows.",
        columns=("rival", "neutral", "ours", "votes", "scenes", "p", "corrected p"),
        rows=tuple(rows),
    )


def _vote_rows(label: str, trials: Iterable[Trial], margin: Margin) -> list[Row]:
    rows = []
    for row in table(trials, margin.value):
        cells: tuple[Entry, ...] = (
            measured(row.baseline),
            measured(row.neutral),
            measured(row.ours),
            row.votes,
            row.scenes,
            Measured(value=row.p_value),
        )
        told = f"{label}: {row.voter}, {row.factor:g} x margin{'' if row.ties else ', decided votes'}"
        rows.append(Row(label=told, cells=cells))
    return rows


def _trials(judged: Judged, ours: Sequence[str], rivals: Sequence[str]) -> dict[tuple[str, str], list[Trial]]:
    """By (method of ours, rival), where both have images; two methods of ours meet once, the later one as ours."""
    found = {}
    for place, method in enumerate(ours):
        mine = _of(judged.compared, method)
        for rival in rivals:
            if rival in ours[place:]:
                continue
            theirs = _of(judged.compared, rival)
            if rival == OTHER_SEED:
                theirs = _of(judged.other_seed, method)
            if trials := paired_trials(mine, theirs):
                found[method, rival] = trials
    return found


def paired_trials(ours: Iterable[ImageScore], baseline: Iterable[ImageScore]) -> list[Trial]:
    """Trials over the images that both have, of one set, prompt and image number."""
    others = {place_of(score): score.overall for score in baseline}
    trials = []
    for score in ours:
        other = others.get(place_of(score))
        if score.overall is not None and other is not None:
            trials.append(Trial(score.set, str(score.prompt), score.overall, other))
    return trials


def place_of(score: ImageScore) -> Place:
    """Which image of which prompt it is."""
    return score.set, score.prompt, score.index


def _of(scores: Iterable[ImageScore], method: str) -> list[ImageScore]:
    return [score for score in scores if score.method == method]


def _mean(row: MetricRow | None) -> Measured | None:
    return None if row is None else measured(row.mean)


def _methods_where(where: Where) -> Group:
    return lambda score, concept: score.method if where(score, concept) else None


def _drift(results: Iterable[UnitResult]) -> dict[str, MetricRow]:
    """By method, over the units that drew the compared images."""
    drew = [unit for unit in results if unit.key.seed == 0 and unit.key.variant in ("", QUICK)]
    return {method: row for (method, _), row in drift_rows(drew).items()}


def _groups(benchmark: Benchmark) -> list[tuple[str, Where]]:
    """The benchmark's groups, and those that prompts make."""
    sets = {one.name: one for one in benchmark.sets}
    return [*((title, _members(sets, belongs)) for title, belongs in groups_of(benchmark)), *NUMBERS_ASKED]


def _members(sets: Mapping[str, BenchmarkSet], belongs: Member) -> Where:
    """An image is in a group with any concept that it was asked for."""

    def where(score: ImageScore, concept: TrueConcept | None) -> bool:
        asked = score.asked if concept is None else (concept,)
        return any(belongs(sets[score.set], one) for one in asked)

    return where


def _metric_cells(label: str, found: Mapping[Any, MetricRow | None], columns: Sequence[str]) -> Row:
    """A mean by column, and over how many clusters they are at most."""
    shown = [found.get(column) for column in columns]
    most = max((row.clusters for row in shown if row is not None), default=0)
    return Row(label=label, cells=(*map(_mean, shown), most))
