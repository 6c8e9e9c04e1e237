"""Metrics for classes of unequal size: balanced accuracy and macro-F1, with intervals.

Accuracy counts clips, so a network that knows only the largest class can look good. Here each class has the same
weight: balanced accuracy is the mean recall of the classes that occur among the labels (Brodersen et al., 2010),
macro-F1 the mean F1 of the classes that occur among labels or predictions.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError
from skd_bench.metrics.metric_names import METRIC_NAMES as METRIC_NAMES
from skd_bench.metrics.metric_names import Metric as Metric
from skd_bench.stats import Interval, expanded_quantile_levels, mean_interval, paired_difference

_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassAverages:
    """The metrics that give each class the same weight, in 0..1, with 95 % bootstrap intervals.

    Attributes:
        balanced: Mean recall over the classes that occur among the labels.
        macro_f1: Mean F1 over the classes that occur among labels or predictions.
    """

    balanced: Interval
    macro_f1: Interval


def compute_class_averages(
    labels: npt.ArrayLike,
    predictions: npt.ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    resamples: int = 2000,
) -> ClassAverages:
    """Balanced accuracy and macro-F1.

    If every clip is correct, or none is, resampling would give an interval of zero width. The other end is then the
    exact (Clopper-Pearson) bound for `count_effective_clips`, or for the number of groups if that is smaller.

    Args:
        labels: Shape (n,): the true classes, whole numbers from 0.
        predictions: Shape (n,): the predicted classes, whole numbers from 0.
        groups: A group label for each clip; clips of one group (a person, a source video) are resampled together. One
            group shows nothing of the spread between groups: the intervals are then 0..1.
        resamples: Number of resamples.

    Raises:
        UserError: There are no clips.
        ValueError: The arrays differ in length, or a class is not a whole number from 0.
    """
    truth, predicted = _check_classes(labels, predictions)
    values = _average(truth, predicted, np.ones(len(truth)))
    units = _number_units(len(truth), groups)
    correct = truth == predicted
    if correct.all() or not correct.any():
        far_end = float(0.025 ** (1 / min(int(units.max()) + 1, count_effective_clips(truth))))
        bound = Interval(1.0, far_end, 1.0) if correct.all() else Interval(0.0, 0.0, 1 - far_end)
        return ClassAverages(bound, bound)
    resampled = np.asarray([_average(truth, predicted, w) for w in _draw_weights(units, resamples)])
    balanced, macro_f1 = (
        _make_interval(value, column, units, lowest=0.0) for value, column in zip(values, resampled.T, strict=True)
    )
    return ClassAverages(balanced, macro_f1)


def compute_metric(
    metric: Metric, labels: npt.ArrayLike, predictions: npt.ArrayLike, groups: Sequence[Hashable] | None = None
) -> Interval:
    """One metric by its name in a recipe (``choice.metric``); arguments and errors as in `compute_class_averages`."""
    if metric == "accuracy":
        truth, predicted = _check_classes(labels, predictions)
        return mean_interval(predicted == truth, groups)
    averages = compute_class_averages(labels, predictions, groups)
    return averages.balanced if metric == "balanced" else averages.macro_f1


def compute_metric_value(metric: Metric, labels: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
    """The value that `compute_metric` returns, without its interval, which takes longer."""
    truth, predicted = _check_classes(labels, predictions)
    if metric == "accuracy":
        return float((truth == predicted).mean())
    return _average(truth, predicted, np.ones(len(truth)))[0 if metric == "balanced" else 1]


def compute_metric_difference(
    metric: Metric,
    labels: npt.ArrayLike,
    predictions: npt.ArrayLike,
    other_predictions: npt.ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    resamples: int = 2000,
) -> Interval:
    """A metric of one model minus that of another on the same clips, in -1..1, with its 95 % paired bootstrap interval.

    Args:
        metric: The metric.
        labels: Shape (n,): the true classes, whole numbers from 0.
        predictions: Shape (n,): the classes that the one model predicts.
        other_predictions: Shape (n,): those of the other model, for the same clips in the same order.
        groups: A group label for each clip; clips of one group are resampled together. With one group the interval is
            -1..1 (except for accuracy).
        resamples: Number of resamples.

    Raises:
        UserError: There are no clips.
        ValueError: The arrays differ in length, or a class is not a whole number from 0.
    """
    truth, one = _check_classes(labels, predictions)
    _, other = _check_classes(labels, other_predictions)
    if metric == "accuracy":
        return paired_difference(one == truth, other == truth, groups, resamples=resamples)
    place = 0 if metric == "balanced" else 1
    units = _number_units(len(truth), groups)

    def subtract(weights: _Floats) -> float:
        return _average(truth, one, weights)[place] - _average(truth, other, weights)[place]

    value = subtract(np.ones(len(truth)))
    resampled = np.asarray([subtract(weights) for weights in _draw_weights(units, resamples)])
    return _make_interval(value, resampled, units, lowest=-1.0)


def count_effective_clips(labels: npt.ArrayLike) -> float:
    """How many clips of equal classes would fix the mean recall as well as these clips do.

    With C classes of n_c clips, equally hard, the variance of the mean recall is p (1 - p) / C² times the sum of
    1 / n_c. The number is C² over that sum: the number of clips where classes have equal sizes, else fewer.

    Args:
        labels: Shape (n,): the classes of the clips, whole numbers from 0.

    Raises:
        UserError: There are no clips.
        ValueError: A class is not a whole number from 0.
    """
    counts = _count_present_classes(labels)
    return float(len(counts) ** 2 / (1 / counts).sum())


def has_unequal_classes(labels: npt.ArrayLike) -> bool:
    """Whether the largest class has over one and a half times the clips of the smallest one that occurs.

    Reports then show balanced accuracy beside accuracy.

    Args:
        labels: Shape (n,): the classes of the clips, whole numbers from 0.

    Raises:
        UserError: There are no clips.
        ValueError: A class is not a whole number from 0.
    """
    return are_unequal(_count_present_classes(labels).tolist())


def are_unequal(sizes: Sequence[int]) -> bool:
    """Whether the largest of these sizes is over 1.5 times the smallest; there is at least one, and none is 0."""
    return max(sizes) > 1.5 * min(sizes)


def _count_present_classes(labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Clips of each class that occurs."""
    counts = np.bincount(_check_classes(labels, labels)[0])
    return np.asarray(counts[counts > 0], np.int64)


def _check_classes(labels: npt.ArrayLike, predictions: npt.ArrayLike) -> tuple[_Ints, _Ints]:
    truth, predicted = np.asarray(labels), np.asarray(predictions)
    if truth.ndim != 1 or truth.shape != predicted.shape:
        raise ValueError(f"a metric needs a prediction for each label, not {predicted.shape} for {truth.shape}")
    if len(truth) == 0:
        raise UserError("a metric needs at least one clip, but no clip was given")
    for classes in (truth, predicted):
        if classes.dtype.kind not in "iu" or classes.min() < 0:
            raise ValueError("classes must be whole numbers from 0")
    return truth.astype(np.int64), predicted.astype(np.int64)


def _average(truth: _Ints, predicted: _Ints, weights: _Floats) -> tuple[float, float]:
    """Balanced accuracy and macro-F1 of clips that count ``weights (n,)`` times each."""
    size = int(max(truth.max(), predicted.max())) + 1
    hits = np.bincount(truth, weights * (truth == predicted), size)
    support, answers = np.bincount(truth, weights, size), np.bincount(predicted, weights, size)
    recall = hits[support > 0] / support[support > 0]
    either = support + answers
    return float(recall.mean()), float((2 * hits[either > 0] / either[either > 0]).mean())


def _number_units(clips: int, groups: Sequence[Hashable] | None) -> _Ints:
    """The number, from 0, of the unit that each clip is resampled with: its group, or itself."""
    if groups is None:
        return np.arange(clips)
    if len(groups) != clips:
        raise ValueError(f"{clips} clips need as many group labels, not {len(groups)}")
    number: dict[Hashable, int] = {}
    return np.asarray([number.setdefault(group, len(number)) for group in groups], np.int64)


def _draw_weights(units: _Ints, resamples: int) -> Iterator[_Floats]:
    """How often each clip counts in each resample of whole units."""
    rng = np.random.default_rng(0)
    size = int(units.max()) + 1
    for _ in range(resamples):
        yield np.bincount(rng.integers(size, size=size), minlength=size)[units].astype(np.float64)


def _make_interval(value: float, resampled: _Floats, units: _Ints, lowest: float) -> Interval:
    size, clips = int(units.max()) + 1, len(units)
    if size == 1 < clips:
        return Interval(value, lowest, 1.0)
    low, high = np.quantile(resampled, expanded_quantile_levels(size) if size > 1 else [0.025, 0.975])
    return Interval(value, min(float(low), value), max(float(high), value))
