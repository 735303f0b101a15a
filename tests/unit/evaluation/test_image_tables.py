"""Tables of images from planted scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, PromptKind, TrueConcept
from conceptloom.evaluation.forced_choice import Trial, tally
from conceptloom.evaluation.image_sanity import REAL, WRONG
from conceptloom.evaluation.image_scores import ImageScore
from conceptloom.evaluation.image_tables import (
    OTHER_SEED,
    Judged,
    identity_table,
    kind_table,
    metric_table,
    paired_trials,
    preference_table,
    rivals_table,
)
from conceptloom.evaluation.image_view import ConceptScore
from conceptloom.evaluation.report import Measured, Table
from conceptloom.evaluation.statistics import holm
from conceptloom.evaluation.units import UnitKey, UnitResult
from conceptloom.pictures import Picture

CAT = TrueConcept("cat", "cat", "subject", "cat", "noto", "instance", "animal")
YETI = TrueConcept("yeti", None, "subject", "yeti", "noto", "novel noun", "creature")


def score(
    scene: str,
    overall: float,
    method: str = "paper",
    prompt: int = 0,
    index: int = 0,
    seed: int = 0,
    kind: PromptKind = "context",
    subjects: dict[str, float] | None = None,
) -> ImageScore:
    named = {"cat": CAT, "yeti": YETI}
    concepts = tuple(
        ConceptScore(named[name], identity, identity > 0.5, 0, {}, None, None)
        for name, identity in (subjects or {}).items()
    )
    absent: dict[str, Any] = dict.fromkeys(
        ("relation", "place", "place_right", "place_likeness", "mixing", "mixing_released")
    )
    return ImageScore(
        set=scene,
        method=method,
        variant="",
        seed=seed,
        prompt=prompt,
        kind=kind,
        index=index,
        is_single=False,
        concepts=concepts,
        known={},
        composition=None,
        text=None,
        distance=None,
        memorisation=0.1,
        overall=overall,
        **absent,
    )


def judged(*compared: ImageScore, margin: float | None = 0.1, other: tuple[ImageScore, ...] = ()) -> Judged:
    return Judged(compared, other, (), margin)


def duel(ours: float, theirs: float, scene: str = "a", prompt: int = 0) -> tuple[ImageScore, ImageScore]:
    return score(scene, ours, prompt=prompt), score(scene, theirs, "fixed", prompt)


def cell(table: Table | None, label: str, column: str) -> Any:
    assert table is not None
    row = next(row for row in table.rows if row.label == label)
    found = row.cells[table.columns.index(column)]
    return found.value if isinstance(found, Measured) else found


def test_metrics_stand_in_rows_and_methods_between_ceiling_and_floor_in_columns() -> None:
    found = Judged(
        (score("a", 0.4), score("a", 0.2, "fixed")), (), (score("a", 0.9, REAL), score("a", 0.1, WRONG)), None
    )
    table = metric_table(found, ["fixed", "paper"], [])
    assert table.columns == ("fixed", "paper", REAL, WRONG)
    assert [cell(table, "overall", column) for column in table.columns] == pytest.approx([0.2, 0.4, 0.9, 0.1])


def test_a_metric_that_no_image_has_has_no_row_and_no_explanation() -> None:
    table = metric_table(judged(score("a", 0.4)), ["paper"], [])
    assert "mixing" not in {row.label for row in table.rows}
    assert "mixing:" not in table.note


def test_drift_is_told_by_method() -> None:
    unit = UnitResult(UnitKey("a", "paper", 0), (), {}, {}, (0.5, 0.75))
    assert (
        cell(metric_table(judged(score("a", 0.4)), ["paper"], [unit]), "drift of the base model", "paper")
        == 0.25
    )


def test_identity_is_split_by_what_is_learned() -> None:
    blank = np.zeros((4, 4, 3), np.uint8)
    one = BenchmarkSet("a", (Picture("p", None, blank),), (CAT, YETI), {"p": ("cat", "yeti")}, (), "photo")
    table = identity_table(
        judged(score("a", 0.4, subjects={"cat": 0.8, "yeti": 0.2})), Benchmark("b", "dev", (one,)), ["paper"]
    )
    assert cell(table, "instances of known nouns", "paper") == pytest.approx(0.8)
    assert cell(table, "novel nouns", "paper") == pytest.approx(0.2)
    assert cell(table, "several subjects asked for", "values") == 2
    assert "on a learned pattern" not in {row.label for row in table.rows}


def test_scores_are_split_by_kind_of_prompt() -> None:
    table = kind_table(judged(score("a", 0.4), score("a", 0.8, kind="style")), ["paper"])
    assert [row.label for row in table.rows] == ["context", "style"]
    assert cell(table, "style", "paper") == pytest.approx(0.8)


def test_trials_pair_images_of_one_set_prompt_and_number() -> None:
    ours = [score("a", 0.9), score("a", 0.8, index=1), score("b", 0.7)]
    theirs = [score("a", 0.3, "fixed"), score("b", 0.2, "fixed", prompt=5)]
    assert paired_trials(ours, theirs) == [Trial("a", "0", 0.9, 0.3)]


def test_votes_at_half_once_and_twice_the_margin() -> None:
    # Differences .06, .15 and .5 at margin .1: one is a tie at once, two at twice, none at half the margin.
    pairs = [
        *duel(0.56, 0.5, "a", 0),
        *duel(0.65, 0.5, "b", 1),
        *duel(0.2, 0.7, "c", 2),
    ]
    table = preference_table(judged(*pairs), "paper", "fixed")
    shares = [cell(table, f"automatic judge, {factor} x margin", "neutral") for factor in ("0.5", "1", "2")]
    assert shares == pytest.approx([0, 1 / 3, 2 / 3])
    assert cell(table, "automatic judge, 1 x margin, decided votes", "paper") == pytest.approx(0.5)
    assert cell(table, "automatic judge, 1 x margin, decided votes", "votes") == 2


def test_the_papers_rows_stand_beside_with_its_voters_and_their_decided_votes() -> None:
    table = preference_table(judged(*duel(0.9, 0.1)), "paper", "fixed")
    assert cell(table, "the paper, Random: 11 people", "paper") == pytest.approx(0.718)
    assert cell(table, "the paper, MSCOCO: 17 people", "fixed") == pytest.approx(0.2187)
    assert cell(table, "the paper, Random: 11 people, decided votes", "paper") == pytest.approx(
        0.718 / (0.718 + 0.1092)
    )


@pytest.mark.parametrize("margin", [None, 0.1])
def test_without_a_margin_or_a_rival_there_is_no_forced_choice(margin: float | None) -> None:
    alone = judged(score("a", 0.5), margin=margin)
    assert preference_table(alone, "paper", "fixed") is None
    assert rivals_table(alone, "paper", ["paper", "fixed"]) is None


def test_our_method_against_itself_with_planted_symmetric_scores_has_even_odds() -> None:
    values = [(0.2, 0.8), (0.8, 0.2), (0.5, 0.5)]
    ours = [score(f"s{i}", mine) for i, (mine, _) in enumerate(values)]
    again = tuple(score(f"s{i}", other, seed=1) for i, (_, other) in enumerate(values))
    table = rivals_table(judged(*ours, other=again), "paper", ["paper"])
    assert cell(table, OTHER_SEED, "rival") == cell(table, OTHER_SEED, "paper")
    assert cell(table, OTHER_SEED, "p") == 1


def test_p_values_of_several_rivals_are_corrected_by_holm() -> None:
    scenes = [f"s{i}" for i in range(8)]
    ours = [score(scene, 0.9) for scene in scenes]
    fixed = [score(scene, 0.1, "fixed") for scene in scenes]
    words = [score(scene, 0.1 if i else 0.99, "words") for i, scene in enumerate(scenes)]
    table = rivals_table(judged(*ours, *fixed, *words, margin=0.05), "paper", ["fixed", "paper", "words"])
    raw = [tally(paired_trials(ours, rival), 0.05).p_value for rival in (fixed, words)]
    assert [cell(table, name, "p") for name in ("fixed", "words")] == pytest.approx(raw)
    assert [cell(table, name, "corrected p") for name in ("fixed", "words")] == pytest.approx(holm(raw))


def test_scores_that_no_judge_gave_are_no_trials() -> None:
    ours = [replace(score("a", 0.9), overall=None)]
    assert paired_trials(ours, [score("a", 0.1, "fixed")]) == []
