"""Statistics with confidence intervals: percentiles, means, paired differences, McNemar's test.

Inputs are numpy arrays, results are plain numbers. Where there are too few samples for a value, it is None.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError

Floats = npt.NDArray[np.float64]

# Significance level of MLPerf's early stopping: the percentile is exceeded in at most 1 of 100 measurements.
_EARLY_STOPPING_LEVEL = 0.01
# Elements of the resampling table in memory at once (8 bytes each).
_MAX_TABLE_ELEMENTS = 1_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        value: The estimate, in the unit of the measurement.
        low: Lower end of the interval, same unit.
        high: Upper end of the interval, same unit.
        level: Confidence level, in (0, 1).
    """

    value: float
    low: float
    high: float
    level: float = 0.95

    def to_json(self) -> dict[str, float]:
        """The four numbers, by attribute name."""
        return {"value": self.value, "low": self.low, "high": self.high, "level": self.level}


def percentile_interval(
    samples_by_process: Sequence[npt.ArrayLike], q: float, *, seed: int = 0, resamples: int = 2000
) -> Interval | None:
    """Estimate a percentile of latencies that were measured in several separate processes.

    For q up to 50, the value is the smallest sample such that at least q % of all samples are less or equal. For a
    larger q it is MLPerf's early-stopping estimate: with t the largest count for which `BinomCDF(t; n, 1 - q/100)` is
    at most 0.01, the t - 1 largest samples are dropped, and the value is the largest remaining one. In 99 of 100
    measurements this value is at least the true percentile.

    Samples of one process are autocorrelated, so the interval comes from resampling whole processes. With a single
    process it comes from the ranks of its samples, which makes it too narrow.

    Args:
        samples_by_process: One array of samples for each process, in any order and any unit.
        q: The percentile, in (0, 100).
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Returns:
        The percentile, always one of the samples; None with too few samples (t < 1: p50 needs 11, p90 64, p99 662).

    Raises:
        ValueError: q is outside (0, 100), or a sample is not finite.
    """
    if not 0 < q < 100:
        raise ValueError(f"percentile q must be between 0 and 100, not {q}")
    arrays = [np.asarray(samples, np.float64).ravel() for samples in samples_by_process]
    pooled = np.concatenate(arrays) if arrays else np.empty(0)
    if not np.isfinite(pooled).all():
        raise ValueError("a latency sample is not a finite number")
    n = len(pooled)
    if _early_stopping_count(n, 1 - q / 100) < 1:
        return None
    used = [a for a in arrays if len(a)]
    ordered = np.sort(pooled)
    value = float(ordered[_percentile_rank(n, q)])
    if len(used) == 1:
        low, high = ordered[_rank_range(n, q / 100)]
    else:
        low, high = np.quantile(_resampled_percentiles(used, q, seed, resamples), expanded_quantile_levels(len(used)))
    return Interval(value, min(float(low), value), max(float(high), value))


def ratio_of_medians(
    a_by_process: Sequence[npt.ArrayLike],
    b_by_process: Sequence[npt.ArrayLike],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval | None:
    """Ratio of the median latencies of A and B, which were measured alternately in the same processes.

    Args:
        a_by_process: One array of samples for each process.
        b_by_process: One array of samples for each process: the same processes in the same order.
        seed: Seed of the resampling.
        resamples: Number of resamples of whole processes.

    Returns:
        `median(A) / median(B)` (above 1: A is slower), with an interval that is paired by process. None with fewer than
        two processes or 11 samples, where the spread cannot be estimated.

    Raises:
        ValueError: A and B have different numbers of processes, a process has no samples, or a sample of B is not
            above 0.
    """
    a, b = ([np.asarray(s, np.float64).ravel() for s in side] for side in (a_by_process, b_by_process))
    if len(a) != len(b) or not all(len(s) for s in (*a, *b)):
        raise ValueError(f"a paired ratio needs samples of A and B from each process; not from {len(a)} and {len(b)}")
    if any((s <= 0).any() for s in b):
        raise ValueError("a ratio needs latencies of B above 0")
    left, right = percentile_interval(a, 50, resamples=1), percentile_interval(b, 50, resamples=1)
    if len(a) < 2 or left is None or right is None:
        return None
    # Equal seeds draw the same processes for A and for B. This makes the ratio paired.
    ratios = _resampled_percentiles(a, 50, seed, resamples) / _resampled_percentiles(b, 50, seed, resamples)
    low, high = np.quantile(ratios, expanded_quantile_levels(len(a)))
    value = left.value / right.value
    return Interval(value, min(float(low), value), max(float(high), value))


def mean_interval(
    values: npt.ArrayLike, groups: Sequence[Hashable] | None = None, *, seed: int = 0, resamples: int = 2000
) -> Interval:
    """Mean with its 95 % bootstrap interval; clips of one group (a source video) are resampled together.

    If all values are 0, or all are 1, resampling would give an interval of zero width. The other end is then the exact
    (Clopper-Pearson) bound for that number of groups.

    Args:
        values: Shape (n,), n at least 1.
        groups: A group label for each value; None: each value is its own group.
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Raises:
        UserError: There are no values.
        ValueError: A value is not finite, or the number of group labels differs from the number of values.
    """
    array = _check_finite(values)
    sums, counts = _sum_by_group(array, groups)
    interval = _bootstrap_mean(sums, counts, seed, resamples)
    far_end = float(0.025 ** (1 / len(counts)))
    if (array == 1).all():
        return Interval(1.0, far_end, 1.0)
    if (array == 0).all():
        return Interval(0.0, 0.0, 1 - far_end)
    return interval


def paired_difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """`mean(a) - mean(b)` over the same clips, with its 95 % paired bootstrap interval.

    Args:
        a: Shape (n,): for example 1 where model A is right, else 0.
        b: Shape (n,): the same clips in the same order for model B.
        groups: A group label for each clip; clips of one group are resampled together.
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Raises:
        UserError: There are no clips.
        ValueError: The arrays differ in length, or a value is not finite.
    """
    left, right = _check_finite(a), _check_finite(b)
    if left.shape != right.shape:
        raise ValueError(f"a paired difference needs the same clips for A and B; A has {len(left)}, B {len(right)}")
    sums, counts = _sum_by_group(left - right, groups)
    return _bootstrap_mean(sums, counts, seed, resamples)


def mcnemar_p_value(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """McNemar's exact two-sided test: do two models differ in accuracy on the same clips?

    Args:
        a: Shape (n,): true where model A is right.
        b: Shape (n,): true where model B is right.

    Returns:
        The p-value, in (0, 1]: the probability of a difference at least this large if both models were equally good.
        It is 1 if the models never differ.

    Raises:
        ValueError: The arrays differ in length.
    """
    left, right = np.asarray(a, bool).ravel(), np.asarray(b, bool).ravel()
    if left.shape != right.shape:
        raise ValueError(f"McNemar's test needs the same clips for A and B; A has {len(left)}, B {len(right)}")
    only_a, only_b = int((left & ~right).sum()), int((right & ~left).sum())
    n, fewer = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    return min(1.0, 2 * float(_binomial_cdf(n, 0.5)[fewer]))


def resolvable_points(n: int, p: float) -> float:
    """The smallest difference in accuracy that n clips can show: half the width of the 95 % interval.

    Args:
        n: Number of clips, at least 1.
        p: The accuracy, in 0..1.

    Returns:
        Percentage points (330 clips at 0.87: 3.6).

    Raises:
        ValueError: n or p is out of range.
    """
    if n < 1 or not 0 <= p <= 1:
        raise ValueError(f"resolution needs n >= 1 and 0 <= p <= 1, not n={n} and p={p}")
    return 100 * 1.959964 * math.sqrt(p * (1 - p) / n)


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion (Wilson, 1927); for few clips, where a bootstrap may have zero width.

    Args:
        hits: Number of clips that count, in 0..n.
        n: Number of clips, at least 1.

    Returns:
        Lower and upper end, in 0..1.

    Raises:
        ValueError: n or hits is out of range.
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"an interval needs n >= 1 and 0 <= hits <= n, not n={n} and hits={hits}")
    z2, share = 1.959964**2, hits / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == n else middle + half)


# --------------------------------------------------------------------------------------------------- the bootstrap
def _check_finite(values: npt.ArrayLike) -> Floats:
    array = np.asarray(values, np.float64).ravel()
    if len(array) == 0:
        raise UserError("cannot compute a mean: no clip was measured")
    if not np.isfinite(array).all():
        raise ValueError(f"value {int(np.flatnonzero(~np.isfinite(array))[0])} is not a finite number")
    return array


def _sum_by_group(values: Floats, groups: Sequence[Hashable] | None) -> tuple[Floats, Floats]:
    """Sum and number of the values of each group."""
    if groups is None:
        return values, np.ones(len(values))
    if len(groups) != len(values):
        raise ValueError(f"{len(values)} values need as many group labels, not {len(groups)}")
    number: dict[Hashable, int] = {}
    codes = np.asarray([number.setdefault(g, len(number)) for g in groups])
    return np.asarray(np.bincount(codes, values), np.float64), np.asarray(np.bincount(codes), np.float64)


def _bootstrap_mean(sums: Floats, counts: Floats, seed: int, resamples: int) -> Interval:
    rng = np.random.default_rng(seed)
    size = len(sums)
    equal = bool((counts == counts[0]).all())
    means = np.empty(resamples)
    rows = max(1, _MAX_TABLE_ELEMENTS // size)
    for start in range(0, resamples, rows):
        picks = rng.integers(size, size=(min(rows, resamples - start), size))
        total = sums[picks].sum(axis=1)
        weight = size * counts[0] if equal else counts[picks].sum(axis=1)
        means[start : start + len(picks)] = total / weight
    value = float(sums.sum() / counts.sum())
    low, high = np.quantile(means, expanded_quantile_levels(size) if size > 1 else [0.025, 0.975])
    return Interval(value, min(float(low), value), max(float(high), value))


def _resampled_percentiles(arrays: list[Floats], q: float, seed: int, resamples: int) -> Floats:
    """The percentile of each resample of whole processes; the samples are sorted only once."""
    processes, pooled = len(arrays), np.concatenate(arrays)
    order = np.argsort(pooled, kind="stable")
    ordered, process = pooled[order], np.repeat(np.arange(processes), [len(a) for a in arrays])[order]
    rng = np.random.default_rng(seed)
    times = rng.multinomial(processes, np.full(processes, 1 / processes), size=resamples)
    times, repeats = np.unique(times, axis=0, return_counts=True)  # 5 processes give at most 126 different resamples
    sizes = times @ np.bincount(process, minlength=processes)
    ranks = np.asarray([_percentile_rank(int(n), q) for n in sizes.tolist()])
    values = np.empty(len(times))
    rows = max(1, _MAX_TABLE_ELEMENTS // len(ordered))
    for start in range(0, len(times), rows):
        part = slice(start, start + rows)
        reached = np.cumsum(times[part][:, process], axis=1) > ranks[part, None]
        values[part] = ordered[reached.argmax(axis=1)]
    return np.repeat(values, repeats)


def expanded_quantile_levels(n: int) -> list[float]:
    """The two quantiles of the resampled values that bound a 95 % interval, when n units (at least 2) were resampled.

    These are wider than 2.5 % and 97.5 %: with few units the resampled values spread too little, and they follow a
    normal distribution instead of Student's t. This is the expanded percentile interval of Hesterberg, 2015 (arXiv
    1411.5279, section 3.3). With five processes the plain interval reported a difference between a file and itself in
    11 of 100 comparisons (`bench/suites/latency/aa_test.py`).
    """
    df, z = n - 1, 1.959964
    # Student's t at 97.5 %, by series expansion; within 2 % from df = 3 on.
    t = z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
    low = 0.5 * math.erfc(t * math.sqrt(n / df) / math.sqrt(2))
    return [low, 1 - low]


# -------------------------------------------------------------------------------------------------- the binomials
@cache
def _percentile_rank(n: int, q: float) -> int:
    """Index, from 0, of the percentile among n sorted samples."""
    if q <= 50:
        return max(math.ceil(n * q / 100) - 1, 0)
    return n - max(_early_stopping_count(n, 1 - q / 100), 1)


def _early_stopping_count(n: int, tail: float) -> int:
    """The largest t with `BinomCDF(t; n, tail) <= 0.01`; -1 if no t satisfies it."""
    if n < 1:
        return -1
    return int(np.searchsorted(_binomial_cdf(n, tail), _EARLY_STOPPING_LEVEL, side="right")) - 1


def _rank_range(n: int, share: float) -> list[int]:
    """The two indices, among n sorted samples, between which a quantile lies with 95 % probability."""
    cdf = _binomial_cdf(n, share)
    low = int(np.searchsorted(cdf, 0.025))
    return [max(low - 1, 0), min(int(np.searchsorted(cdf, 0.975)), n - 1)]


def _binomial_cdf(n: int, p: float) -> Floats:
    """P(X <= k) for k = 0..n, without scipy."""
    k = np.arange(n)
    steps = np.log((n - k) / (k + 1)) + math.log(p) - math.log1p(-p)
    log_pmf = n * math.log1p(-p) + np.concatenate([[0.0], np.cumsum(steps)])
    cdf: Floats = np.minimum(np.cumsum(np.exp(log_pmf)), 1.0)
    return cdf
