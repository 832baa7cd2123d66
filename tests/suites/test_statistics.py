"""The statistics, against scipy, hand-computed values, and slow and plain versions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from autotune.benchmarks.suites import statistics
from autotune.benchmarks.suites.statistics import (
    capped,
    correlation,
    holm,
    importance,
    median_interval,
    performance_profile,
    sensitivity,
    time_to_target,
    wilcoxon_below,
)
from autotune.records import TuneError

positive = st.floats(1e-3, 1e3)


def test_a_failure_counts_as_the_initial_loss():
    assert capped(0.5, 2.0) == 0.5
    assert capped(7.0, 2.0) == capped(math.inf, 2.0) == capped(math.nan, 2.0) == 2.0


@pytest.mark.parametrize("n", [2, 5, 8])
def test_the_bootstrap_is_the_plain_one(n):
    rng = np.random.default_rng(n)
    x, groups = rng.lognormal(size=3 * n + 1), [*np.repeat(range(n), 3), n - 1]
    medians = []
    for drawn in statistics._draws(n):
        sample = [v for v, group in zip(x, groups, strict=True) for _ in range(drawn[group])]
        medians.append(np.median(sample))
    median, low, high = median_interval(x, groups)
    assert median == np.median(x)
    assert [low, high] == pytest.approx(np.quantile(medians, [0.025, 0.975]))


def test_one_group_says_nothing_of_others():
    median, low, high = median_interval([1.0, 2.0, 3.0], ["a"] * 3)
    assert median == 2
    assert math.isnan(low)
    assert math.isnan(high)


def test_the_draws_are_with_replacement():
    drawn = statistics._draws(20)
    assert (drawn.sum(axis=1) == 20).all()
    assert drawn.mean(axis=0) == pytest.approx(1.0, abs=0.05)
    assert drawn.var(axis=0) == pytest.approx(0.95, abs=0.1)  # of a binomial of 20 and 1/20


def test_the_interval_agrees_with_scipy():
    x = np.random.default_rng(0).lognormal(size=60)
    theirs = stats.bootstrap((x,), np.median, method="percentile", rng=1).confidence_interval
    assert median_interval(x)[1:] == pytest.approx((theirs.low, theirs.high), rel=0.05)


@given(st.lists(positive, min_size=2, max_size=12), st.randoms())
@settings(max_examples=20, deadline=None)
def test_repeats_within_a_group_add_no_certainty(values, random):
    expected = median_interval(values)
    repeated = [(value, group) for group, value in enumerate(values) for _ in range(7)]
    assert median_interval(*zip(*repeated, strict=True)) == pytest.approx(expected)
    assert median_interval(np.repeat(values, 7))[1] >= expected[1] - 1e-9  # as if they were independent
    order = list(range(len(values)))
    random.shuffle(order)
    assert median_interval([values[i] for i in order])[0] == expected[0]


def test_a_narrower_level_gives_a_narrower_interval():
    x = np.random.default_rng(0).lognormal(size=40)
    wide, narrow = median_interval(x), median_interval(x, level=0.5)
    assert wide[1] < narrow[1] <= narrow[0] <= narrow[2] < wide[2]


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_is_not_finite_is_refused(values):
    with pytest.raises(TuneError, match="cap failures first"):
        median_interval(values)


def _enumerated(difference):
    """p by all signs of all differences."""
    ranks = stats.rankdata(np.abs(difference))
    seen = ranks[difference > 0].sum()
    sums = [
        sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
        for signs in itertools.product((0, 1), repeat=len(ranks))
    ]
    return np.mean([total <= seen for total in sums])


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=9, unique=True), st.data())
@settings(max_examples=30, deadline=None)
def test_wilcoxon_is_that_of_all_signs(sizes, data):
    signs = data.draw(st.lists(st.sampled_from((-1, 1)), min_size=len(sizes), max_size=len(sizes)))
    difference = np.array(sizes) * np.array(signs) / 5_000
    assert wilcoxon_below(np.exp(difference)) == pytest.approx(_enumerated(difference))


def test_five_pairs_reach_one_in_32_and_equal_ones_nothing():
    assert wilcoxon_below([0.9, 0.8, 0.7, 0.6, 0.5]) == pytest.approx(1 / 32)
    assert wilcoxon_below([1.1, 1.2, 1.3, 1.4, 1.5]) == 1.0
    assert wilcoxon_below([1.0, 1.0]) == 1.0


def test_wilcoxon_takes_ratios_not_differences():
    assert wilcoxon_below([0.5, 1.9]) < wilcoxon_below([0.5, 2.1])


def test_ratios_of_one_count_half_for_either_side():
    both = wilcoxon_below([0.8, 0.9, 1.0]), wilcoxon_below([1 / 0.8, 1 / 0.9, 1.0])
    assert both == pytest.approx((_split([-2, -1, 0]), _split([2, 1, 0])))
    assert wilcoxon_below([0.8, 0.9, 0.95]) < both[0]


def _split(difference):
    """p by all signs, the ranks of zeros shared by both sides."""
    difference = np.array(difference)
    ranks = stats.rankdata(np.abs(difference))
    seen = ranks[difference > 0].sum() + ranks[difference == 0].sum() / 2
    sums = []
    for signs in itertools.product((-1, 1), repeat=len(difference)):
        flipped = difference * signs
        sums.append(ranks[flipped > 0].sum() + ranks[flipped == 0].sum() / 2)
    return np.mean([total <= seen for total in sums])


@pytest.mark.parametrize("ratios", [[], [0.0], [-1.0], [math.nan]])
def test_wilcoxon_refuses_what_is_no_ratio(ratios):
    with pytest.raises(TuneError, match=r"are positive|finite"):
        wilcoxon_below(ratios)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni(p):
    adjusted = holm(p)
    for name, value in p.items():
        assert value <= adjusted[name] <= min(1.0, len(p) * value)
    assert sorted(p, key=lambda n: (p[n], adjusted[n])) == sorted(p, key=lambda n: (adjusted[n], p[n]))


def test_a_profile_by_hand():
    shares = performance_profile({"a": [1, 2, math.inf], "b": [2, 2, math.inf]}, [1, 2, 100])
    assert shares["a"].tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    assert shares["b"].tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3])


@pytest.mark.parametrize("scores", [{}, {"a": []}, {"a": [1.0], "b": [1.0, 2.0]}, {"a": [math.nan]}])
def test_a_profile_without_a_score_for_every_problem_is_refused(scores):
    with pytest.raises(TuneError, match="one score an arm and problem"):
        performance_profile(scores, [1])


def test_sensitivity_by_hand():
    assert sensitivity([1.0, 0.5, math.nan, 9.0], initial=2.0) == pytest.approx((1 + 0.5 + 2 + 2) / 4 - 0.5)
    assert sensitivity([0.7], initial=2.0) == 0


def test_time_to_target_is_the_first_time():
    spent, losses = [0, 10, 20, 30], [3.0, math.nan, 0.9, 1.5]
    assert time_to_target(spent, losses, 1.0) == 20
    assert time_to_target(spent, losses, 3.0) == 0
    assert time_to_target(spent, losses, 0.5) == math.inf


def test_importance_finds_what_matters():
    rng = np.random.default_rng(0)
    rate, schedule = rng.uniform(-2, 2, 60), rng.integers(0, 5, 60)
    found = importance({"rate": rate, "schedule": schedule}, np.exp(rate**2))
    assert found["rate"] > 0.9
    assert sum(found.values()) == pytest.approx(1)
    assert importance({"rate": np.ones(5)}, [1, 2, 3, 4, 5]) == {"rate": 0.0}


def test_correlation_is_of_ranks():
    assert correlation([1, 2, 3, 4], [1, 10, 100, 1e6]) == pytest.approx(1)
    assert correlation([1, 2, 3], [3, 1, 2]) == pytest.approx(-0.5)
    assert math.isnan(correlation([1, 1, 1], [3, 1, 2]))
    assert math.isnan(correlation([1, 2], [3, 1]))
