"""Accuracy of the file that ships, at the protocol it ships with: one view, decoded and prepared as on the device."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError
from skd_bench.runtimes.base import InferenceSession
from skd_bench.stats import Interval, mean_interval, wilson_interval
from skd_bench.video.clip import prepare_input
from skd_bench.video.types import Preprocessing

_ECE_BINS = 15


@dataclass(frozen=True)
class AccuracyMetrics:
    """How well a file's answers fit the labels.

    Attributes:
        n: Clips.
        top1: Share of clips whose largest logit is the label, in 0..1, with its interval.
        macro_f1: Mean F1 over the classes that occur among labels or answers, in 0..1.
        per_class: For each class in order: `class`, `support` (clips), `precision`, `recall`, `f1` (0 where undefined).
        confusion: Clips by label (row) and answer (column), (C, C).
        ece: Expected calibration error over 15 bins of confidence, in 0..1; 0 means that confidences can be believed.
        reliability: For each of these bins with clips: `n`, mean `confidence`, `accuracy` (both 0..1), its `interval`.
    """

    n: int
    top1: Interval
    macro_f1: float
    per_class: list[dict[str, Any]]
    confusion: list[list[int]]
    ece: float
    reliability: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The same by name, as plain JSON types."""
        return {**asdict(self), "top1": self.top1.to_json()}


def compute_logits(
    session: InferenceSession, batches: Iterable[npt.NDArray[np.uint8]], preprocess: Preprocessing
) -> npt.NDArray[np.float32]:
    """Every clip's logits; one batch in memory at a time.

    Args:
        session: A loaded artefact.
        batches: uint8 clips (B, T, H, W, 3), B may differ from batch to batch.
        preprocess: The artefact's own, from its manifest.

    Returns:
        float32 (N, C), in the order of the clips.

    Raises:
        UserError: There is no clip, or a logit is not a finite number; the message names the clip, counted from 0.
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
                    f"the network's answer to clip {done + int(bad[0])} holds NaN or an infinity; the file is broken "
                    "or overflows at this precision: export it again, or leave this precision out"
                )
            outputs.append(logits)
            done += len(logits)
    if not outputs:
        raise UserError("there is no clip to measure accuracy on")
    return np.concatenate(outputs)


def compute_accuracy(
    logits: npt.NDArray[np.floating[Any]],
    labels: npt.ArrayLike,
    classes: Sequence[str],
    groups: Sequence[Hashable] | None = None,
) -> AccuracyMetrics:
    """Compare answers with labels.

    Args:
        logits: (N, C), finite.
        labels: (N,), whole numbers in 0..C-1.
        classes: C names, in the order of the logits.
        groups: A label for each clip; clips of one group (a source video) are resampled together.

    Raises:
        UserError: There is no clip.
        ValueError: Shapes or labels do not fit.
    """
    truth = np.asarray(labels)
    if len(truth) == 0:
        raise UserError("there is no clip to measure accuracy on")
    if logits.ndim != 2 or logits.shape != (len(truth), len(classes)):
        raise ValueError(f"logits {logits.shape} do not fit {len(truth)} labels and {len(classes)} classes")
    if truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= len(classes):
        raise ValueError(f"labels must be whole numbers from 0 to {len(classes) - 1}")
    predictions = logits.argmax(axis=1)
    size = len(classes)
    confusion = np.bincount(truth * size + predictions, minlength=size * size).reshape(size, size)
    precision, recall, f1 = _compute_precision_recall_f1(confusion)
    occurs = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    correct = predictions == truth
    return AccuracyMetrics(
        n=len(truth),
        top1=mean_interval(correct, groups),
        macro_f1=float(f1[occurs].mean()),
        per_class=[
            {"class": name, "support": int(s), "precision": float(p), "recall": float(r), "f1": float(f)}
            for name, s, p, r, f in zip(classes, confusion.sum(axis=1), precision, recall, f1, strict=True)
        ],
        confusion=confusion.tolist(),
        ece=_compute_calibration_error(softmax(logits).max(axis=1), correct),
        reliability=_compute_reliability_points(softmax(logits).max(axis=1), correct),
    )


def softmax(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Probabilities (N, C) of logits (N, C); no overflow."""
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
    """Mean distance between confidence and accuracy, over bins of equal width, weighted by their clips."""
    bins = _assign_confidence_bins(confidence)
    gap = np.bincount(bins, confidence, _ECE_BINS) - np.bincount(bins, correct, _ECE_BINS)
    return float(np.abs(gap).sum() / len(correct))


def _compute_reliability_points(
    confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """The points of the reliability diagram (Niculescu-Mizil and Caruana, 2005), with intervals (Wilson, 1927)."""
    bins = _assign_confidence_bins(confidence)
    points = []
    for b in np.unique(bins):
        in_bin = bins == b
        n, hits = int(in_bin.sum()), int(correct[in_bin].sum())
        mean = float(confidence[in_bin].mean())
        points.append({"n": n, "confidence": mean, "accuracy": hits / n, "interval": list(wilson_interval(hits, n))})
    return points


def _assign_confidence_bins(confidence: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    return np.minimum((confidence * _ECE_BINS).astype(np.intp), _ECE_BINS - 1)
