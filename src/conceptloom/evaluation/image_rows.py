"""Rows of tables made of image scores: every metric with its interval, and how far learning moved the base model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from conceptloom.evaluation.benchmark import TrueConcept
from conceptloom.evaluation.groups import clusters
from conceptloom.evaluation.image_metrics import COPY, is_nearest
from conceptloom.evaluation.image_scores import ImageScore
from conceptloom.evaluation.image_view import ConceptScore, RelationScore
from conceptloom.evaluation.relations import relation_chance
from conceptloom.evaluation.statistics import Interval, cluster_bootstrap, wilcoxon
from conceptloom.evaluation.units import UnitResult

METRICS: Mapping[str, str] = {
    "identity": "cosine of a subject's matched region with its references, 0 where there is none",
    "present": "share of asked subjects whose identity reaches the presence threshold",
    "leakage": "cosine of a subject's matched region with the set's other subjects",
    "SIM^I": "identity where one subject is asked for, nothing beside it and no style",
    "ACC^1": "of those, share nearer to their own prototype than to any other subject of the sets that draw",
    "ACC^3": "of those, share whose own prototype is among the nearest three",
    "style kept": "share of subjects drawn in their own style where none was asked for",
    "style right": "share of subjects drawn in the asked style",
    "learned place right": "share of images whose likeliest background is the learned place asked for",
    "learned place likeness": "cosine of what is behind the things with the learned place",
    "known place right": "share of images whose likeliest background is the known place asked for",
    "known thing": "probability that a known thing asked for is there",
    "relation true": "share of images in which the asked relation holds; false where one of the two is missing",
    "relation chance": "how often it would hold between a subject and an object of different images; 0 where one of"
    " the two is missing",
    "relation above chance": "the difference of the two",
    "mixing": "Detect-and-Compare with one-to-one matching and no self-pairs; 1 is free of mixing, things like no"
    " concept score 1 less the identity that is usual in real pictures",
    "mixing (released)": "Detect-and-Compare as MuDI's released code computes it",
    "SIM^C": "cosine of images with the set's pictures where all its subjects are asked for",
    "text": "cosine of an image with its prompt in class words",
    "diversity": "mean pairwise cosine distance of a prompt's images",
    "copy similarity": "greatest correlation of an image with a picture it was learned from",
    "copies": f"share of images whose copy similarity is at least {COPY}",
    "overall": "mean over the prompt's checklist, by which the automatic judge chooses",
}
"""What can be in a row, and what each is."""

Group = Callable[[ImageScore, TrueConcept | None], Hashable | None]
"""Which row a value belongs to: of an image, or of one concept in it; None leaves it out."""
Where = Callable[[ImageScore, TrueConcept | None], bool]
"""Whether a value counts: of an image, or of one concept in it."""
_Sourced = tuple[float, str, TrueConcept | None]
"""A value, its scene, and whose it is if it is a concept's; a metric's are all of concepts or none is."""


@dataclass(frozen=True)
class MetricRow:
    """A metric's mean over `n` values, with a 95 % interval over clusters.

    Those are scenes or, for what is a concept's, nouns (scenes again, where all is of one noun).
    """

    n: int
    clusters: int
    mean: Interval


@dataclass(frozen=True)
class PairedRow:
    """How a metric differs between two methods on the same images, and the p value of no difference.

    Attributes:
        change: the mean difference over clusters, as in every row.
        p_value: two-sided, of Wilcoxon's signed-rank test over the clusters' mean differences.
    """

    change: MetricRow
    p_value: float


@dataclass(frozen=True)
class _Value:
    metric: str
    value: float
    concept: TrueConcept | None


def image_rows(scores: Sequence[ImageScore], group: Group) -> dict[Hashable, dict[str, MetricRow]]:
    """For every value of `group`, the metrics that its images have.

    Metrics of concepts are resampled by noun (`groups.clusters`), the others by scene. Chance levels of relations are
    those of the method over all `scores`.
    """
    chances = relation_chances(scores)
    found: dict[tuple[Hashable, str], list[_Sourced]] = defaultdict(list)
    for score in scores:
        for value in _values(score, chances):
            row = group(score, value.concept)
            if row is not None:
                found[row, value.metric].append((value.value, score.set, value.concept))
    rows: dict[Hashable, dict[str, MetricRow]] = defaultdict(dict)
    for row, metric in sorted(found, key=lambda key: list(METRICS).index(key[1])):
        rows[row][metric] = _metric_row(found[row, metric])
    return dict(rows)


def paired_rows(
    ours: Sequence[ImageScore], baseline: Sequence[ImageScore], where: Where = lambda score, concept: True
) -> dict[str, PairedRow]:
    """For every metric, ours less the baseline: same set, prompt, number of the image, and concept.

    Args:
        ours: of one method.
        baseline: of another.
        where: which of our values count.

    Returns:
        The metrics that both have somewhere.
    """
    chances = relation_chances([*ours, *baseline])
    theirs = {(score.set, score.prompt, score.index): _collected(score, chances) for score in baseline}
    found: dict[str, list[_Sourced]] = defaultdict(list)
    for score in ours:
        others = theirs.get((score.set, score.prompt, score.index), {})
        for (metric, concept), values in _collected(score, chances).items():
            if where(score, concept):
                pairs = zip(values, others.get((metric, concept), ()), strict=False)
                found[metric] += [(mine - other, score.set, concept) for mine, other in pairs]
    return {metric: _paired_row(found[metric]) for metric in METRICS if found.get(metric)}


def relation_chances(scores: Iterable[ImageScore]) -> dict[tuple[str, str, str], float]:
    """Chance level by (method, variant, relation): see `relations.relation_chance`.

    Boxes are those of the method's images that were asked for another relation; where there are fewer than two such,
    nothing is known. A relation of which no image shows both things is at 0: nothing can hold.
    """
    boxes: dict[tuple[str, str], list[RelationScore]] = defaultdict(list)
    for score in scores:
        if score.relation is not None:
            boxes[score.method, score.variant].append(score.relation)
    chances = {}
    for (method, variant), seen in boxes.items():
        for relation in {one.relation for one in seen}:
            others = [one.boxes for one in seen if one.relation != relation and one.boxes is not None]
            chance = relation_chance(relation, others)
            if all(one.boxes is None for one in seen if one.relation == relation):
                chance = 0.0
            if chance is not None:
                chances[method, variant, relation] = chance
    return chances


def drift_rows(results: Iterable[UnitResult]) -> dict[tuple[str, str], MetricRow]:
    """By (method, variant), how much the base model's loss on its own images of other nouns rose in learning."""
    found = defaultdict(list)
    for result in results:
        if result.drift is not None:
            before, after = result.drift
            found[result.key.method, result.key.variant].append((after - before, result.key.set, None))
    return {key: _metric_row(values) for key, values in found.items()}


def _metric_row(values: Sequence[_Sourced]) -> MetricRow:
    sources = _sources(values)
    return MetricRow(
        len(values), len(set(sources)), cluster_bootstrap([value for value, *_ in values], sources)
    )


def _paired_row(differences: Sequence[_Sourced]) -> PairedRow:
    by_source: dict[str, list[float]] = defaultdict(list)
    for (difference, *_), source in zip(differences, _sources(differences), strict=True):
        by_source[source].append(difference)
    return PairedRow(_metric_row(differences), wilcoxon([fmean(group) for group in by_source.values()]))


def _sources(values: Sequence[_Sourced]) -> list[str]:
    """The cluster of each value: its scene or, where it is a concept's, as `groups.clusters` says."""
    concepts = [(scene, concept) for _, scene, concept in values if concept is not None]
    return clusters(concepts) if concepts else [scene for _, scene, _ in values]


def _collected(
    score: ImageScore, chances: Mapping[tuple[str, str, str], float]
) -> dict[tuple[str, TrueConcept | None], list[float]]:
    """An image's values by metric and concept; an image may have several known things."""
    found: dict[tuple[str, TrueConcept | None], list[float]] = defaultdict(list)
    for value in _values(score, chances):
        found[value.metric, value.concept].append(value.value)
    return found


def _values(score: ImageScore, chances: Mapping[tuple[str, str, str], float]) -> Iterator[_Value]:
    """Every value of an image that there is."""
    for one in score.concepts:
        for metric, value in _concept_values(score, one):
            if value is not None:
                yield _Value(metric, float(value), one.concept)
    if score.place is not None:
        if score.place_right is not None:
            yield _Value("learned place right", float(score.place_right), score.place)
        if score.place_likeness is not None:
            yield _Value("learned place likeness", score.place_likeness, score.place)
    for metric, value in _image_values(score, chances):
        if value is not None:
            yield _Value(metric, float(value), None)


def _concept_values(score: ImageScore, one: ConceptScore) -> Iterator[tuple[str, float | None]]:
    yield "identity", one.identity
    yield "present", one.present
    yield "leakage", fmean(one.leakage.values()) if one.leakage else None
    yield "style kept", one.style_kept
    yield "style right", one.style_right
    if score.is_single:
        yield "SIM^I", one.identity
        yield "ACC^1", is_nearest(one.rank, 1)
        yield "ACC^3", is_nearest(one.rank, 3)


def _image_values(
    score: ImageScore, chances: Mapping[tuple[str, str, str], float]
) -> Iterator[tuple[str, float | None]]:
    for probability in score.known.values():
        yield "known thing", probability
    if score.place is None:
        yield "known place right", score.place_right
    if score.relation is not None:
        yield "relation true", score.relation.holds
        chance = chances.get((score.method, score.variant, score.relation.relation))
        if chance is not None:
            # Missing things stand in no relation, by chance or otherwise.
            chance = 0.0 if score.relation.boxes is None else chance
            yield "relation chance", chance
            yield "relation above chance", score.relation.holds - chance
    yield "mixing", score.mixing
    yield "mixing (released)", score.mixing_released
    yield "SIM^C", score.composition
    yield "text", score.text
    yield "diversity", score.distance
    yield "copy similarity", score.memorisation
    yield "copies", None if score.memorisation is None else score.memorisation >= COPY
    yield "overall", score.overall
