"""Accuracy of a model file as it is deployed: its logits on clips, and the metrics computed from them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError
from skd_bench.metrics.class_averages import Metric, compute_class_averages
from skd_bench.runtimes.base import InferenceSession
from skd_bench.stats import Interval, mean_interval, wilson_interval
from skd_bench.video.clip import prepare_input
from skd_bench.video.types import Preprocessing

_ECE_BINS = 15

# The metrics of one class; 0 where undefined. `support` is its number of clips.
ClassAccuracy = TypedDict(
    "ClassAccuracy", {"class": str, "support": int, "precision": float, "recall": float, "f1": float}
)


class ReliabilityPoint(TypedDict):
    """A bin of the reliability diagram: `n` clips, their mean confidence, and their accuracy with its interval."""

    n: int
    confidence: float
    accuracy: float
    interval: list[float]


class AccuracyFigures(TypedDict):
    """`AccuracyMetrics` as a JSON object; `top1` and `balanced_accuracy` have `value`, `low`, `high` and `level`."""

    n: int
    top1: dict[str, float]
    balanced_accuracy: dict[str, float]
    macro_f1: float
    macro_f1_interval: list[float]
    per_class: list[ClassAccuracy]
    confusion: list[list[int]]
    ece: float
    reliability: list[ReliabilityPoint]


@dataclass(frozen=True)
class AccuracyMetrics:
    """How well a file's predictions match the labels.

    Attributes:
        n: Number of clips.
        top1: Share of clips whose largest logit is at the label, in 0..1, with its interval.
        balanced_accuracy: Mean recall over the classes that occur among the labels, in 0..1, with its interval.
        macro_f1: Mean F1 over the classes that occur among labels or predictions, in 0..1, with its interval.
        per_class: The metrics of each class, in order.
        confusion: Number of clips by label (row) and prediction (column), shape (C, C).
        ece: Expected calibration error over 15 bins of confidence, in 0..1; 0: confidence equals accuracy in each bin.
        reliability: The bins that contain clips.
    """

    n: int
    top1: Interval
    balanced_accuracy: Interval
    macro_f1: Interval
    per_class: list[ClassAccuracy]
    confusion: list[list[int]]
    ece: float
    reliability: list[ReliabilityPoint]

    def metric_interval(self, metric: Metric) -> Interval:
        """The metric that a recipe's ``choice.metric`` names."""
        return {"accuracy": self.top1, "balanced": self.balanced_accuracy, "macro-f1": self.macro_f1}[metric]

    def to_json(self) -> AccuracyFigures:
        """The attributes by name, as plain JSON types."""
        return {
            "n": self.n,
            "top1": self.top1.to_json(),
            "balanced_accuracy": self.balanced_accuracy.to_json(),
            "macro_f1": self.macro_f1.value,
            "macro_f1_interval": [self.macro_f1.low, self.macro_f1.high],
            "per_class": self.per_class,
            "confusion": self.confusion,
            "ece": self.ece,
            "reliability": self.reliability,
        }


def compute_logits(
    session: InferenceSession, batches: Iterable[npt.NDArray[np.uint8]], preprocess: Preprocessing
) -> npt.NDArray[np.float32]:
    """Compute the logits of all clips, with one batch in memory at a time.

    Args:
        session: A loaded artefact.
        batches: uint8 clips (B, T, H, W, 3); B may differ between batches.
        preprocess: The preprocessing in the artefact's manifest.

    Returns:
        float32 (N, C), in the order of the clips.

    Raises:
        UserError: There are no clips, or a logit is not finite; the message gives the number of the clip, from 0.
    """
    outputs: list[npt.NDArray[np.float32]] = []
    done = 0
    step = session.input.shape[0]
    for batch in batches:
        for start in range(0, len(batch), step or max(len(batch), 1)):
            clips = batch[start : start + (step or len(batch))]
            logits = session.run(prepare_input(clips, preprocess, session.input.dtype))
            bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
            if len(bad):
                raise UserError(
                    f"the network's output for clip {done + int(bad[0])} contains NaN or infinity; the file is damaged "
                    "or overflows at this precision: export it again, or leave out this precision"
                )
            outputs.append(logits)
            done += len(logits)
    if not outputs:
        raise UserError("accuracy needs at least one clip, but no clip was given")
    return np.concatenate(outputs)


def compute_accuracy(
    logits: npt.NDArray[np.floating[Any]],
    labels: npt.ArrayLike,
    classes: Sequence[str],
    groups: Sequence[Hashable] | None = None,
) -> AccuracyMetrics:
    """Compare predictions with labels.

    Args:
        logits: (N, C), finite.
        labels: (N,), whole numbers in 0..C-1.
        classes: C names, in the order of the logits.
        groups: A group label for each clip; clips of one group (a source video) are resampled together.

    Raises:
        UserError: There are no clips.
        ValueError: The shapes do not match, or a label is out of range or not a whole number.
    """
    truth = np.asarray(labels)
    if len(truth) == 0:
        raise UserError("accuracy needs at least one clip, but no clip was given")
    if logits.ndim != 2 or logits.shape != (len(truth), len(classes)):
        raise ValueError(f"logits {logits.shape} do not match {len(truth)} labels and {len(classes)} classes")
    if truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= len(classes):
        raise ValueError(f"labels must be whole numbers from 0 to {len(classes) - 1}")
    predictions = logits.argmax(axis=1)
    size = len(classes)
    confusion = np.bincount(truth * size + predictions, minlength=size * size).reshape(size, size)
    precision, recall, f1 = _compute_precision_recall_f1(confusion)
    averages = compute_class_averages(truth, predictions, groups)
    correct = predictions == truth
    return AccuracyMetrics(
        n=len(truth),
        top1=mean_interval(correct, groups),
        balanced_accuracy=averages.balanced,
        macro_f1=averages.macro_f1,
        per_class=[
            {"class": name, "support": int(s), "precision": float(p), "recall": float(r), "f1": float(f)}
            for name, s, p, r, f in zip(classes, confusion.sum(axis=1), precision, recall, f1, strict=True)
        ],
        confusion=confusion.tolist(),
        ece=_compute_calibration_error(softmax(logits).max(axis=1), correct),
        reliability=_compute_reliability_points(softmax(logits).max(axis=1), correct),
    )


def softmax(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Probabilities (N, C) from logits (N, C), in float64; large logits do not overflow."""
    shifted = np.asarray(logits, np.float64)
    shifted = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def _compute_precision_recall_f1(confusion: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.float64], ...]:
    hits = np.diagonal(confusion).astype(np.float64)
    predicted, support = confusion.sum(axis=0), confusion.sum(axis=1)
    return (
        hits / np.maximum(predicted, 1),
        hits / np.maximum(support, 1),
        2 * hits / np.maximum(predicted + support, 1),
    )


def _compute_calibration_error(confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]) -> float:
    """Mean absolute difference of confidence and accuracy over bins of equal width, weighted by their clips."""
    bins = _assign_confidence_bins(confidence)
    gap = np.bincount(bins, confidence, _ECE_BINS) - np.bincount(bins, correct, _ECE_BINS)
    return float(np.abs(gap).sum() / len(correct))


def _compute_reliability_points(
    confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]
) -> list[ReliabilityPoint]:
    """Points of the reliability diagram (Niculescu-Mizil and Caruana, 2005), with Wilson intervals."""
    bins = _assign_confidence_bins(confidence)
    points: list[ReliabilityPoint] = []
    for b in np.unique(bins):
        in_bin = bins == b
        n, hits = int(in_bin.sum()), int(correct[in_bin].sum())
        mean = float(confidence[in_bin].mean())
        points.append({"n": n, "confidence": mean, "accuracy": hits / n, "interval": list(wilson_interval(hits, n))})
    return points


def _assign_confidence_bins(confidence: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    return np.minimum((confidence * _ECE_BINS).astype(np.intp), _ECE_BINS - 1)
