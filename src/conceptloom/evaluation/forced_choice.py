"""The paper's forced choice, ours / neutral / baseline, answered by the automatic judge.

A trial sets the judge's score of our image against that of the baseline's image of the same scene, prompt and seed.
Scores closer than a margin are a tie; the margin is what two seeds of one method differ by, so it is fixed before
anything is compared. No people are asked here: every row names its voter.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, get_args

from conceptloom.evaluation.statistics import Interval, cluster_bootstrap, sign_test

Vote = Literal["ours", "neutral", "baseline"]
VOTES: tuple[Vote, ...] = get_args(Vote)
DECIDED: tuple[Vote, ...] = ("ours", "baseline")

JUDGE = "automatic judge"
MARGIN_FACTORS = (0.5, 1.0, 2.0)
"""A table is printed at these multiples of the margin."""

CITATION = (
    "Rahman et al., Visual Concept-driven Image Generation with Text-to-Image Diffusion Model,"
    " arXiv 2402.11487, Table 1"
)


@dataclass(frozen=True)
class Trial:
    """The judge's scores, higher is better, of two images of one scene, prompt and seed."""

    scene: str
    prompt: str
    ours: float
    baseline: float


@dataclass(frozen=True)
class Tally:
    """Votes over trials at one margin, with 95 % intervals that resample scenes.

    Attributes:
        margin: score difference up to which a trial is a tie.
        counts: votes of each kind.
        shares: of all votes, 0..1.
        decided: shares of the votes that are no ties, "ours" and "baseline"; NaN where every vote is a tie.
        scenes: how many scenes the trials come from.
        decided_scenes: how many scenes the votes that are no ties come from.
        majorities: scenes where ours has more votes, and scenes where the baseline has.
        p_value: two-sided, of even odds.
    """

    margin: float
    counts: Mapping[Vote, int]
    shares: Mapping[Vote, Interval]
    decided: Mapping[Vote, Interval]
    scenes: int
    decided_scenes: int
    majorities: tuple[int, int]
    p_value: float


@dataclass(frozen=True)
class Row:
    """One line of the table. Without ties `neutral` is None and shares and counts are of the decided votes alone."""

    voter: str
    factor: float
    margin: float
    ties: bool
    baseline: Interval
    neutral: Interval | None
    ours: Interval
    votes: int
    scenes: int
    p_value: float


@dataclass(frozen=True)
class PaperRow:
    """A line of the paper's Table 1, as shares 0..1; it has no intervals, and the votes were people's."""

    data: str
    baseline: float
    neutral: float
    ours: float
    voter: str

    @property
    def decided(self) -> float:
        """Share of ours in the votes that are no ties."""
        return self.ours / (self.ours + self.baseline)


PAPER_ROWS = (
    PaperRow("Random", 0.1092, 0.1729, 0.718, "11 people"),
    PaperRow("MSCOCO", 0.2187, 0.1869, 0.5944, "17 people"),
)
"""What the paper reports (see `CITATION`)."""


def neutral_margin(seed_scores: Iterable[tuple[float, float]]) -> float:
    """Score difference that says nothing: the median absolute difference between two seeds of the same method.

    Half of all comparisons of a method with itself are then ties.

    Args:
        seed_scores: for each prompt of `dev`, the scores of two images of one method that differ in the seed alone.

    Raises:
        ValueError: for no scores, or scores that are not finite.
    """
    differences = [abs(first - second) for first, second in seed_scores]
    if not differences or not all(map(math.isfinite, differences)):
        raise ValueError(f"{len(differences)} pairs of scores: expected one or more, all finite")
    return float(median(differences))


def vote(ours: float, baseline: float, margin: float) -> Vote:
    """The judge's answer: the image with the higher score, or neutral up to and including the margin.

    Raises:
        ValueError: for scores that are not finite, or a margin that is negative or not finite.
    """
    if not (math.isfinite(ours) and math.isfinite(baseline) and math.isfinite(margin) and margin >= 0):
        raise ValueError(
            f"scores {ours} and {baseline} at margin {margin}: expected finite numbers, margin 0 or more"
        )
    if abs(ours - baseline) <= margin:
        return "neutral"
    return "ours" if ours > baseline else "baseline"


def tally(trials: Iterable[Trial], margin: float) -> Tally:
    """Count the votes. Exchanging ours and baseline exchanges all their numbers, exactly.

    Intervals are ratio bootstraps over scenes: images and prompts of a scene are not independent. The p value is the
    sign test on each scene's majority: where the methods are alike, either is as likely to have a scene's majority,
    and scenes are independent, so it is exact however votes of a scene hang together.

    Raises:
        ValueError: for no trials, or as `vote`.
    """
    trials = tuple(trials)
    if not trials:
        raise ValueError("no trials to tally: expected one or more")
    votes = [(vote(trial.ours, trial.baseline, margin), trial.scene) for trial in trials]
    decided = [(answer, scene) for answer, scene in votes if answer != "neutral"]
    leads = _leads(votes)
    wins, losses = sum(lead > 0 for lead in leads), sum(lead < 0 for lead in leads)
    counts = Counter(answer for answer, _ in votes)
    return Tally(
        margin=margin,
        counts={answer: counts[answer] for answer in VOTES},
        shares={answer: _share(answer, votes) for answer in VOTES},
        decided={answer: _share(answer, decided) for answer in DECIDED},
        scenes=len(leads),
        decided_scenes=len({scene for _, scene in decided}),
        majorities=(wins, losses),
        p_value=sign_test(wins, losses),
    )


def table(trials: Iterable[Trial], margin: float) -> list[Row]:
    """Rows at half, once and twice the margin, with ties and without; `PAPER_ROWS` belong beside them.

    Raises:
        ValueError: as `tally`.
    """
    trials = tuple(trials)
    rows = []
    for factor in MARGIN_FACTORS:
        found = tally(trials, factor * margin)
        for ties in (True, False):
            shares = found.shares if ties else found.decided
            rows.append(
                Row(
                    voter=JUDGE,
                    factor=factor,
                    margin=found.margin,
                    ties=ties,
                    baseline=shares["baseline"],
                    neutral=shares["neutral"] if ties else None,
                    ours=shares["ours"],
                    votes=len(trials) if ties else len(trials) - found.counts["neutral"],
                    scenes=found.scenes if ties else found.decided_scenes,
                    p_value=found.p_value,
                )
            )
    return rows


def _leads(votes: Sequence[tuple[Vote, str]]) -> list[int]:
    """Votes for ours minus votes for the baseline, by scene."""
    leads: dict[str, int] = defaultdict(int)
    for answer, scene in votes:
        leads[scene] += (answer == "ours") - (answer == "baseline")
    return list(leads.values())


def _share(answer: Vote, votes: Sequence[tuple[Vote, str]]) -> Interval:
    if not votes:
        return Interval(math.nan, math.nan, math.nan)
    return cluster_bootstrap([float(given == answer) for given, _ in votes], [scene for _, scene in votes])
