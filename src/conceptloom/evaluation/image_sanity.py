"""What every image metric says of real pictures, and of pictures of the wrong things.

Both come from the benchmark alone. A metric by which the two do not differ measures nothing. Where they differ
tells from what similarity on a concept can be said to be there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from conceptloom.errors import DataError
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TestPrompt
from conceptloom.evaluation.composed_answers import composed_answers
from conceptloom.evaluation.image_references import References, references
from conceptloom.evaluation.image_rows import MetricRow, image_rows
from conceptloom.evaluation.image_scores import ImageScore, score_pictures
from conceptloom.evaluation.image_view import ImageJudge
from conceptloom.judges.detector import Pixels

REAL = "real"
WRONG = "wrong subject"


@dataclass(frozen=True, eq=False)
class Answers:
    """Real pictures that answer prompts of one set.

    Attributes:
        prompts: by number.
        pictures: (H, W, 3) by (number of the prompt, number of the picture).
        own: for prompts answered by one of the set's own pictures, its name by the prompt's number.
    """

    prompts: tuple[TestPrompt, ...]
    pictures: Mapping[tuple[int, int], Pixels]
    own: Mapping[int, str] = field(default_factory=dict)


def composed(benchmark: Benchmark, prompts: int, num: int, seed: int = 0) -> dict[str, Answers]:
    """`composed_answers` of the built-in benchmark, as large as its pictures."""
    side_px = benchmark.sets[0].pictures[0].size[0]
    scenes = composed_answers(benchmark, prompts, num, seed, side_px)
    return {
        one.name: Answers(one.prompts, {place: scene.pixels for place, scene in scenes[one.name].items()})
        for one in benchmark.sets
    }


def own_pictures(benchmark: Benchmark) -> dict[str, Answers]:
    """The sets' own pictures, as answers to prompts that name what they contain.

    A concept is judged against its other pictures; one that has no other, against that picture itself, which flatters.
    Copy similarity is 1: a copy is told.
    """
    return {
        one.name: Answers(
            tuple(_describing(one, picture.name) for picture in one.pictures),
            {(number, 0): picture.pixels for number, picture in enumerate(one.pictures)},
            {number: picture.name for number, picture in enumerate(one.pictures)},
        )
        for one in benchmark.sets
    }


def sanity_scores(
    benchmark: Benchmark, answers: Mapping[str, Answers], found: Mapping[str, References], judge: ImageJudge
) -> list[ImageScore]:
    """Scores of real pictures (method `REAL`), and of the next set's pictures against the same prompts (`WRONG`).

    The next set is the nearest after it that shares no noun with it or, where all share a place, no subject.

    Args:
        benchmark: two sets or more.
        answers: by set.
        found: references by set.
        judge: judges.

    Raises:
        DataError: a set shares a subject with all others, or is alone.
    """
    scores: list[ImageScore] = []
    greyed = judge.looker is not None
    for position, one in enumerate(benchmark.sets):
        own = answers[one.name]
        for number in sorted({prompt for prompt, _ in own.pictures}):
            name = own.own.get(number)
            known = found[one.name]
            if name is not None:
                known = references(one, judge.features, greyed=greyed, without=name)
            pictures = {place: pixels for place, pixels in own.pictures.items() if place[0] == number}
            scores += score_pictures(one, pictures, own.prompts, known, judge, REAL)
        other = answers[stranger(benchmark.sets, position).name]
        wrong = {place: pixels for place, pixels in other.pictures.items() if place in own.pictures}
        scores += score_pictures(one, wrong, own.prompts, found[one.name], judge, WRONG)
    return scores


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
