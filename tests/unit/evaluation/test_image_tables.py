"""Tables of images from planted scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bare_scores import BARE
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, PromptKind, TrueConcept
from conceptloom.evaluation.forced_choice import Trial, tally
from conceptloom.evaluation.image_rows import image_rows
from conceptloom.evaluation.image_sanity import REAL, WRONG
from conceptloom.evaluation.image_scores import ImageScore
from conceptloom.evaluation.image_tables import (
    OTHER_SEED,
    Judged,
    identity_table,
    image_change_split_table,
    image_change_table,
    kind_table,
    metric_split_table,
    metric_table,
    paired_trials,
    preference_split_table,
    preference_table,
    rivals_table,
)
from conceptloom.evaluation.image_view import ConceptScore
from conceptloom.evaluation.margins import Margin
from conceptloom.evaluation.plan import MASKS, QUICK
from conceptloom.evaluation.report import Measured, Table, measured
from conceptloom.evaluation.statistics import cluster_bootstrap, holm
from conceptloom.evaluation.units import UnitKey, UnitResult
from conceptloom.pictures import Picture

CAT = TrueConcept("cat", "cat", "subject", "cat", "noto", "instance", "animal")
YETI = TrueConcept("yeti", None, "subject", "yeti", "noto", "novel noun", "creature")

AGAIN = f"paper against {OTHER_SEED}"


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
    return replace(
        BARE,
        set=scene,
        method=method,
        seed=seed,
        prompt=prompt,
        kind=kind,
        index=index,
        concepts=concepts,
        memorisation=0.1,
        overall=overall,
    )


def judged(*compared: ImageScore, margin: float | None = 0.1, other: tuple[ImageScore, ...] = ()) -> Judged:
    return Judged(compared, other, (), None if margin is None else of_dev(margin), 3)


def of_dev(value: float) -> Margin:
    return Margin(value=value, benchmark="builtin", split="dev", sets=10, pairs=200)


def duel(ours: float, theirs: float, scene: str = "a", prompt: int = 0) -> tuple[ImageScore, ImageScore]:
    return score(scene, ours, prompt=prompt), score(scene, theirs, "fixed", prompt)


def cell(table: Table | None, label: str, column: str) -> Any:
    assert table is not None
    row = next(row for row in table.rows if row.label == label)
    found = row.cells[table.columns.index(column)]
    return found.value if isinstance(found, Measured) else found


def test_metrics_stand_in_rows_and_methods_between_ceiling_and_floor_in_columns() -> None:
    found = Judged(
        (score("a", 0.4), score("a", 0.2, "fixed")),
        (),
        (score("a", 0.9, REAL), score("a", 0.1, WRONG)),
        None,
        3,
    )
    table = metric_table(found, ["fixed", "paper"], [])
    assert table.columns == ("fixed", "paper", REAL, WRONG, "resampled")
    assert [cell(table, "overall", column) for column in table.columns[:-1]] == pytest.approx(
        [0.2, 0.4, 0.9, 0.1]
    )


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


def test_drift_counts_the_runs_that_drew_the_compared_images() -> None:
    def rose(by: float, seed: int = 0, variant: str = "") -> UnitResult:
        return UnitResult(UnitKey("a", "paper", seed, variant), (), {}, {}, (0.5, 0.5 + by))

    def drift(*units: UnitResult) -> Any:
        return cell(
            metric_table(judged(score("a", 0.4)), ["paper"], units), "drift of the base model", "paper"
        )

    assert drift(rose(0.25), rose(0.5, 1), rose(0.5, 0, MASKS)) == 0.25
    assert drift(rose(0.25, 0, QUICK)) == 0.25


def test_cells_are_the_rows_means_with_their_intervals() -> None:
    scores = [score(scene, value, subjects={"cat": value / 2}) for scene, value in (("a", 0.2), ("b", 0.8))]
    rows = image_rows(scores, lambda score, _: score.method)["paper"]
    table = metric_table(judged(*scores), ["paper"], [])
    assert [row.label for row in table.rows] == list(rows)
    assert [row.cells[0] for row in table.rows] == [measured(row.mean) for row in rows.values()]
    assert measured(rows["overall"].mean) == Measured(value=0.5, low=0.2, high=0.8)


@pytest.mark.parametrize(
    ("composed", "told"), [(True, "composed of the same drawings"), (False, "the sets' own pictures")]
)
def test_the_note_says_what_the_real_pictures_are(composed: bool, told: str) -> None:
    found = replace(judged(score("a", 0.4)), composed=composed)
    assert told in metric_table(found, ["paper"], []).note


def test_the_note_says_of_how_many_subjects_accuracies_are() -> None:
    found = replace(judged(score("a", 0.4)), subjects=39)
    note = metric_table(found, ["paper"], []).note
    assert "The sets that draw learn 39 different subjects." in note


def learned(*names: str) -> Benchmark:
    """Sets of a cat and a yeti in one picture."""
    pictures = (Picture("p", None, np.zeros((4, 4, 3), np.uint8)),)
    sets = (BenchmarkSet(name, pictures, (CAT, YETI), {"p": ("cat", "yeti")}, (), "photo") for name in names)
    return Benchmark("b", "dev", tuple(sets))


def test_changes_of_images_are_paired_and_say_over_how_many_nouns_or_scenes() -> None:
    ours = [
        score("a", 0.9, subjects={"cat": 0.8, "yeti": 0.2}),
        score("b", 0.5, subjects={"cat": 0.6}),
        score("c", 1.0, subjects={"cat": 1.0}),  # drawn by us alone
    ]
    theirs = [
        score("a", 0.3, "fixed", subjects={"cat": 0.5, "yeti": 0.3}),
        score("b", 0.4, "fixed", subjects={"cat": 0.5}),
    ]
    table = image_change_table(judged(*ours, *theirs), ["paper"], "fixed")
    label = "paper less fixed: identity"
    assert cell(table, label, "difference") == pytest.approx((0.3 + 0.1 - 0.1) / 3)
    assert (cell(table, label, "values"), cell(table, label, "resampled")) == (3, 2)
    label = "paper less fixed: overall"
    assert cell(table, label, "difference") == pytest.approx((0.6 + 0.1) / 2)
    assert (cell(table, label, "values"), cell(table, label, "resampled")) == (2, 2)


def test_p_values_of_changes_are_wilcoxons_over_scenes_and_corrected_over_all_rows() -> None:
    rng = np.random.default_rng(0)
    gains = {method: rng.uniform(-0.1, 0.3, 8).tolist() for method in ("paper", "refined")}
    scores = [score(f"s{index}", 0.5, "fixed") for index in range(8)]
    scores += [
        score(f"s{i}", 0.5 + gain, method) for method, own in gains.items() for i, gain in enumerate(own)
    ]
    table = image_change_table(judged(*scores), ["paper", "refined"], "fixed")
    assert table is not None
    for method, own in gains.items():
        expected = stats.wilcoxon(own).pvalue
        assert cell(table, f"{method} less fixed: overall", "p") == pytest.approx(expected)
    raw = [cell(table, row.label, "p") for row in table.rows]
    assert [cell(table, row.label, "corrected p") for row in table.rows] == pytest.approx(holm(raw))


def test_changes_need_images_of_both_methods() -> None:
    alone = judged(score("a", 0.5))
    assert image_change_table(alone, ["paper"], "fixed") is None
    assert image_change_split_table(alone, learned("a"), ["paper"], "fixed") is None
    assert preference_split_table(alone, learned("a"), ["paper"], "fixed") is None


def test_changes_of_images_are_split_by_what_is_learned_and_asked_for() -> None:
    ours = [score("a", 0.9, subjects={"cat": 0.8}), score("a", 0.5, prompt=1, subjects={"yeti": 0.2})]
    theirs = [
        score("a", 0.4, "fixed", subjects={"cat": 0.4}),
        score("a", 0.4, "fixed", prompt=1, subjects={"yeti": 0.1}),
    ]
    table = image_change_split_table(judged(*ours, *theirs), learned("a"), ["paper"], "fixed")
    told = {
        title: (
            cell(table, f"paper less fixed: {title}", "identity"),
            cell(table, f"paper less fixed: {title}", "overall"),
        )
        for title in ("instances of known nouns", "novel nouns", "one picture")
    }
    assert told == {
        "instances of known nouns": (pytest.approx(0.4), pytest.approx(0.5)),
        "novel nouns": (pytest.approx(0.1), pytest.approx(0.1)),
        "one picture": (pytest.approx(0.25), pytest.approx(0.3)),
    }


def test_votes_are_split_by_what_an_image_was_asked_for() -> None:
    ours = [
        score("a", 0.9, subjects={"cat": 0.8}),
        score("b", 0.1, subjects={"cat": 0.8, "yeti": 0.1}),
    ]
    theirs = [
        score("a", 0.4, "fixed", subjects={"cat": 0.8}),
        score("b", 0.8, "fixed", subjects={"cat": 0.8, "yeti": 0.1}),
    ]
    table = preference_split_table(judged(*ours, *theirs), learned("a", "b"), ["paper"], "fixed")
    told = {
        title: [cell(table, f"paper: {title}", column) for column in ("fixed", "ours", "votes", "scenes")]
        for title in ("instances of known nouns", "novel nouns", "one subject asked for")
    }
    assert told == {
        "instances of known nouns": [0.5, 0.5, 2, 2],
        "novel nouns": [1, 0, 1, 1],
        "one subject asked for": [0, 1, 1, 1],
    }


def test_identity_is_split_by_what_is_learned() -> None:
    blank = np.zeros((4, 4, 3), np.uint8)
    one = BenchmarkSet("a", (Picture("p", None, blank),), (CAT, YETI), {"p": ("cat", "yeti")}, (), "photo")
    table = identity_table(
        judged(score("a", 0.4, subjects={"cat": 0.8, "yeti": 0.2})), Benchmark("b", "dev", (one,)), ["paper"]
    )
    assert cell(table, "instances of known nouns", "paper") == pytest.approx(0.8)
    assert cell(table, "novel nouns", "paper") == pytest.approx(0.2)
    assert cell(table, "several subjects asked for", "values") == 2
    assert cell(table, "several subjects asked for", "resampled") == 2
    assert "on a learned pattern" not in {row.label for row in table.rows}


def test_every_metric_is_split_by_what_is_learned_and_by_how_much_is_asked_for() -> None:
    scores = [
        replace(score("a", 0.6, subjects={"cat": 0.8, "yeti": 0.2}), distance=0.5),
        replace(score("a", 0.2, prompt=1, subjects={"cat": 0.4}), distance=0.1),
        score("a", 0.9, "words", subjects={"cat": 0.1}),
    ]
    table = metric_split_table(judged(*scores), learned("a"), ["words", "paper"], [])
    told = {
        label: cell(table, label, "paper")
        for label in (
            "identity: instances of known nouns",
            "identity: novel nouns",
            "diversity: novel nouns",
            "diversity: one subject asked for",
            "overall: one picture",
            "copies: on a learned photograph",
        )
    }
    assert list(told.values()) == pytest.approx([0.6, 0.2, 0.5, 0.1, 0.4, 0])
    assert cell(table, "overall: instances of known nouns", "words") == pytest.approx(0.9)
    assert cell(table, "overall: novel nouns", "words") is None


def test_groups_and_metrics_that_no_image_has_have_no_row() -> None:
    table = metric_split_table(judged(score("a", 0.6, subjects={"cat": 0.8})), learned("a"), ["paper"], [])
    labels = {row.label for row in table.rows}
    assert "overall: instances of known nouns" in labels
    assert not {"overall: two pictures", "overall: novel nouns", "mixing: one picture"} & labels


def test_split_metrics_say_over_how_many_nouns_or_scenes_they_are() -> None:
    scores = [score("a", 0.6, subjects={"cat": 0.8, "yeti": 0.2}), score("b", 0.2, subjects={"cat": 0.4})]
    table = metric_split_table(judged(*scores), learned("a", "b"), ["paper"], [])
    assert cell(table, "identity: one picture", "resampled") == 2  # a cat and a yeti
    assert cell(table, "identity: novel nouns", "resampled") == 1
    expected = measured(cluster_bootstrap([0.6, 0.2], ["a", "b"]))
    (row,) = (row for row in table.rows if row.label == "overall: one picture")
    assert row.cells == (expected, 2)


def test_drift_is_split_by_what_the_run_learned() -> None:
    photograph, other = learned("a", "b").sets
    sets = Benchmark("b", "dev", (photograph, replace(other, place_type="pattern")))
    units = [
        UnitResult(UnitKey(scene, "paper", 0), (), {}, {}, (0.5, 0.5 + rise))
        for scene, rise in (("a", 0.25), ("b", 0.75))
    ]
    table = metric_split_table(judged(score("a", 0.4)), sets, ["paper"], units)
    told = [
        cell(table, f"drift of the base model: {title}", "paper")
        for title in ("novel nouns", "on a learned photograph", "on a learned pattern")
    ]
    assert told == [0.5, 0.25, 0.75]


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
    table = preference_table(judged(*pairs), ["paper"], "fixed")
    shares = [
        cell(table, f"paper: automatic judge, {factor} x margin", "neutral") for factor in ("0.5", "1", "2")
    ]
    assert shares == pytest.approx([0, 1 / 3, 2 / 3])
    assert cell(table, "paper: automatic judge, 1 x margin, decided votes", "ours") == pytest.approx(0.5)
    assert cell(table, "paper: automatic judge, 1 x margin, decided votes", "votes") == 2


def test_where_every_vote_is_a_tie_no_share_of_decided_votes_is_told() -> None:
    table = preference_table(judged(*duel(0.55, 0.5)), ["paper"], "fixed")
    label = "paper: automatic judge, 2 x margin, decided votes"
    assert [cell(table, label, column) for column in ("fixed", "ours", "votes", "p")] == [None, None, 0, 1]


def test_without_a_margin_there_is_no_table_one_even_of_two_methods() -> None:
    pair = duel(0.9, 0.1)
    assert preference_table(judged(*pair), ["paper"], "fixed") is not None
    assert preference_table(judged(*pair, margin=None), ["paper"], "fixed") is None
    assert rivals_table(judged(*pair, margin=None), ["paper"], ["paper", "fixed"]) is None


def test_the_note_says_where_the_margin_was_measured() -> None:
    found = judged(*duel(0.9, 0.1))
    coco = Margin(value=0.1, benchmark="coco", split="val2017", sets=1, pairs=2)
    for place, told in (
        (found, "builtin dev (10 sets, 200 pairs of images)."),
        (
            replace(found, margin=coco),
            "coco val2017 (1 set, 2 pairs of images), the sets that are compared here.",
        ),
    ):
        table = preference_table(place, ["paper"], "fixed")
        assert table is not None
        assert f"0.1000, is the median absolute difference between two seeds of paper on {told}" in table.note


def test_the_papers_shares_are_those_of_its_table_one() -> None:
    table = preference_table(judged(*duel(0.9, 0.1)), ["paper"], "fixed")
    assert table is not None
    shares = {row.label: row.cells[:3] for row in table.rows if row.label.startswith("the paper")}
    assert {
        label: [round(100 * entry.value, 2) for entry in cells if isinstance(entry, Measured) and entry.value]
        for label, cells in shares.items()
    } == {
        "the paper, Random: 11 people": [10.92, 17.29, 71.8],
        "the paper, Random: 11 people, decided votes": [13.2, 86.8],
        "the paper, MSCOCO: 17 people": [21.87, 18.69, 59.44],
        "the paper, MSCOCO: 17 people, decided votes": [26.9, 73.1],
    }
    assert all(cells[1] is None for label, cells in shares.items() if label.endswith("decided votes"))


def test_a_protocol_has_rows_of_its_own_over_the_images_that_it_draws() -> None:
    found = judged(*duel(0.9, 0.1, "a"), *duel(0.1, 0.9, "b"), *duel(0.8, 0.2, "b", prompt=1))
    table = preference_table(found, ["paper"], "fixed", {"random": {("a", 0, 0), ("b", 1, 0)}})
    label = "paper, protocol random: automatic judge, 1 x margin"
    assert [cell(table, label, column) for column in ("fixed", "ours", "votes", "scenes")] == [0, 1, 2, 2]
    assert cell(table, "paper: automatic judge, 1 x margin", "votes") == 3
    assert table is not None
    assert "Rows of a protocol are over the images that its study for people is made from" in table.note


def test_a_protocols_rows_stand_before_the_papers() -> None:
    table = preference_table(judged(*duel(0.9, 0.1)), ["paper"], "fixed", {"coco": {("a", 0, 0)}})
    assert table is not None
    firsts = list(dict.fromkeys(row.label.partition(":")[0] for row in table.rows))
    assert firsts == ["paper", "paper, protocol coco", "the paper, Random", "the paper, MSCOCO"]


def test_without_a_study_no_row_is_of_a_protocol() -> None:
    table = preference_table(judged(*duel(0.9, 0.1)), ["paper"], "fixed")
    assert table is not None
    assert not [row.label for row in table.rows if "protocol" in row.label]
    assert "protocol" not in table.note


def test_the_papers_rows_stand_beside_with_its_voters_and_their_decided_votes() -> None:
    table = preference_table(judged(*duel(0.9, 0.1)), ["paper"], "fixed")
    assert cell(table, "the paper, Random: 11 people", "ours") == pytest.approx(0.718)
    assert cell(table, "the paper, MSCOCO: 17 people", "fixed") == pytest.approx(0.2187)
    assert cell(table, "the paper, Random: 11 people, decided votes", "ours") == pytest.approx(
        0.718 / (0.718 + 0.1092)
    )


@pytest.mark.parametrize("margin", [None, 0.1])
def test_without_a_margin_or_a_rival_there_is_no_forced_choice(margin: float | None) -> None:
    alone = judged(score("a", 0.5), margin=margin)
    assert preference_table(alone, ["paper"], "fixed") is None
    assert rivals_table(alone, ["paper"], ["paper", "fixed"]) is None


def test_our_method_against_itself_with_planted_symmetric_scores_has_even_odds() -> None:
    values = [(0.2, 0.8), (0.8, 0.2), (0.5, 0.5)]
    ours = [score(f"s{i}", mine) for i, (mine, _) in enumerate(values)]
    again = tuple(score(f"s{i}", other, seed=1) for i, (_, other) in enumerate(values))
    table = rivals_table(judged(*ours, other=again), ["paper"], ["paper"])
    assert cell(table, AGAIN, "rival") == cell(table, AGAIN, "ours")
    assert cell(table, AGAIN, "p") == 1


def test_exchanging_the_seeds_of_our_method_exchanges_the_odds_and_leaves_p() -> None:
    rng = np.random.default_rng(0)
    first, second = (
        [score(f"s{i}", value, seed=seed) for i, value in enumerate(rng.random(40).tolist())]
        for seed in (0, 1)
    )
    table, turned = (
        rivals_table(judged(*mine, other=tuple(again)), ["paper"], ["paper"])
        for mine, again in ((first, second), (second, first))
    )
    for column, other in (("ours", "rival"), ("rival", "ours"), ("neutral", "neutral"), ("p", "p")):
        assert cell(table, AGAIN, column) == cell(turned, AGAIN, other)
    assert cell(table, AGAIN, "p") > 0.05


def test_p_values_of_several_rivals_are_corrected_by_holm() -> None:
    scenes = [f"s{i}" for i in range(8)]
    ours = [score(scene, 0.9) for scene in scenes]
    fixed = [score(scene, 0.1, "fixed") for scene in scenes]
    words = [score(scene, 0.1 if i else 0.99, "words") for i, scene in enumerate(scenes)]
    table = rivals_table(judged(*ours, *fixed, *words, margin=0.05), ["paper"], ["fixed", "paper", "words"])
    raw = [tally(paired_trials(ours, rival), 0.05).p_value for rival in (fixed, words)]
    assert [cell(table, f"paper against {name}", "p") for name in ("fixed", "words")] == pytest.approx(raw)
    assert [
        cell(table, f"paper against {name}", "corrected p") for name in ("fixed", "words")
    ] == pytest.approx(holm(raw))


def test_scores_that_no_judge_gave_are_no_trials() -> None:
    ours = [replace(score("a", 0.9), overall=None)]
    assert paired_trials(ours, [score("a", 0.1, "fixed")]) == []


def test_both_methods_of_ours_are_voted_for_in_groups_of_rows_and_meet_once() -> None:
    scores = {"fixed": 0.2, "paper": 0.5, "refined": 0.8, "words": 0.1}
    found = judged(*(score("a", value, name) for name, value in scores.items()))
    table_one = preference_table(found, ["paper", "refined"], "fixed")
    assert table_one is not None
    labels = [row.label for row in table_one.rows if "1 x margin" in row.label and "decided" not in row.label]
    assert labels == ["paper: automatic judge, 1 x margin", "refined: automatic judge, 1 x margin"]
    rivals = rivals_table(found, ["paper", "refined"], ["fixed", "paper", "refined", "words"])
    assert rivals is not None
    assert [row.label for row in rivals.rows] == [
        "paper against fixed",
        "paper against words",
        "refined against fixed",
        "refined against paper",
        "refined against words",
    ]
    assert [cell(rivals, row.label, "ours") for row in rivals.rows] == [1] * 5


def test_the_note_says_whose_seeds_the_margin_is_of() -> None:
    margin = of_dev(0.1).model_copy(update={"method": "refined"})
    found = replace(judged(score("a", 0.9, "refined"), score("a", 0.1, "fixed")), margin=margin)
    made = preference_table(found, ["refined"], "fixed")
    assert made is not None
    assert "between two seeds of refined on builtin dev" in made.note
