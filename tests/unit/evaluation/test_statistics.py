"""Every statistic against a closed form, a case worked by hand, or scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from conceptloom.evaluation.statistics import (
    Interval,
    band,
    clopper_pearson,
    cluster_bootstrap,
    cohen_kappa,
    holm,
    paired_cluster_bootstrap,
    sign_test,
    smooth,
    wilcoxon,
)


def _scenes(seed: int = 0) -> tuple[list[float], list[str]]:
    """Values in 12 clusters of 1 to 6 rows, with a level of their own each."""
    rng = np.random.default_rng(seed)
    values, clusters = [], []
    for scene in range(12):
        level = rng.normal()
        for _ in range(1 + scene % 6):
            values.append(float(level + 0.3 * rng.normal()))
            clusters.append(f"scene-{scene}")
    return values, clusters


def test_the_bootstrap_of_constants_is_a_point() -> None:
    interval = cluster_bootstrap([0.7] * 9, [0, 0, 0, 1, 1, 2, 3, 3, 4])
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.7, 0.7, 0.7), abs=1e-12)


def test_a_large_normal_sample_has_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3, 2, 1500)
    interval = cluster_bootstrap(values, range(1500))
    half = 1.96 * values.std() / math.sqrt(1500)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_two_clusters_have_three_possible_means() -> None:
    """Draws are 00, 01, 10, 11: the outer quarters lie on the clusters' own means, the middle half between."""
    values, clusters = [0.0, 0.0, 0.0, 1.0], ["a", "a", "a", "b"]
    assert cluster_bootstrap(values, clusters, level=0.6) == Interval(0.25, 0.0, 1.0)
    assert cluster_bootstrap(values, clusters, level=0.4) == Interval(0.25, 0.25, 0.25)


def test_one_value_a_cluster_is_scipy_s_percentile_bootstrap() -> None:
    values = np.random.default_rng(2).gamma(1.0, size=25)
    ours = cluster_bootstrap(values, range(25), repeats=40_000, level=0.9)
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=40_000,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)


def test_clusters_of_unequal_size_agree_with_scipy_s_bootstrap_of_a_ratio() -> None:
    values, clusters = _scenes()
    names = sorted(set(clusters))
    sums = np.array([sum(v for v, c in zip(values, clusters, strict=True) if c == n) for n in names])
    sizes = np.array([clusters.count(name) for name in names], float)
    ours = cluster_bootstrap(values, clusters, repeats=40_000)
    theirs = stats.bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        n_resamples=40_000,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(np.mean(values))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)


def test_rows_that_repeat_within_clusters_narrow_nothing() -> None:
    values, clusters = _scenes()
    assert cluster_bootstrap(values * 2, clusters * 2) == cluster_bootstrap(values, clusters)


def test_rows_that_repeat_as_clusters_of_their_own_do_narrow() -> None:
    values, clusters = _scenes()
    once = cluster_bootstrap(values, clusters)
    copies = cluster_bootstrap(values * 4, clusters + [f"{c}-{i}" for i in range(3) for c in clusters])
    assert copies.high - copies.low == pytest.approx((once.high - once.low) / 2, rel=0.15)


@given(order=st.permutations(range(42)), seed=st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_the_order_of_rows_does_not_change_the_bootstrap(order: list[int], seed: int) -> None:
    values, clusters = _scenes(seed)
    shuffled = [values[i] for i in order], [clusters[i] for i in order]
    assert cluster_bootstrap(*shuffled, repeats=200) == cluster_bootstrap(values, clusters, repeats=200)


def test_the_names_of_clusters_do_not_change_the_bootstrap() -> None:
    values, clusters = _scenes()
    renamed = [("noun", -int(cluster.removeprefix("scene-"))) for cluster in clusters]
    assert cluster_bootstrap(values, renamed) == cluster_bootstrap(values, clusters)


def test_a_seed_repeats_itself_and_another_one_differs() -> None:
    values, clusters = _scenes()
    assert cluster_bootstrap(values, clusters, seed=1) == cluster_bootstrap(values, clusters, seed=1)
    assert cluster_bootstrap(values, clusters, seed=1) != cluster_bootstrap(values, clusters, seed=2)


def test_one_cluster_alone_has_a_mean_without_ends() -> None:
    interval = cluster_bootstrap([0.25, 0.75], ["a", "a"])
    assert interval.value == 0.5
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_95_percent_intervals_hold_the_truth_about_that_often() -> None:
    """30 scenes of 4 correlated images: the interval over scenes covers, one over images does not."""
    rng = np.random.default_rng(4)
    by_scene = by_image = 0
    for _ in range(300):
        values = (rng.normal(size=(30, 1)) + 0.2 * rng.normal(size=(30, 4))).reshape(-1)
        scenes, images = np.arange(120) // 4, np.arange(120)
        for_scenes = cluster_bootstrap(values, scenes.tolist(), repeats=400)
        for_images = cluster_bootstrap(values, images.tolist(), repeats=400)
        by_scene += for_scenes.low <= 0 <= for_scenes.high
        by_image += for_images.low <= 0 <= for_images.high
    assert 0.89 <= by_scene / 300 <= 0.98
    assert by_image / 300 < 0.8


@pytest.mark.parametrize(
    ("values", "clusters"), [([], []), ([1.0, 2.0], ["a"]), ([1.0], ["a", "b"]), ([[1.0]], ["a"])]
)
def test_values_without_their_clusters_are_refused(values, clusters) -> None:
    with pytest.raises(ValueError, match="one cluster each"):
        cluster_bootstrap(values, clusters)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        cluster_bootstrap([1.0, value], ["a", "b"])


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_outside_0_and_1_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="confidence level"):
        cluster_bootstrap([1.0, 2.0], ["a", "b"], level=level)


def test_the_paired_bootstrap_is_that_of_the_differences() -> None:
    values, clusters = _scenes()
    second = np.random.default_rng(5).normal(size=len(values))
    expected = cluster_bootstrap(np.array(values) - second, clusters, seed=3, level=0.9)
    assert paired_cluster_bootstrap(values, second, clusters, seed=3, level=0.9) == expected


def test_a_constant_gain_is_a_point_however_far_scenes_lie_apart() -> None:
    values, clusters = _scenes()
    interval = paired_cluster_bootstrap(np.array(values) + 0.125, values, clusters)
    assert (interval.low, interval.high) == pytest.approx((0.125, 0.125), abs=1e-12)


def test_exchanging_the_methods_turns_the_interval_round() -> None:
    values, clusters = _scenes()
    second = np.random.default_rng(5).normal(size=len(values))
    there = paired_cluster_bootstrap(values, second, clusters, repeats=40_000)
    back = paired_cluster_bootstrap(second, values, clusters, repeats=40_000)
    width = there.high - there.low
    assert back.value == pytest.approx(-there.value)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=0.03 * width)


def test_unequal_numbers_make_no_pairs() -> None:
    with pytest.raises(ValueError, match="make no pairs"):
        paired_cluster_bootstrap([1.0, 2.0], [1.0], ["a", "b"])


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("trials", [1, 20, 300])
def test_none_of_n_is_bounded_above_by_the_closed_form(trials: int, level: float) -> None:
    interval = clopper_pearson(0, trials, level, "upper")
    assert interval.low == 0
    assert interval.high == pytest.approx(1 - (1 - level) ** (1 / trials), abs=1e-9)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_all_of_n_is_bounded_below_by_the_closed_form(level: float) -> None:
    interval = clopper_pearson(30, 30, level, "lower")
    assert interval.high == 1
    assert interval.low == pytest.approx((1 - level) ** (1 / 30), abs=1e-9)


@pytest.mark.parametrize(("successes", "trials"), [(1, 10), (5, 10), (97, 100)])
def test_clopper_and_pearson_s_ends_are_quantiles_of_beta(successes: int, trials: int) -> None:
    failures = trials - successes
    upper = stats.beta(successes + 1, failures).ppf([0.95, 0.975])
    lower = stats.beta(successes, failures + 1).ppf([0.05, 0.025])
    both = clopper_pearson(successes, trials)
    assert clopper_pearson(successes, trials, side="upper").high == pytest.approx(upper[0], abs=1e-9)
    assert clopper_pearson(successes, trials, side="lower").low == pytest.approx(lower[0], abs=1e-9)
    assert (both.low, both.high) == pytest.approx((lower[1], upper[1]), abs=1e-9)


@given(successes=st.integers(0, 40), level=st.floats(0.5, 0.99))
@settings(max_examples=40, deadline=None)
def test_successes_and_failures_are_mirror_images(successes: int, level: float) -> None:
    one, other = (clopper_pearson(count, 40, level) for count in (successes, 40 - successes))
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low), abs=1e-9)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (5, 4), (-1, 4)])
def test_impossible_counts_are_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} successes in {trials} trials"):
        clopper_pearson(successes, trials)


@pytest.mark.parametrize("wins", [1, 5, 12])
def test_wins_alone_have_twice_the_chance_of_that_many_heads(wins: int) -> None:
    assert sign_test(wins, 0) == pytest.approx(min(1.0, 2 * 0.5**wins))


def test_nine_wins_to_two_have_the_sum_of_both_tails() -> None:
    tail = math.comb(11, 0) + math.comb(11, 1) + math.comb(11, 2)
    assert sign_test(9, 2) == pytest.approx(2 * tail / 2**11)


def test_the_sign_test_takes_both_sides_alike() -> None:
    assert sign_test(17, 4) == sign_test(4, 17)


@pytest.mark.parametrize("count", [0, 1, 8])
def test_as_many_wins_as_losses_give_a_p_of_one(count: int) -> None:
    assert sign_test(count, count) == 1


def test_negative_numbers_of_wins_are_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        sign_test(-1, 4)


def test_gains_alone_have_twice_the_chance_of_one_pattern_of_signs() -> None:
    assert wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 2**6)


def test_the_smallest_loss_adds_one_pattern_to_each_tail() -> None:
    assert wilcoxon([-0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(4 / 2**6)


def test_differences_of_zero_are_dropped() -> None:
    differences = [0.1, -0.25, 0.3, 0.45, 0.5, -0.05]
    assert wilcoxon([*differences, 0.0, 0.0]) == wilcoxon(differences)


@pytest.mark.parametrize("differences", [[], [0.0], [0.0, -0.0, 0.0]])
def test_no_difference_at_all_gives_a_p_of_one(differences: list[float]) -> None:
    assert wilcoxon(differences) == 1


def test_a_difference_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        wilcoxon([0.1, math.nan])


def test_four_p_values_are_adjusted_as_by_hand() -> None:
    """Sorted .005 .01 .03 .04 by 4 3 2 1 is .02 .03 .06 .04, and .04 is lifted to .06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_a_single_p_value_is_left_alone() -> None:
    assert holm([0.03]) == [0.03]


def test_no_adjusted_p_value_exceeds_one() -> None:
    assert holm([0.6, 0.9, 0.4]) == [1.0, 1.0, 1.0]


def test_no_p_values_give_none() -> None:
    assert holm([]) == []


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=12), alpha=st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], alpha: float) -> None:
    rejected = set()
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[index] * (len(p) - rank) > alpha:
            break
        rejected.add(index)
    assert {index for index, value in enumerate(holm(p)) if value <= alpha} == rejected


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_what_is_no_p_value_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        holm([0.5, p])


def test_kappa_of_a_table_by_hand() -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: agreement .7, by chance .5 x .6 + .5 x .4 = .5."""
    a = ["yes"] * 25 + ["no"] * 25
    b = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(a, b) == pytest.approx(0.4)


def test_full_agreement_is_a_kappa_of_one() -> None:
    assert cohen_kappa(["cat", "dog", "unknown"], ["cat", "dog", "unknown"]) == 1


def test_labels_crossed_evenly_are_a_kappa_of_zero() -> None:
    assert cohen_kappa([0, 0, 1, 1], [0, 1, 0, 1]) == 0


def test_opposite_labels_are_a_kappa_of_minus_one() -> None:
    assert cohen_kappa([0, 1, 0, 1], [1, 0, 1, 0]) == -1


def test_one_rater_without_variation_is_a_kappa_of_zero() -> None:
    assert cohen_kappa([0, 0, 0, 0], [0, 0, 0, 1]) == 0


def test_one_and_the_same_label_throughout_has_no_kappa() -> None:
    assert math.isnan(cohen_kappa(["cat", "cat"], ["cat", "cat"]))


@pytest.mark.parametrize(("a", "b"), [([], []), ([1], [1, 2])])
def test_labellings_of_different_items_are_refused(a: list[int], b: list[int]) -> None:
    with pytest.raises(ValueError, match="same items"):
        cohen_kappa(a, b)


def test_a_curve_of_five_steps_is_smoothed_as_by_hand() -> None:
    """Window 5 at the middle, 3 beside the ends, 1 at them."""
    np.testing.assert_allclose(smooth([0, 3, 0, 6, 1], 5), [0, 1, 2, 7 / 3, 1])


def test_the_inside_of_a_smoothed_curve_is_numpy_s_convolution() -> None:
    curve = np.random.default_rng(0).random(50)
    np.testing.assert_allclose(
        smooth(curve, 7)[3:-3], np.convolve(curve, np.full(7, 1 / 7), "valid"), atol=1e-12
    )


def test_smoothing_leaves_a_straight_line() -> None:
    line = np.linspace(0.2, 0.9, 31)
    np.testing.assert_allclose(smooth(line, 9), line, atol=1e-12)


@pytest.mark.parametrize(("length", "window"), [(1, 1), (1, 9), (4, 1), (4, 99)])
def test_the_ends_of_a_smoothed_curve_are_raw(length: int, window: int) -> None:
    curve = np.random.default_rng(0).random(length)
    smoothed = smooth(curve, window)
    assert smoothed.shape == curve.shape
    np.testing.assert_allclose(smoothed[[0, -1]], curve[[0, -1]], atol=1e-12)


def test_a_window_of_one_leaves_the_curve() -> None:
    curve = np.random.default_rng(0).random(9)
    np.testing.assert_allclose(smooth(curve, 1), curve, atol=1e-12)


def test_curves_are_smoothed_one_by_one() -> None:
    curves = np.random.default_rng(0).random((3, 9))
    np.testing.assert_allclose(smooth(curves, 3), [smooth(curve, 3) for curve in curves])


@pytest.mark.parametrize("window", [0, 2, -1])
def test_a_window_without_a_middle_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        smooth([1.0, 2.0], window)


def test_a_curve_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="no steps"):
        smooth([], 3)


def test_each_step_has_the_interval_of_its_column_s_bootstrap() -> None:
    curves = np.random.default_rng(0).normal(size=(30, 4)).cumsum(axis=1)
    mean, low, high = band(curves, repeats=40_000, level=0.9)
    for step in range(4):
        column = cluster_bootstrap(curves[:, step], range(30), repeats=40_000, level=0.9)
        width = column.high - column.low
        assert mean[step] == pytest.approx(column.value)
        assert (low[step], high[step]) == pytest.approx((column.low, column.high), abs=0.03 * width)


def test_curves_all_alike_have_a_band_of_no_width() -> None:
    for line in band([[0.1, 0.5, 0.3]] * 6):
        np.testing.assert_allclose(line, [0.1, 0.5, 0.3], atol=1e-12)


def test_curves_a_constant_apart_have_a_band_of_one_width() -> None:
    """Rows are drawn whole."""
    curve, levels = np.linspace(0, 1, 8), np.random.default_rng(0).normal(size=(12, 1))
    _, low, high = band(curve + levels)
    np.testing.assert_allclose(high - low, (high - low)[0], atol=1e-9)


def test_the_order_of_curves_does_not_change_the_band() -> None:
    curves = np.random.default_rng(0).random((9, 5))
    for one, other in zip(band(curves), band(curves[::-1]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_curve_is_its_own_mean_without_a_band() -> None:
    mean, low, high = band([[0.1, 0.5]])
    np.testing.assert_array_equal(mean, [0.1, 0.5])
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (4,), (2, 3, 4)])
def test_curves_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(S, T\)"):
        band(np.zeros(shape))
