"""The statistics behind every table: intervals, tests, agreement, smoothed curves and their bands.

Values that belong together (images of one scene, scenes of one noun) are resampled together, as one cluster. Nothing
here depends on the order of rows or on what clusters are called. Axis legend: S curves, T steps.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from conceptloom.seeding import numpy_generator

FloatArray = npt.NDArray[np.float64]
Side = Literal["two-sided", "upper", "lower"]
Alternative = Literal["two-sided", "less", "greater"]

REPEATS = 4000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its confidence interval; 95 % unless said."""

    value: float
    low: float
    high: float


def cluster_bootstrap(
    values: Sequence[float] | FloatArray,
    clusters: Sequence[Hashable],
    *,
    repeats: int = REPEATS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Mean of values with the percentile bootstrap interval over clusters (Davison and Hinkley 1997).

    Whole clusters are drawn with replacement, as many as there are; the mean of a draw is its sum over its number of
    values, so large clusters count by their size. With one value a cluster this is the plain bootstrap.

    Args:
        values: (N,) finite numbers.
        clusters: (N,) the scene or noun each value belongs to.
        repeats: bootstrap draws.
        seed: of the draws.
        level: confidence, within (0, 1).

    Returns:
        The mean of all values and its interval. One cluster alone says nothing about how clusters differ: its ends
        are NaN.

    Raises:
        ValueError: for no values, values that are not finite, a cluster missing or too many, or a level outside
            (0, 1).
    """
    array = _finite(values)
    if array.ndim != 1 or len(array) != len(clusters) or not len(array):
        raise ValueError(
            f"{len(clusters)} clusters for values of shape {array.shape}: expected one or more values, "
            "with one cluster each"
        )
    members: dict[Hashable, list[float]] = defaultdict(list)
    for value, cluster in zip(array.tolist(), clusters, strict=True):
        members[cluster].append(value)
    table = np.array([(math.fsum(group), len(group)) for group in members.values()])  # (clusters, 2)
    totals, sizes = _resampled_sums(table, repeats, seed).T
    low, high = _percentiles(totals / sizes, level)
    return Interval(math.fsum(table[:, 0]) / len(array), float(low), float(high))


def paired_cluster_bootstrap(
    first: Sequence[float] | FloatArray,
    second: Sequence[float] | FloatArray,
    clusters: Sequence[Hashable],
    *,
    repeats: int = REPEATS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Mean of `first - second`, pair by pair, with the interval of `cluster_bootstrap`.

    Raises:
        ValueError: for sequences of different lengths, and as `cluster_bootstrap`.
    """
    a, b = _finite(first), _finite(second)
    if a.shape != b.shape:
        raise ValueError(f"values of shapes {a.shape} and {b.shape} make no pairs: expected one shape")
    return cluster_bootstrap(a - b, clusters, repeats=repeats, seed=seed, level=level)


def clopper_pearson(successes: int, trials: int, level: float = LEVEL, side: Side = "two-sided") -> Interval:
    """Share of successes with the exact interval of Clopper and Pearson (1934), for independent trials.

    Args:
        successes: 0..trials.
        trials: 1 or more.
        level: confidence, within (0, 1).
        side: "upper" puts all of the error above `high` and leaves `low` at 0 ("at most this often"); "lower" is its
            mirror image.

    Raises:
        ValueError: for no trials, successes outside 0..trials, or a level outside (0, 1).
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(
            f"{successes} successes in {trials} trials: expected 1 or more trials and 0 to as many successes"
        )
    _require_level(level)
    # scipy names the alternative whose test the interval inverts: "less" is bounded above only.
    alternative: dict[Side, Alternative] = {"two-sided": "two-sided", "upper": "less", "lower": "greater"}
    test = stats.binomtest(successes, trials, alternative=alternative[side])
    ends = test.proportion_ci(level, method="exact")
    return Interval(successes / trials, float(ends.low), float(ends.high))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p of even odds, ties left out; 1 where nothing was decided.

    Raises:
        ValueError: for negative counts.
    """
    if wins < 0 or losses < 0:
        raise ValueError(f"{wins} wins and {losses} losses: counts are 0 or more")
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def wilcoxon(differences: Sequence[float] | FloatArray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test that differences are symmetric about 0; exact for small samples.

    Zeros are dropped; 1 where nothing else is there.

    Raises:
        ValueError: for differences that are not finite.
    """
    array = _finite(differences)
    array = array[array != 0]
    return float(stats.wilcoxon(array).pvalue) if array.size else 1.0


def holm(p_values: Sequence[float] | FloatArray) -> list[float]:
    """P values adjusted for their number by Holm's step-down rule (1979), in the order given.

    The i-th smallest of m (from 0) is multiplied by m - i, never falls below a smaller one's and ends at 1.

    Raises:
        ValueError: for numbers outside 0..1.
    """
    p = _finite(p_values)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p values {p.tolist()} can't be adjusted: expected numbers from 0 to 1")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """Agreement of two labellings of the same items beyond chance (Cohen 1960): 1 full, 0 chance, -1 at worst.

    NaN where both use one and the same label throughout, which chance alone would do.

    Raises:
        ValueError: for no items, or labellings of different lengths.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"labellings of {len(a)} and {len(b)} items: expected the same items, at least one")
    count = len(a)
    agreed = sum(x == y for x, y in zip(a, b, strict=True))
    of_a, of_b = Counter(a), Counter(b)
    by_chance = sum(of_a[label] * of_b[label] for label in of_a)  # over count squared
    if by_chance == count**2:
        return math.nan
    return (agreed * count - by_chance) / (count**2 - by_chance)


def smooth(curve: Sequence[float] | FloatArray, window: int) -> FloatArray:
    """Centred moving average of a curve (T,) or curves (S, T) over `window` steps.

    Towards the ends the window shortens on both sides alike, so it stays centred: the first and last values are the
    raw ones and a straight line is left as it is.

    Raises:
        ValueError: for an even window, an empty curve, or values that are not finite.
    """
    array = _finite(curve)
    if window < 1 or window % 2 == 0:
        raise ValueError(f"a window of {window} steps has no middle: choose an odd number")
    if not array.size:
        raise ValueError(f"a curve of shape {array.shape} has no steps: expected (T,) or (S, T)")
    step, last = np.arange(array.shape[-1]), array.shape[-1] - 1
    reach = np.minimum(window // 2, np.minimum(step, last - step))
    sums = np.concatenate([np.zeros_like(array[..., :1]), np.cumsum(array, axis=-1)], axis=-1)
    averages: FloatArray = (sums[..., step + reach + 1] - sums[..., step - reach]) / (2 * reach + 1)
    return averages


def band(
    curves: Sequence[Sequence[float]] | FloatArray,
    *,
    repeats: int = REPEATS,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean of curves (S, T) by step, and the ends of its percentile bootstrap interval over rows: three of (T,).

    Each step has an interval of its own; rows are drawn whole, so the ends are as smooth as the curves. Rows must be
    independent: average a scene's seeds first. One row alone has NaN ends.

    Raises:
        ValueError: for curves of another shape, values that are not finite, or a level outside (0, 1).
    """
    array = _finite(curves)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"curves have shape {array.shape}: expected (S, T), at least one curve and step")
    low, high = _percentiles(_resampled_sums(array, repeats, seed) / len(array), level)
    mean = np.array([math.fsum(column) for column in array.T]) / len(array)
    return mean, low, high


def _resampled_sums(rows: FloatArray, repeats: int, seed: int) -> FloatArray:
    """Sums (repeats, D) over as many rows as there are, drawn with replacement from rows (n, D); NaN for one row.

    Rows are sorted first: their order must not choose the draws.
    """
    count = len(rows)
    if count == 1:
        return np.full((repeats, rows.shape[1]), np.nan)
    rows = rows[np.lexsort(rows.T[::-1])]
    rng = numpy_generator(seed, "bootstrap")
    drawn = rng.integers(count, size=(repeats, count)) + count * np.arange(repeats)[:, None]
    times = np.bincount(drawn.reshape(-1), minlength=repeats * count).reshape(
        repeats, count
    )  # each row's draws
    sums: FloatArray = times.astype(np.float64) @ rows
    return sums


def _percentiles(draws: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
    """Ends of the central `level` of draws, along axis 0."""
    _require_level(level)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _require_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"a confidence level of {level}: expected a number within (0, 1), such as 0.95")


def _finite(values: Iterable[float] | Iterable[Iterable[float]] | FloatArray) -> FloatArray:
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"values of shape {array.shape} hold NaN or infinity: expected finite numbers")
    return array
