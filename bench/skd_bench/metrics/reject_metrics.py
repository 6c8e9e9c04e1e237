"""Answers given only when the file is sure enough: what is still found, and what is wrongly reported."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError
from skd_bench.metrics.accuracy import softmax
from skd_bench.stats import mean_interval


def compute_reject_metrics(
    logits: npt.NDArray[np.floating[Any]],
    labels: npt.ArrayLike,
    classes: Sequence[str],
    threshold: float,
    *,
    named: Sequence[str] = (),
    groups: Sequence[Hashable] | None = None,
) -> dict[str, Any]:
    """Score a file that keeps silent below a confidence.

    Args:
        logits: (N, C), finite.
        labels: (N,), whole numbers in 0..C-1.
        classes: C names, in the order of the logits.
        threshold: The probability, in 0..1, that the top class must reach to be reported.
        named: Classes whose recall matters; empty: all of them.
        groups: A label for each clip; clips of one group (a source video) are resampled together.

    Returns:
        `threshold`; `answered` (share of clips reported); `correct` (share of those that are right, None without one);
        `recall`: for each named class `class`, `support`, `recall` (clips of the class reported as it; None without a
        clip) with `interval`, and `false_reports` (clips of other classes reported as it).

    Raises:
        UserError: A named class does not exist, the threshold is not in 0..1, or there is no clip.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"a reject threshold is a probability from 0 to 1, not {threshold}")
    if unknown := [name for name in named if name not in classes]:
        raise UserError(f"there is no class {unknown[0]!r}; there are: {', '.join(classes)}")
    truth = np.asarray(labels)
    if len(truth) == 0:
        raise UserError("there is no clip to measure accuracy on")
    shares = softmax(logits)
    predictions, confident = shares.argmax(axis=1), shares.max(axis=1) >= threshold
    rows = []
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
