"""The automatic judge's forced choice: closed forms, mirror images, and even odds for a method against itself."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from conceptloom.evaluation.forced_choice import (
    JUDGE,
    PAPER_ROWS,
    Tally,
    Trial,
    neutral_margin,
    table,
    tally,
    vote,
)

SCENES, PROMPTS = 20, 10


def swapped(trials: list[Trial]) -> list[Trial]:
    return [replace(trial, ours=trial.baseline, baseline=trial.ours) for trial in trials]


def trials_of(differences: dict[str, list[float]]) -> list[Trial]:
    return [
        Trial(scene, f"prompt {index}", 0.5 + difference, 0.5)
        for scene, values in differences.items()
        for index, difference in enumerate(values)
    ]


def simulated(seed: int, advantage: float = 0.0) -> list[Trial]:
    """Scores that scene and prompt make hard or easy for both methods; the advantage differs by scene."""
    rng = np.random.default_rng(seed)
    scene_level = rng.normal(0, 0.3, SCENES)
    leaning = rng.normal(advantage, 0.05, SCENES)  # a scene's trials lean to one side together
    trials = []
    for scene in range(SCENES):
        for prompt in range(PROMPTS):
            ours, baseline = scene_level[scene] + rng.normal(0, 0.1, 2)
            trials.append(Trial(f"scene {scene}", f"prompt {prompt}", ours + leaning[scene], baseline))
    return trials


def seed_pairs(seed: int, count: int) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in np.random.default_rng(seed).normal(0, 0.1, (count, 2))]


# The margin -------------------------------------------------------------------------------------------------------


def test_the_margin_is_the_median_absolute_difference_of_two_seeds() -> None:
    assert neutral_margin([(0.0, 0.5), (1.0, 0.75), (2.0, 4.0)]) == 0.5
    assert neutral_margin([(0.0, 0.5), (1.0, 0.75)]) == 0.375


def test_the_margin_of_normal_scores_is_their_known_quantile() -> None:
    expected = 0.1 * math.sqrt(2) * stats.norm.ppf(0.75)  # median of |X - Y|
    assert neutral_margin(seed_pairs(0, 20_000)) == pytest.approx(expected, rel=0.02)


def test_the_order_of_the_two_seeds_does_not_move_the_margin() -> None:
    pairs = seed_pairs(1, 31)
    assert neutral_margin(pairs) == neutral_margin([(b, a) for a, b in pairs])


def test_at_the_margin_half_of_a_methods_comparisons_with_itself_are_ties() -> None:
    margin = neutral_margin(seed_pairs(2, 2000))
    ties = [vote(a, b, margin) == "neutral" for a, b in seed_pairs(3, 2000)]
    assert np.mean(ties) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("pairs", [[], [(0.0, math.nan)], [(math.inf, 0.0)]])
def test_a_margin_of_nothing_or_of_no_numbers_is_refused(pairs) -> None:
    with pytest.raises(ValueError, match="pairs of scores"):
        neutral_margin(pairs)


# A vote -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "baseline", "margin", "answer"),
    [
        (0.75, 0.5, 0.125, "ours"),
        (0.5, 0.75, 0.125, "baseline"),
        (0.5, 0.5625, 0.125, "neutral"),
        (0.625, 0.5, 0.125, "neutral"),  # the margin itself is a tie
        (0.5, 0.5, 0.0, "neutral"),
        (0.5 + 2**-30, 0.5, 0.0, "ours"),
    ],
)
def test_a_vote_goes_to_the_higher_score_beyond_the_margin(ours, baseline, margin, answer) -> None:
    assert vote(ours, baseline, margin) == answer


@pytest.mark.parametrize("numbers", [(math.nan, 0, 0), (0, math.inf, 0), (0, 0, -0.1), (0, 0, math.nan)])
def test_scores_and_margins_that_are_no_numbers_are_refused(numbers) -> None:
    with pytest.raises(ValueError, match="expected finite numbers"):
        vote(*numbers)


# A tally ----------------------------------------------------------------------------------------------------------


def test_shares_are_counts_over_all_votes_and_over_the_decided_ones() -> None:
    found = tally(trials_of({"a": [1, 1, 0, -1], "b": [1, 1, 0, 0]}), 0.5)
    assert found.counts == {"ours": 4, "neutral": 3, "baseline": 1}
    assert [found.shares[answer].value for answer in ("ours", "neutral", "baseline")] == [0.5, 0.375, 0.125]
    assert [found.decided[answer].value for answer in ("ours", "baseline")] == [0.8, 0.2]


def test_the_test_counts_scenes_and_not_images() -> None:
    found = tally(trials_of({"a": [1] * 50, "b": [1, 1, -1], "c": [-1, 0], "d": [1, -1], "e": [0]}), 0.5)
    assert found.scenes == 5
    assert found.majorities == (2, 1)
    assert found.p_value == pytest.approx(stats.binomtest(2, 3).pvalue)


def test_an_interval_over_whole_scenes_is_wider_than_one_over_scattered_votes() -> None:
    together = tally(trials_of({f"s{k}": [1.0 if k % 2 else -1.0] * 10 for k in range(20)}), 0.5).shares[
        "ours"
    ]
    scattered = tally(trials_of({f"s{k}": [1.0, -1.0] * 5 for k in range(20)}), 0.5).shares["ours"]
    assert together.value == scattered.value == 0.5
    assert scattered.high == scattered.low == 0.5
    # twenty independent coins of one half: 1.96 * sqrt(.25 / 20)
    assert together.high - together.value == pytest.approx(1.96 * math.sqrt(0.25 / 20), abs=0.04)


def test_more_images_of_the_same_scenes_do_not_narrow_an_interval() -> None:
    few = {f"s{k}": [1.0 if k % 3 else -1.0] * 2 for k in range(12)}
    many = {scene: values * 20 for scene, values in few.items()}
    assert tally(trials_of(few), 0.5).shares == tally(trials_of(many), 0.5).shares


def test_shares_add_up_to_one() -> None:
    found = tally(simulated(0, 0.05), 0.1)
    assert sum(share.value for share in found.shares.values()) == pytest.approx(1)
    assert sum(share.value for share in found.decided.values()) == pytest.approx(1)


def test_where_every_vote_is_a_tie_nothing_is_decided() -> None:
    found = tally(trials_of({"a": [0.1], "b": [-0.1]}), 0.5)
    assert found.shares["neutral"].value == 1
    assert math.isnan(found.decided["ours"].value)
    assert found.p_value == 1


def test_no_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="no trials"):
        tally([], 0.1)


# Mirror images and even odds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_exchanging_ours_and_baseline_mirrors_every_number_exactly(seed: int) -> None:
    trials = simulated(seed, 0.08)
    for row, mirrored in zip(table(trials, 0.1), table(swapped(trials), 0.1), strict=True):
        assert mirrored == replace(row, ours=row.baseline, baseline=row.ours)
    found, other = tally(trials, 0.1), tally(swapped(trials), 0.1)
    assert other.majorities == found.majorities[::-1]
    assert other.counts == {
        "ours": found.counts["baseline"],
        "neutral": found.counts["neutral"],
        "baseline": found.counts["ours"],
    }


def test_the_mirror_is_not_of_a_blank_face() -> None:
    found = tally(simulated(0, 0.08), 0.1)
    assert found.decided["ours"].low > found.decided["baseline"].high


@pytest.mark.parametrize("seed", range(4))
def test_same_against_same_in_both_orders_gives_exactly_even_odds(seed: int) -> None:
    trials = simulated(seed)
    found = tally([*trials, *swapped(trials)], 0.1)
    assert found.counts["ours"] == found.counts["baseline"] > 0
    assert found.decided["ours"].value == found.decided["baseline"].value == 0.5
    assert found.decided["ours"].low <= 0.5 <= found.decided["ours"].high
    assert found.majorities == (0, 0)


@pytest.fixture(scope="module")
def same_against_same() -> list[Tally]:
    """A hundred evaluations of a method against itself, twenty scenes each."""
    margin = neutral_margin(seed_pairs(4, 500))
    return [tally(simulated(1000 + seed), margin) for seed in range(100)]


def test_same_against_same_gives_even_odds_within_its_interval(same_against_same: list[Tally]) -> None:
    intervals = [found.decided["ours"] for found in same_against_same]
    inside = [interval.low <= 0.5 <= interval.high for interval in intervals]
    assert (
        np.mean(inside) >= 0.88
    )  # 95 % less two standard errors and the bootstrap's shortfall with few scenes
    assert np.mean([interval.value for interval in intervals]) == pytest.approx(0.5, abs=0.015)


def test_the_sign_test_seldom_rejects_even_odds_that_hold(same_against_same: list[Tally]) -> None:
    assert np.mean([found.p_value < 0.05 for found in same_against_same]) <= 0.05 + 2 * math.sqrt(
        0.05 * 0.95 / 100
    )


def test_ignoring_scenes_would_claim_differences_where_there_are_none(same_against_same: list[Tally]) -> None:
    counts = [found.counts for found in same_against_same]
    naive = [stats.binomtest(n["ours"], n["ours"] + n["baseline"]).pvalue < 0.05 for n in counts]
    assert np.mean(naive) > 0.10


# The table --------------------------------------------------------------------------------------------------------


def test_the_table_has_half_once_and_twice_the_margin_with_and_without_ties() -> None:
    rows = table(simulated(0), 0.08)
    assert [(row.factor, row.margin, row.ties) for row in rows] == [
        (0.5, 0.04, True),
        (0.5, 0.04, False),
        (1.0, 0.08, True),
        (1.0, 0.08, False),
        (2.0, 0.16, True),
        (2.0, 0.16, False),
    ]


def test_a_row_without_ties_leaves_the_neutral_votes_out() -> None:
    trials = trials_of({"a": [1, 1, 0, -1], "b": [1, 1, 0, 0]})
    row = next(row for row in table(trials, 0.5) if row.factor == 1 and not row.ties)
    assert (row.neutral, row.votes, row.ours.value, row.baseline.value) == (None, 5, 0.8, 0.2)


def test_a_row_without_ties_counts_the_scenes_that_its_votes_come_from() -> None:
    trials = trials_of({"a": [1, 0], "b": [-1], "c": [0, 0]})
    rows = [row for row in table(trials, 0.5) if row.factor == 1]
    assert [(row.ties, row.scenes) for row in rows] == [(True, 3), (False, 2)]


def test_a_wider_margin_never_makes_fewer_ties() -> None:
    ties = [row.neutral.value for row in table(simulated(3), 0.08) if row.neutral is not None]
    assert ties[0] < ties[1] < ties[2]


def test_the_voter_is_named_as_what_it_is() -> None:
    assert {row.voter for row in table(simulated(0), 0.1)} == {JUDGE} == {"automatic judge"}
    assert [row.voter for row in PAPER_ROWS] == ["11 people", "17 people"]


def test_the_papers_rows_are_as_printed_and_their_decided_shares_follow() -> None:
    printed = [
        (round(100 * row.baseline, 2), round(100 * row.neutral, 2), round(100 * row.ours, 2))
        for row in PAPER_ROWS
    ]
    assert printed == [(10.92, 17.29, 71.8), (21.87, 18.69, 59.44)]
    assert [row.decided for row in PAPER_ROWS] == pytest.approx([0.868, 0.731], abs=5e-4)
