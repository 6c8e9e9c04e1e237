import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from skd_bench import stats
from skd_bench.errors import UserError
from skd_bench.stats import (
    Interval,
    mcnemar_p_value,
    mean_interval,
    paired_difference,
    percentile_interval,
    ratio_of_medians,
    resolvable_points,
    wilson_interval,
)

finite = st.floats(-1e6, 1e6, allow_nan=False)
quick = settings(max_examples=40, deadline=None)


def lognormal(processes: int, n: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.lognormal(1, 0.3, n) * rng.uniform(0.9, 1.1) for _ in range(processes)]


# ------------------------------------------------------------------------------------------------------ percentile
@quick
@given(
    st.lists(st.lists(finite, min_size=11, max_size=60), min_size=1, max_size=4),
    st.sampled_from([25.0, 50.0, 75.0, 90.0]),
)
def test_a_percentile_is_one_of_the_samples_and_lies_in_its_interval(samples, q):
    got = percentile_interval(samples, q, resamples=100)
    pooled = np.concatenate([np.asarray(s) for s in samples])
    if got is None:
        assert q > 50 or len(pooled) < 64
    else:
        assert got.value in pooled
        assert pooled.min() <= got.low <= got.value <= got.high <= pooled.max()


@pytest.mark.parametrize(("q", "needed"), [(50, 11), (90, 64), (99, 662)])
def test_a_percentile_without_enough_samples_is_none(q, needed):
    assert percentile_interval([np.arange(needed - 1.0)], q) is None
    got = percentile_interval([np.arange(float(needed))], q)
    assert got is not None
    if q > 50:
        assert got.value == needed - 1  # t = 1: nothing is dropped


def test_no_samples_is_none():
    assert percentile_interval([], 50) is None
    assert percentile_interval([[], []], 50) is None


def test_the_median_is_the_nearest_rank():
    assert percentile_interval([np.arange(1, 102.0)], 50).value == 51


@pytest.mark.parametrize(("n", "q"), [(64, 90), (200, 90), (662, 99), (1200, 99), (5000, 99)])
def test_a_tail_percentile_drops_as_many_samples_as_early_stopping_allows(n, q):
    t = max(t for t in range(n) if binom.cdf(t, n, 1 - q / 100) <= 0.01)
    got = percentile_interval([np.arange(float(n))], q)
    assert got.value == n - t  # sorted 0..n-1, the t - 1 largest dropped


def test_the_tail_estimate_covers_the_true_percentile_almost_always():
    true = math.exp(1 + 0.3 * 1.2815515655446004)
    rng = np.random.default_rng(5)
    below = sum(percentile_interval([rng.lognormal(1, 0.3, 200)], 90, resamples=1).value < true for _ in range(400))
    assert below <= 12  # 1 % expected; 3 % would be far too many


def test_slow_processes_widen_the_interval():
    even = [np.sort(s) for s in np.random.default_rng(0).lognormal(1, 0.1, (5, 200))]
    uneven = [s * f for s, f in zip(even, (0.7, 0.9, 1.0, 1.1, 1.4), strict=True)]
    narrow, wide = percentile_interval(even, 50), percentile_interval(uneven, 50)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_percentiles_are_deterministic_and_independent_of_the_order_of_samples():
    samples = lognormal(5, 100)
    shuffled = [np.random.default_rng(1).permutation(s) for s in samples]
    assert percentile_interval(samples, 90) == percentile_interval(samples, 90) == percentile_interval(shuffled, 90)


@pytest.mark.parametrize("q", [0, 100, -1, 101])
def test_an_impossible_percentile_is_refused(q):
    with pytest.raises(ValueError, match="between 0 and 100"):
        percentile_interval([np.arange(100.0)], q)


def test_a_sample_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        percentile_interval([[1.0, float("nan")] * 50], 50)


# ------------------------------------------------------------------------------------------------------ paired ratio
def test_a_ratio_is_paired_by_process():
    b = [s * f for s, f in zip(lognormal(5, 200), (1, 1.5, 2, 0.7, 3), strict=True)]
    a = [s * 1.3 for s in b]
    got = ratio_of_medians(a, b)
    assert got.value == pytest.approx(1.3)
    assert (got.low, got.high) == (pytest.approx(1.3), pytest.approx(1.3))  # although b alone varies fourfold
    assert ratio_of_medians(b, b) == Interval(1, 1, 1)
    assert ratio_of_medians(b, a).value == pytest.approx(1 / 1.3)


def test_a_ratio_with_too_few_samples_is_none_and_a_wrong_one_is_refused():
    assert ratio_of_medians([np.ones(50)], [np.ones(50)]) is None
    assert ratio_of_medians([np.ones(5)] * 2, [np.ones(5)] * 2) is None
    with pytest.raises(ValueError, match="not from 2 and 1"):
        ratio_of_medians([np.ones(50)] * 2, [np.ones(50)])
    with pytest.raises(ValueError, match="above 0"):
        ratio_of_medians([np.ones(50)] * 2, [np.zeros(50)] * 2)


# ------------------------------------------------------------------------------------------------------------ means
@quick
@given(st.lists(finite, min_size=1, max_size=80), st.integers(0, 5))
def test_the_mean_lies_in_its_interval_and_within_the_values(values, seed):
    assume(set(values) not in ({0.0}, {1.0}))  # a perfect score has another bound, tested below
    got = mean_interval(values, seed=seed, resamples=200)
    assert got.value == pytest.approx(np.mean(values), abs=1e-6)
    assert got.low <= got.value <= got.high
    assert min(values) - 1e-6 <= got.low
    assert got.high <= max(values) + 1e-6


def test_the_interval_of_an_accuracy_is_about_the_normal_one():
    right = np.arange(330) < 0.87 * 330
    got = mean_interval(right, resamples=4000)
    assert 100 * (got.high - got.low) / 2 == pytest.approx(resolvable_points(330, right.mean()), rel=0.1)


@pytest.mark.parametrize("n", [1, 20, 330])
def test_a_perfect_score_gets_the_exact_bound(n):
    bound = binomtest(n, n).proportion_ci(method="exact").low
    assert mean_interval(np.ones(n)).low == pytest.approx(bound)
    assert mean_interval(np.zeros(n)).high == pytest.approx(1 - bound)


def test_groups_that_agree_count_as_one_observation():
    right = np.repeat(np.arange(20) % 3 > 0, 25).astype(float)
    groups = np.repeat(np.arange(20), 25).tolist()
    alone, grouped = mean_interval(right), mean_interval(right, groups)
    assert alone.value == grouped.value
    assert (grouped.high - grouped.low) / (alone.high - alone.low) == pytest.approx(5, rel=0.2)  # sqrt(25)


def test_groups_of_unequal_size_are_weighted_by_their_clips():
    got = mean_interval([1, 0, 0, 0], ["a", "b", "b", "b"], resamples=500)
    assert got.value == 0.25
    assert (got.low, got.high) == (0, 1)


@pytest.mark.parametrize("n", [5, 12])
def test_few_groups_still_cover_the_truth(n):
    rng = np.random.default_rng(0)
    covered = sum(got.low <= 3 <= got.high for got in (mean_interval(rng.normal(3, 1, n)) for _ in range(400)))
    assert covered >= 0.89 * 400  # the plain 2.5 % and 97.5 % cover 83 % of 5 groups


def test_a_smaller_resampling_table_gives_the_same_interval(monkeypatch):
    values = np.random.default_rng(0).random(500)
    whole = mean_interval(values, resamples=300)
    monkeypatch.setattr(stats, "_MAX_TABLE_ELEMENTS", 5000)
    assert mean_interval(values, resamples=300) == whole


def test_a_mean_of_no_clips_is_refused():
    with pytest.raises(UserError, match="no clip"):
        mean_interval([])


def test_a_wrong_number_of_groups_is_refused():
    with pytest.raises(ValueError, match="3 values need as many group labels, not 2"):
        mean_interval([1, 2, 3], ["a", "b"])


# ------------------------------------------------------------------------------------------------- two models at once
@quick
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=100))
def test_a_paired_difference_changes_sign_when_the_models_are_swapped(pairs):
    a, b = (np.array(side, float) for side in zip(*pairs, strict=True))
    forward, backward = paired_difference(a, b, resamples=300), paired_difference(b, a, resamples=300)
    assert forward.value == pytest.approx(-backward.value)
    assert forward.low == pytest.approx(-backward.high)
    assert forward.high == pytest.approx(-backward.low)
    assert forward.value == pytest.approx(a.mean() - b.mean())


@quick
@given(st.lists(finite, min_size=1, max_size=50))
def test_a_model_does_not_differ_from_itself(values):
    assert paired_difference(values, values, resamples=50) == Interval(0, 0, 0)


def test_pairing_is_narrower_than_two_separate_means():
    rng = np.random.default_rng(2)
    a = rng.random(400) < 0.8
    b = a ^ (rng.random(400) < 0.02)
    paired, single = paired_difference(a, b), mean_interval(a)
    assert paired.high - paired.low < 0.6 * (single.high - single.low)


def test_different_clips_cannot_be_paired():
    with pytest.raises(ValueError, match="A has 3, B 2"):
        paired_difference([1, 0, 1], [1, 0])
    with pytest.raises(ValueError, match="same clips"):
        mcnemar_p_value([1, 0, 1], [1, 0])


@quick
@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 20))
def test_mcnemar_is_the_binomial_test_on_the_clips_that_differ(only_a, only_b, both):
    a = np.array([1] * only_a + [0] * only_b + [1] * both, bool)
    b = np.array([0] * only_a + [1] * only_b + [1] * both, bool)
    n = only_a + only_b
    want = binomtest(only_a, n, 0.5).pvalue if n else 1.0
    assert mcnemar_p_value(a, b) == pytest.approx(want, rel=1e-8)


def test_330_clips_at_87_percent_resolve_about_3_6_points():
    assert resolvable_points(330, 0.87) == pytest.approx(3.6, abs=0.05)
    assert resolvable_points(100, 1.0) == 0


@pytest.mark.parametrize(("n", "p"), [(0, 0.5), (10, 1.1), (10, -0.1)])
def test_impossible_resolutions_are_refused(n, p):
    with pytest.raises(ValueError, match="needs n >= 1"):
        resolvable_points(n, p)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(5, 10, 0.2366, 0.7634), (0, 10, 0, 0.2775), (10, 10, 0.7225, 1)]
)
def test_wilson_intervals_have_the_published_values(hits, n, low, high):
    assert wilson_interval(hits, n) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    with pytest.raises(ValueError, match="hits <= n"):
        wilson_interval(n + 1, n)
