"""Rows of image metrics from planted scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bare_scores import BARE
from conceptloom.evaluation.benchmark import TrueConcept
from conceptloom.evaluation.image_rows import METRICS, drift_rows, image_rows, paired_rows, relation_chances
from conceptloom.evaluation.image_scores import ImageScore
from conceptloom.evaluation.image_view import ConceptScore, RelationScore
from conceptloom.evaluation.relations import Box
from conceptloom.evaluation.statistics import cluster_bootstrap
from conceptloom.evaluation.units import UnitKey, UnitResult

LEFT: Box = (0, 0, 10, 10)
RIGHT: Box = (20, 0, 30, 10)
CAT = TrueConcept("cat", "cat", "subject", "cat", "noto", "instance", "animal")
YETI = TrueConcept("yeti", None, "subject", "yeti", "noto", "novel noun", "creature")
SHORE = TrueConcept("shore", "beach", "background", "beach", None, "place", "place")


def subject(concept: TrueConcept = CAT, identity: float = 0.5, **more: Any) -> ConceptScore:
    told = {"present": True, "rank": 0, "leakage": {}, "style_kept": None, "style_right": None, **more}
    return ConceptScore(concept=concept, identity=identity, **told)


def by_method(score: ImageScore, concept: TrueConcept | None) -> str:
    return score.method


def row(*scores: ImageScore) -> dict[str, float]:
    """Means by metric."""
    return {metric: found.mean.value for metric, found in image_rows(scores, by_method)["paper"].items()}


def test_what_no_image_has_is_in_no_row() -> None:
    assert row(BARE) == {"copy similarity": 0.2, "copies": 0.0}


def test_every_metric_of_a_row_is_explained() -> None:
    everything = replace(
        BARE,
        is_single=True,
        concepts=(subject(leakage={"dog": 0.1}, style_kept=True, style_right=False),),
        place_right=True,
        mixing=0.9,
        mixing_released=0.8,
        composition=0.7,
        text=0.3,
        distance=0.2,
        overall=0.6,
    )
    learned = replace(BARE, place=SHORE, place_right=True, place_likeness=0.9, known={"horse": 0.5})
    related = [
        replace(BARE, relation=RelationScore(word, True, (LEFT, RIGHT)))
        for word in ("left of", "above", "left of", "above")
    ]
    assert list(row(everything, learned, *related)) == list(METRICS)


def test_metrics_of_concepts_are_resampled_by_noun_and_those_of_images_by_scene() -> None:
    values = [("a", CAT, 0.2), ("b", CAT, 0.4), ("a", YETI, 0.9)]
    scores = [
        replace(BARE, set=scene, concepts=(subject(concept, value),), overall=value)
        for scene, concept, value in values
    ]
    rows = image_rows(scores, by_method)["paper"]
    numbers = [value for _, _, value in values]
    assert rows["identity"].mean == cluster_bootstrap(numbers, ["cat", "cat", "yeti"])
    assert rows["overall"].mean == cluster_bootstrap(numbers, ["a", "b", "a"])
    assert (rows["identity"].n, rows["identity"].clusters) == (3, 2)


def test_rows_split_by_what_is_true_of_a_concept_and_leave_out_what_has_no_group() -> None:
    scores = [replace(BARE, concepts=(subject(CAT, 0.2), subject(YETI, 0.8)))]
    rows = image_rows(scores, lambda _, concept: None if concept is None else concept.split)
    assert {name: found["identity"].mean.value for name, found in rows.items()} == {
        "instance": 0.2,
        "novel noun": 0.8,
    }
    assert all("copies" not in found for found in rows.values())


def test_single_subjects_alone_count_for_conceptexpress() -> None:
    single = replace(BARE, is_single=True)
    alone = replace(single, concepts=(subject(identity=0.9, rank=0),))
    second = replace(single, concepts=(subject(identity=0.7, rank=2),))
    missing = replace(single, concepts=(subject(identity=0.0, rank=None),))
    pair = replace(BARE, concepts=(subject(identity=0.1, rank=5), subject(YETI, 0.1, rank=5)))
    found = row(alone, second, missing, pair)
    assert found["SIM^I"] == pytest.approx(1.6 / 3)
    assert (found["ACC^1"], found["ACC^3"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_learned_and_known_places_are_told_apart() -> None:
    known = replace(BARE, place_right=True)
    learned = replace(BARE, place=SHORE, place_right=False, place_likeness=0.4)
    found = row(known, learned)
    assert (found["known place right"], found["learned place right"]) == (1.0, 0.0)


def test_copies_are_images_from_the_threshold_on() -> None:
    assert row(replace(BARE, memorisation=0.95), BARE)["copies"] == 0.5


# Differences of two methods


def test_a_difference_is_of_one_concept_in_one_image() -> None:
    def asked(cat: float, yeti: float, method: str, prompt: int = 0) -> ImageScore:
        told = (subject(CAT, cat), subject(YETI, yeti))
        return replace(BARE, method=method, prompt=prompt, concepts=told)

    ours = [asked(0.9, 0.1, "paper"), asked(1.0, 1.0, "paper", prompt=5)]
    found = paired_rows(ours, [asked(0.2, 0.4, "fixed")])
    assert found["identity"].change.mean == cluster_bootstrap([0.9 - 0.2, 0.1 - 0.4], ["cat", "yeti"])
    assert found["identity"].change.n == 2
    assert "mixing" not in found


def test_known_things_of_an_image_are_paired_each_with_itself() -> None:
    ours = replace(BARE, known={"horse": 0.9, "tent": 0.5})
    found = paired_rows([ours], [replace(BARE, known={"horse": 0.2, "tent": 0.1})])
    assert found["known thing"].change.mean.value == pytest.approx((0.7 + 0.4) / 2)


def test_metrics_of_concepts_of_one_noun_are_resampled_by_scene() -> None:
    scores = [
        replace(BARE, set=name, concepts=(subject(CAT, value),)) for name, value in (("a", 0.2), ("b", 0.6))
    ]
    found = image_rows(scores, by_method)["paper"]["identity"]
    assert found.mean == cluster_bootstrap([0.2, 0.6], ["a", "b"])


# Relations and their chance level


def related(relation: str, boxes: tuple[Box, Box] | None, holds: bool, method: str = "paper") -> ImageScore:
    return replace(BARE, method=method, relation=RelationScore(relation, holds, boxes))


def test_chance_is_what_the_methods_other_images_would_show() -> None:
    habit = [related("above", (LEFT, RIGHT), False), related("behind", (LEFT, RIGHT), False)]
    other = [
        related("above", (RIGHT, LEFT), False, "fixed"),
        related("behind", (RIGHT, LEFT), False, "fixed"),
    ]
    asked = [related("left of", (LEFT, RIGHT), True, method) for method in ("paper", "fixed")]
    chances = relation_chances([*habit, *other, *asked])
    assert chances["paper", "", "left of"] == 1.0  # it always places things so
    assert chances["fixed", "", "left of"] == 0.0


def test_a_relation_that_holds_by_habit_is_not_above_chance() -> None:
    habit = [related("above", (LEFT, RIGHT), False), related("behind", (LEFT, RIGHT), False)]
    rows = image_rows(
        [*habit, related("left of", (LEFT, RIGHT), True)],
        lambda score, _: score.relation.relation if score.relation else None,
    )
    assert rows["left of"]["relation true"].mean.value == 1.0
    assert rows["left of"]["relation above chance"].mean.value == 0.0


def test_missing_things_stand_in_no_relation_by_chance() -> None:
    habit = [related("above", (LEFT, RIGHT), False), related("behind", (LEFT, RIGHT), False)]
    asked = [related("left of", (LEFT, RIGHT), True), related("left of", None, False)]
    rows = image_rows([*habit, *asked], lambda score, _: score.relation.relation if score.relation else None)
    assert rows["left of"]["relation chance"].mean.value == 0.5
    assert rows["left of"]["relation chance"].n == 2


def test_where_no_image_shows_both_things_nothing_holds_by_chance() -> None:
    found = row(related("left of", None, False), related("above", None, False))
    assert (found["relation chance"], found["relation above chance"]) == (0.0, 0.0)


def test_a_chance_that_is_not_known_is_left_out_for_missing_things_too() -> None:
    asked = [related("left of", (LEFT, RIGHT), True), related("left of", None, False)]
    assert "relation chance" not in row(*asked)


def test_without_images_of_other_relations_chance_is_not_known() -> None:
    found = row(related("left of", (LEFT, RIGHT), True), related("above", (LEFT, RIGHT), False))
    assert "relation true" in found
    assert "relation chance" not in found


# Drift


def test_drift_is_how_much_the_loss_rose_by_method() -> None:
    def unit(name: str, method: Any, drift: tuple[float, float] | None) -> UnitResult:
        return UnitResult(UnitKey(name, method, 0), (), {}, {}, drift)

    results = [
        unit("a", "paper", (0.10, 0.12)),
        unit("b", "paper", (0.20, 0.26)),
        unit("a", "gt", (0.1, 0.1)),
        unit("a", "words", None),
    ]
    rows = drift_rows(results)
    assert set(rows) == {("paper", ""), ("gt", "")}
    assert rows["paper", ""].mean.value == pytest.approx(0.04)
    assert (rows["paper", ""].n, rows["paper", ""].clusters) == (2, 2)
