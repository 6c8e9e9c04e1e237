"""Metrics with a reject option: only predictions above a confidence threshold are reported."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError
from skd_bench.metrics.accuracy import softmax
from skd_bench.stats import mean_interval

ClassRecall = TypedDict(
    "ClassRecall",
    {"class": str, "support": int, "recall": float | None, "interval": list[float] | None, "false_reports": int},
)


class RejectMetrics(TypedDict):
    """Metrics when predictions below `threshold` are not reported, as a JSON object.

    `answered` is the share of clips with a report; `right` is the share of the reports that are correct, and None
    without reports. `recall` has a row for each class: `support` (its clips), `recall` (share of its clips that are
    reported as this class; None without clips) with its interval, and `false_reports` (clips of other classes reported
    as this class).
    """

    threshold: float
    answered: float
    right: float | None
    recall: list[ClassRecall]


def compute_reject_metrics(
    logits: npt.NDArray[np.floating[Any]],
    labels: npt.ArrayLike,
    classes: Sequence[str],
    threshold: float,
    *,
    named: Sequence[str] = (),
    groups: Sequence[Hashable] | None = None,
) -> RejectMetrics:
    """Compute metrics when predictions below a confidence threshold are not reported.

    Args:
        logits: (N, C), finite.
        labels: (N,), whole numbers in 0..C-1.
        classes: C names, in the order of the logits.
        threshold: The probability, in 0..1, that the top class must reach to be reported.
        named: Classes in the list `recall`; empty: all classes.
        groups: A group label for each clip; clips of one group (a source video) are resampled together.

    Raises:
        UserError: A class in `named` is unknown, the threshold is not in 0..1, or there are no clips.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"the reject threshold must be a probability from 0 to 1, not {threshold}")
    if unknown := [name for name in named if name not in classes]:
        raise UserError(f"unknown class {unknown[0]!r}; choose from {', '.join(classes)}")
    truth = np.asarray(labels)
    if len(truth) == 0:
        raise UserError("accuracy needs at least one clip, but no clip was given")
    shares = softmax(logits)
    predictions, confident = shares.argmax(axis=1), shares.max(axis=1) >= threshold
    rows: list[ClassRecall] = []
    for name in named or classes:
        index = list(classes).index(name)
        is_class, reported = truth == index, confident & (predictions == index)
        class_groups = None if groups is None else [g for g, m in zip(groups, is_class.tolist(), strict=True) if m]
        recall = mean_interval(reported[is_class], class_groups) if is_class.any() else None
        rows.append(
            {
                "class": name,
                "support": int(is_class.sum()),
                "recall": recall.value if recall else None,
                "interval": [recall.low, recall.high] if recall else None,
                "false_reports": int((reported & ~is_class).sum()),
            }
        )
    correct = (predictions == truth)[confident]
    return {
        "threshold": threshold,
        "answered": float(confident.mean()),
        "right": float(correct.mean()) if len(correct) else None,
        "recall": rows,
    }
