"""What every image metric says of real pictures, and of pictures of the wrong things.

Both come from the benchmark alone. A metric by which the two do not differ measures nothing. Where they differ
tells from what similarity on a concept can be said to be there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from conceptloom.errors import DataError
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TestPrompt, TrueConcept
from conceptloom.evaluation.composed_answers import composed_answers
from conceptloom.evaluation.image_metrics import copy_similarity, distances_to_others
from conceptloom.evaluation.image_references import References, prototypes, references
from conceptloom.evaluation.image_rows import MetricRow, image_rows
from conceptloom.evaluation.image_scores import ImageScore, score_pictures
from conceptloom.evaluation.image_view import ImageJudge
from conceptloom.judges.detector import Pixels
from conceptloom.pictures import Picture

REAL = "real"
WRONG = "wrong subject"


@dataclass(frozen=True, eq=False)
class Answers:
    """Real pictures that answer prompts of one set.

    Attributes:
        prompts: by number.
        pictures: (H, W, 3) by (number of the prompt, number of the picture).
        own: names of those that are the set's own pictures, by the same.
    """

    prompts: tuple[TestPrompt, ...]
    pictures: Mapping[tuple[int, int], Pixels]
    own: Mapping[tuple[int, int], str] = field(default_factory=dict)


def composed(benchmark: Benchmark, prompts: int, num: int, seed: int = 0) -> dict[str, Answers]:
    """`composed_answers` of the built-in benchmark, as large as its pictures."""
    side_px = benchmark.sets[0].pictures[0].size[0]
    scenes = composed_answers(benchmark, prompts, num, seed, side_px)
    return {
        one.name: Answers(one.prompts, {place: scene.pixels for place, scene in scenes[one.name].items()})
        for one in benchmark.sets
    }


def own_pictures(benchmark: Benchmark) -> dict[str, Answers]:
    """The sets' own pictures, as answers to prompts that name what they contain; those of the same to one prompt."""
    return {one.name: _own_pictures(one) for one in benchmark.sets}


def _own_pictures(one: BenchmarkSet) -> Answers:
    alike: dict[frozenset[str], list[Picture]] = {}
    for picture in one.pictures:
        alike.setdefault(frozenset(one.contains[picture.name]), []).append(picture)
    placed = {
        (number, index): picture
        for number, group in enumerate(alike.values())
        for index, picture in enumerate(group)
    }
    return Answers(
        tuple(_describing(one, group[0].name) for group in alike.values()),
        {place: picture.pixels for place, picture in placed.items()},
        {place: picture.name for place, picture in placed.items()},
    )


def sanity_scores(
    benchmark: Benchmark,
    answers: Mapping[str, Answers],
    found: Mapping[str, References],
    judge: ImageJudge,
    *,
    with_itself: bool = False,
) -> list[ImageScore]:
    """Scores of real pictures (method `REAL`), and of the next set's pictures against the same prompts (`WRONG`).

    The next set is the nearest after it that shares no noun with it or, where all share a place, no subject.

    A set's own picture is judged against its others. What no other one shows is left out, and so is what rests on it:
    a picture is as like itself as can be, whatever is measured.

    Args:
        benchmark: two sets or more.
        answers: by set.
        found: references by set.
        judge: judges.
        with_itself: compare what no other picture shows with the picture itself all the same.

    Raises:
        DataError: a set shares a subject with all others, or is alone.
    """
    scores: list[ImageScore] = []
    for position, one in enumerate(benchmark.sets):
        own = answers[one.name]
        if own.own:
            for place in own.own:
                score = _own_score(benchmark, one, own, place, found, judge)
                scores.append(score if with_itself else _without_itself(score, one))
        else:
            scores += score_pictures(one, own.pictures, own.prompts, found[one.name], judge, REAL)
        other = answers[stranger(benchmark.sets, position).name]
        wrong = {place: pixels for place, pixels in other.pictures.items() if place in own.pictures}
        scores += score_pictures(one, wrong, own.prompts, found[one.name], judge, WRONG)
    return scores


def _own_score(
    benchmark: Benchmark,
    one: BenchmarkSet,
    own: Answers,
    place: tuple[int, int],
    found: Mapping[str, References],
    judge: ImageJudge,
) -> ImageScore:
    """The score of one of a set's own pictures, against its others where there are some."""
    name, greyed = own.own[place], judge.looker is not None
    left = references(one, judge.features, greyed=greyed, without=name)
    fair = replace(judge, prototypes=prototypes(benchmark, {**found, one.name: left}))
    (score,) = score_pictures(one, {place: own.pictures[place]}, own.prompts, left, fair, REAL)
    alike = [other for other in own.own if other[0] == place[0]]
    distances = distances_to_others(judge.features.embed([own.pictures[other] for other in alike]))
    others = [picture.pixels for picture in one.pictures if picture.name != name]
    return replace(
        score,
        distance=distances[alike.index(place)],
        memorisation=copy_similarity(own.pictures[place], others) if others else None,
    )


def _without_itself(score: ImageScore, one: BenchmarkSet) -> ImageScore:
    """The score of one of a set's own pictures without what that picture alone shows."""

    def is_elsewhere(concept: TrueConcept) -> bool:
        return len(one.pictures_with(concept.name)) > 1

    whole = all(map(is_elsewhere, score.asked))
    subjects = all(is_elsewhere(told.concept) for told in score.concepts)
    return replace(
        score,
        concepts=tuple(told for told in score.concepts if is_elsewhere(told.concept)),
        place_likeness=score.place_likeness if score.place and is_elsewhere(score.place) else None,
        mixing=score.mixing if subjects else None,
        mixing_released=score.mixing_released if subjects else None,
        composition=score.composition if one.num_pictures > 1 else None,
        overall=score.overall if whole else None,
    )


def stranger(sets: Sequence[BenchmarkSet], position: int) -> BenchmarkSet:
    """The set whose pictures are wrong subjects for the one at `position`; see `sanity_scores`."""
    one = sets[position]
    others = [sets[(position + step) % len(sets)] for step in range(1, len(sets))]
    subjects = {concept.noun for concept in one.subjects}
    for shares in (set(one.nouns), subjects):
        for other in others:
            if shares.isdisjoint(other.nouns):
                return other
    raise DataError(f"set '{one.name}' shares a subject with every other: give sets of different things")


def sanity_rows(scores: Sequence[ImageScore]) -> dict[str, tuple[MetricRow | None, MetricRow | None]]:
    """Each metric over real pictures, and over those of wrong subjects."""
    rows = image_rows(scores, lambda score, _: score.method)
    real, wrong = rows.get(REAL, {}), rows.get(WRONG, {})
    return {metric: (real.get(metric), wrong.get(metric)) for metric in dict.fromkeys([*real, *wrong])}


def identities(scores: Sequence[ImageScore], method: str) -> list[float]:
    """Identities of all concepts in the pictures of one method, but for those asked for in another style."""
    return [
        concept.identity
        for score in scores
        if score.method == method and score.kind != "style"
        for concept in score.concepts
    ]


def presence_threshold(real: Sequence[float], wrong: Sequence[float]) -> float:
    """The similarity at which as many real concepts are missed as wrong ones are taken for them.

    The equal error rate on `dev`. Halfway between neighbouring values; where several such places are equally good,
    the middle one.

    Args:
        real: identities in real pictures; below the threshold they are missed.
        wrong: identities in pictures of something else; from the threshold on they are false alarms.

    Raises:
        ValueError: one of them is empty.
    """
    if not (len(real) and len(wrong)):
        raise ValueError(f"{len(real)} real and {len(wrong)} wrong identities: expected some of each")
    values = np.unique(np.asarray([*real, *wrong], np.float64))
    cuts: npt.NDArray[np.float64] = (values[:-1] + values[1:]) / 2 if len(values) > 1 else values
    missed = np.searchsorted(np.sort(real), cuts, "left") / len(real)
    false = 1 - np.searchsorted(np.sort(wrong), cuts, "left") / len(wrong)
    gap = np.round(abs(missed - false), 12)
    best = cuts[gap == gap.min()]
    return float(best[(len(best) - 1) // 2])


def _describing(one: BenchmarkSet, picture: str) -> TestPrompt:
    """A prompt that asks for what a picture of the set contains."""
    asked = [concept for concept in one.concepts if concept.name in one.contains[picture]]
    places = [concept.name for concept in asked if concept.split == "place"]
    subjects = [concept.name for concept in asked if concept.split != "place"]
    spoken = [" and ".join(f"a <{name}>" for name in names) for names in (subjects, places) if names]
    text = f"a photo of {' on '.join(spoken)}"
    return TestPrompt(text, "context", (*subjects, *places), places[0] if places else None)
