"""The metric that candidates are compared by, on the validation clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skd_bench.metrics.class_averages import METRIC_NAMES, Metric, compute_metric_difference, compute_metric_value
from skd_bench.stats import Interval

Predictions = NDArray[np.int64]


@dataclass(frozen=True)
class ChoiceMetric:
    """The recipe's ``choice.metric`` with the clips that it is computed on.

    Attributes:
        metric: accuracy, balanced accuracy or macro-F1.
        labels: ``(N,)`` classes of the validation clips.
        groups: ``(N,)`` source video of each clip, for paired intervals.
    """

    metric: Metric
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]

    @property
    def best_text(self) -> str:
        """What the candidate with the highest value is called in reasons."""
        return (
            "the most accurate"
            if self.metric == "accuracy"
            else f"the one with the highest {METRIC_NAMES[self.metric]}"
        )

    def compute_value(self, predictions: Predictions) -> float:
        """The metric, 0..1, of the predicted classes ``(N,)``."""
        return compute_metric_value(self.metric, self.labels, predictions)

    def compute_difference(self, one: Predictions, other: Predictions) -> Interval:
        """The metric of ``one`` minus that of ``other``, -1..1, with its paired interval; both are ``(N,)`` classes."""
        return compute_metric_difference(self.metric, self.labels, one, other, self.groups.tolist())
