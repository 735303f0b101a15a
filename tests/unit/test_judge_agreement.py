"""How far a judge agrees with a person (`benchmarks/judge_agreement.py`), on labels made by hand."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "judge_agreement.py"))
Case, line = BENCHMARK["Case"], BENCHMARK["line"]


def cases(*told: tuple[str, int, float, bool]) -> list[Any]:
    return [Case("subject", *one) for one in told]


FOUR = cases(("a", 2, 0.9, True), ("a", 2, 0.8, False), ("b", 1, 0.4, False), ("b", 0, 0.1, False))


@pytest.mark.parametrize(("cut", "told"), [(2, "  2 true"), (1, "  3 true")])
def test_a_label_is_true_from_the_cut_on(cut: int, told: str) -> None:
    assert f"4 labels, {told}, judge says   1:" in line("subject", FOUR, cut)


def test_agreement_is_the_share_of_equal_answers_resampled_by_set() -> None:
    assert "agree 0.750 [0.500, 1.000]" in line("subject", FOUR, 2)


def test_kappa_is_cohens() -> None:
    # .75 agree, and (2 x 1 + 2 x 3) / 16 = .5 would by chance
    assert "kappa 0.500" in line("subject", FOUR, 2)


def test_rho_is_spearmans_between_label_and_the_judges_number() -> None:
    # ranks 3.5 3.5 2 1 and 4 3 2 1: 4.5 / sqrt(4.5 x 5)
    assert line("subject", FOUR, 2).endswith("rho 0.949")


def test_a_judge_that_says_the_opposite_agrees_in_nothing() -> None:
    told = line("place", cases(("a", 1, 0.0, False), ("b", 0, 1.0, True)), 1)
    assert "agree 0.000 [0.000, 0.000], kappa -1.000, rho -1.000" in told


def test_what_counts_as_named_rightly_is_told_apart_from_parts_of_it() -> None:
    assert line("subject", FOUR, 2).startswith("subject, label 2 ")
    assert line("subject", FOUR, 1).startswith("subject  ")
