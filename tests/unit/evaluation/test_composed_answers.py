"""Composed answers show what the prompts ask for."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from conceptloom.errors import DataError
from conceptloom.evaluation.benchmark import Benchmark
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.composed_answers import composed_answers
from conceptloom.evaluation.image_metrics import COPY, copy_similarity
from conceptloom.evaluation.image_view import FAMILY_OF
from conceptloom.scenes.composer import Scene

SIDE = 96


@cache
def benchmark() -> Benchmark:
    return builtin_benchmark("dev", 6, side_px=SIDE)


@cache
def answers() -> dict[str, dict[tuple[int, int], Scene]]:
    return composed_answers(benchmark(), prompts=10, num=1, side_px=SIDE)


def test_an_answer_shows_the_asked_subjects_and_known_things_and_nothing_else() -> None:
    for one in benchmark().sets:
        for (number, _), scene in answers()[one.name].items():
            prompt = one.prompts[number]
            asked = [concept.noun for concept in one.subjects if concept.name in prompt.asked]
            assert sorted(thing.noun for thing in scene.objects) == sorted([*asked, *prompt.known])


def test_an_answer_is_in_the_asked_place() -> None:
    for one in benchmark().sets:
        for (number, _), scene in answers()[one.name].items():
            place = one.prompts[number].place
            if place is not None:
                learned = one.place
                word = learned.noun if learned is not None and place == learned.name else place
                assert scene.background == word


def test_an_answer_is_in_the_asked_relation_with_its_subject_first() -> None:
    kept = []
    for one in benchmark().sets:
        for (number, _), scene in answers()[one.name].items():
            relation = one.prompts[number].relation
            if relation is not None:
                assert scene.objects[0].noun == relation[0]
                kept.append(scene.relation == relation[1])
    assert len(kept) > 10
    assert np.mean(kept) > 0.95


def test_subjects_are_the_sets_own_drawings_or_those_of_the_asked_style() -> None:
    for one in benchmark().sets:
        own = {concept.noun: concept.family for concept in one.subjects}
        for (number, _), scene in answers()[one.name].items():
            style = one.prompts[number].style
            for thing in scene.objects:
                if thing.noun in own:
                    assert thing.family == (own[thing.noun] if style is None else FAMILY_OF[style])


def test_only_prompts_for_a_style_that_has_no_drawing_go_without_an_answer() -> None:
    for one in benchmark().sets:
        absent = set(range(10)) - {number for number, _ in answers()[one.name]}
        assert {one.prompts[number].kind for number in absent} <= {"style"}


def test_answers_are_drawn_anew() -> None:
    for one in benchmark().sets:
        pictures = [picture.pixels for picture in one.pictures]
        reached = [copy_similarity(scene.pixels, pictures) for scene in answers()[one.name].values()]
        assert max(reached) < COPY


def test_answers_follow_from_the_seed() -> None:
    again = composed_answers(benchmark(), prompts=2, num=1, side_px=SIDE)
    assert (again["dev-003"][1, 0].pixels == answers()["dev-003"][1, 0].pixels).all()


def test_a_benchmark_of_another_seed_or_kind_is_refused() -> None:
    with pytest.raises(DataError, match="seed"):
        composed_answers(benchmark(), prompts=1, num=1, seed=5)
    with pytest.raises(DataError, match="not made of drawings"):
        composed_answers(Benchmark("folder", "own", benchmark().sets), prompts=1, num=1)
