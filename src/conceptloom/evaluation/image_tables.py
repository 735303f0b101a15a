"""Tables of images: metrics by method between ceiling and floor, by group and kind of prompt; forced choice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from conceptloom.evaluation.benchmark import PROMPT_KINDS, Benchmark, BenchmarkSet, TrueConcept
from conceptloom.evaluation.forced_choice import CITATION, JUDGE, PAPER_ROWS, Trial, table, tally
from conceptloom.evaluation.groups import GROUPS, Member
from conceptloom.evaluation.image_rows import METRICS, Group, MetricRow, drift_rows, image_rows
from conceptloom.evaluation.image_sanity import REAL, WRONG
from conceptloom.evaluation.image_scores import ImageScore
from conceptloom.evaluation.margins import Margin
from conceptloom.evaluation.plan import QUICK
from conceptloom.evaluation.report import Entry, Measured, Row, Table, measured
from conceptloom.evaluation.statistics import holm
from conceptloom.evaluation.units import UnitResult

Place = tuple[str, int, int]
"""Set, number of the prompt, number of the image."""
Where = Callable[[ImageScore, TrueConcept], bool]
OTHER_SEED = "the same, another seed"
NUMBERS_ASKED: tuple[tuple[str, Where], ...] = (
    ("one subject asked for", lambda score, _: len(score.concepts) == 1),
    ("several subjects asked for", lambda score, _: len(score.concepts) > 1),
)
"""Groups that prompts make, beside those of the sets."""


@dataclass(frozen=True)
class Judged:
    """Scores of a comparison's images.

    Attributes:
        compared: of all methods at the first seed.
        other_seed: of our method's images at the second seed.
        sanity: of real pictures and of wrong subjects (`image_sanity`).
        margin: score difference that is a tie, None where it was never measured.
        composed: whether the real pictures are composed anew, or the sets' own ones.
    """

    compared: tuple[ImageScore, ...]
    other_seed: tuple[ImageScore, ...]
    sanity: tuple[ImageScore, ...]
    margin: Margin | None
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
    found = [
        Row(label=metric, cells=tuple(_mean(rows.get(column, {}).get(metric)) for column in columns))
        for metric in METRICS
        if any(metric in row for row in rows.values())
    ]
    whole = [unit for unit in results if unit.key.seed == 0 and unit.key.variant in ("", QUICK)]
    drift = {method: row for (method, _), row in drift_rows(whole).items()}
    if drift:
        cells = tuple(_mean(drift.get(column)) for column in columns)
        found.append(Row(label="drift of the base model", cells=cells))
    meanings = "; ".join(
        f"{metric}: {METRICS[metric]}" for metric in (row.label for row in found) if metric in METRICS
    )
    real = (
        "other pictures composed of the same drawings, judged as if generated"
        if judged.composed
        else "the sets' own pictures, judged as if generated, against themselves where a concept is in no other"
    )
    return Table(
        key="images",
        title="Images",
        note=f"Means over the sets of which every method drew, with 95 % bootstrap intervals, over nouns for what"
        " is a concept's and over scenes for the rest."
        f" '{REAL}': {real}, the ceiling; '{WRONG}': the same of another set, the floor. {meanings}. Drift: how much"
        " the base model's loss on its own images of other nouns rose.",
        columns=tuple(columns),
        rows=tuple(found),
    )


def identity_table(judged: Judged, benchmark: Benchmark, methods: Sequence[str]) -> Table:
    """Identity by what is learned and from what, resampled by noun."""
    sets = {one.name: one for one in benchmark.sets}
    rows = []
    groups = [(title, _members(sets, belongs)) for title, belongs in GROUPS]
    for title, where in (*groups, *NUMBERS_ASKED):
        found = image_rows(judged.compared, _methods_where(where))
        cells = [_mean(found.get(method, {}).get("identity")) for method in methods]
        if any(cell is not None for cell in cells):
            count = max(row["identity"].n for row in found.values() if "identity" in row)
            rows.append(Row(label=title, cells=(*cells, count)))
    return Table(
        key="identity-split",
        title="Identity by what is learned, and from what",
        note="Cosine of a subject's matched region with its references, 0 where there is none; 95 % bootstrap intervals"
        " over nouns.",
        columns=(*methods, "values"),
        rows=tuple(rows),
    )


def kind_table(judged: Judged, methods: Sequence[str]) -> Table:
    """The judge's overall score by kind of prompt, resampled by scene."""
    found = image_rows(judged.compared, lambda score, _: (score.kind, score.method))
    rows = [
        Row(
            label=kind,
            cells=tuple(_mean(found.get((kind, method), {}).get("overall")) for method in methods),
        )
        for kind in PROMPT_KINDS
        if any((kind, method) in found for method in methods)
    ]
    return Table(
        key="prompt-kinds",
        title="What is asked for",
        note="Mean of the prompt's checklist, 0 to 1; 95 % bootstrap intervals over scenes.",
        columns=tuple(methods),
        rows=tuple(rows),
    )


def preference_table(judged: Judged, ours: str, baseline: str) -> Table | None:
    """The counterpart of Table 1; None without a margin or without images of both."""
    trials = paired_trials(_of(judged.compared, ours), _of(judged.compared, baseline))
    if judged.margin is None or not trials:
        return None
    rows = []
    for row in table(trials, judged.margin.value):
        label = f"{row.voter}, {row.factor:g} x margin{'' if row.ties else ', decided votes'}"
        cells: tuple[Entry, ...] = (
            measured(row.baseline),
            measured(row.neutral),
            measured(row.ours),
            row.votes,
            row.scenes,
            Measured(value=row.p_value),
        )
        rows.append(Row(label=label, cells=cells))
    for paper in PAPER_ROWS:
        shares = (paper.baseline, paper.neutral, paper.ours)
        cells = (*(Measured(value=share) for share in shares), None, None, None)
        rows.append(Row(label=f"the paper, {paper.data}: {paper.voter}", cells=cells))
        cells = (Measured(value=1 - paper.decided), None, Measured(value=paper.decided), None, None, None)
        rows.append(Row(label=f"the paper, {paper.data}: {paper.voter}, decided votes", cells=cells))
    return Table(
        key="table-1",
        title=f"Table 1: forced choice, {ours} against {baseline}",
        note=f"Shares of votes. The {JUDGE} prefers the image with the higher overall score; within the margin, it is"
        f" neutral. The margin, {judged.margin.value:.4f}, is the median absolute difference between two seeds of"
        f" {ours} on {judged.margin.where}. 95 % bootstrap intervals over scenes; p: sign test over scenes' majorities."
        f" The paper's rows are people's votes on other pictures, without intervals: {CITATION}.",
        columns=(baseline, "neutral", ours, "votes", "scenes", "p"),
        rows=tuple(rows),
    )


def rivals_table(judged: Judged, ours: str, methods: Sequence[str]) -> Table | None:
    """Forced choice of our method against every other, and against itself with another seed."""
    if judged.margin is None:
        return None
    rivals = {name: _of(judged.compared, name) for name in methods if name != ours}
    rivals[OTHER_SEED] = list(judged.other_seed)
    mine = _of(judged.compared, ours)
    tallies = {
        name: tally(trials, judged.margin.value)
        for name, scores in rivals.items()
        if (trials := paired_trials(mine, scores))
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
                Measured(value=found.p_value),
                Measured(value=p_value),
            ),
        )
        for (name, found), p_value in zip(tallies.items(), corrected, strict=True)
    ]
    return Table(
        key="rivals",
        title=f"Forced choice: {ours} against every other method",
        note=f"As Table 1, at once the margin. The row '{OTHER_SEED}' compares {ours} with itself: it should find even"
        " odds. Corrected p: Holm's, over the rows.",
        columns=("rival", "neutral", ours, "votes", "p", "corrected p"),
        rows=tuple(rows),
    )


def paired_trials(ours: Iterable[ImageScore], baseline: Iterable[ImageScore]) -> list[Trial]:
    """Trials over the images that both have, of one set, prompt and image number."""
    others = {_place(score): score.overall for score in baseline}
    trials = []
    for score in ours:
        other = others.get(_place(score))
        if score.overall is not None and other is not None:
            trials.append(Trial(score.set, str(score.prompt), score.overall, other))
    return trials


def _place(score: ImageScore) -> Place:
    return score.set, score.prompt, score.index


def _of(scores: Iterable[ImageScore], method: str) -> list[ImageScore]:
    return [score for score in scores if score.method == method]


def _mean(row: MetricRow | None) -> Measured | None:
    return None if row is None else measured(row.mean)


def _methods_where(where: Where) -> Group:
    return lambda score, concept: score.method if concept is not None and where(score, concept) else None


def _members(sets: Mapping[str, BenchmarkSet], belongs: Member) -> Where:
    return lambda score, concept: belongs(sets[score.set], concept)
