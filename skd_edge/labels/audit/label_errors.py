"""The findings of an audit: probable label errors, the noise rate, and which classes are confused with which."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from skd_bench.stats import Interval
from skd_edge.labels.cleaning.knn_posterior import compute_posterior, estimate_noise_matrix
from skd_edge.labels.cleaning.pseudo_labels import Evidence

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_RESAMPLES = 200  # bootstrap samples for the intervals of the noise
_LEVEL = 0.95  # confidence level of these intervals


@dataclass(frozen=True)
class NoiseEstimate:
    """The noise of the labels that no person has checked.

    Attributes:
        rate: share of wrong labels in [0, 1], with its interval.
        matrix: ``(C, C)`` probability of each label (column) given the true class (row), rows sum to 1.
        low: ``(C, C)`` lower end of each entry's interval.
        high: ``(C, C)`` upper end of each entry's interval.
    """

    rate: Interval
    matrix: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class SuspectLabel:
    """A clip whose label may be wrong.

    Attributes:
        clip: row of the clip among the training clips.
        label: class index of its weak label.
        proposed: class index of the most probable class, given that the label is wrong.
        p_wrong: posterior in [0, 1] that the label is wrong; clips are ranked by it.
        confidence: probability in [0, 1] that the label is wrong and the proposed class is right.
    """

    clip: int
    label: int
    proposed: int
    p_wrong: float
    confidence: float


class ClassSupport(TypedDict):
    """The clips of one class before and after pseudo-labelling.

    Attributes:
        labelled: Number of clips with this weak label.
        wrong: Expected number of these whose label is wrong.
        after: Number of clips with this pseudo-label.
        trusted: Number of clips with this weak label that a person checked.
    """

    labelled: int
    wrong: float
    after: int
    trusted: int


def rank_label_errors(weak: Ints, evidence: Evidence, trusted: NDArray[np.bool_] | None = None) -> list[SuspectLabel]:
    """Rank the labelled clips whose label no person has checked, the most probable errors first.

    Args:
        weak: ``(N,)`` class indices, -1 where a clip has no label.
        evidence: the evidence of the pseudo-labels.
        trusted: ``(N,)`` whether a person checked the label; None: no label was checked.
    """
    alternative, p_wrong = np.array(evidence.alternative, np.float64), evidence.p_wrong
    unchecked = np.flatnonzero((weak >= 0) if trusted is None else (weak >= 0) & ~trusted)
    alternative[unchecked, weak[unchecked]] = -1.0
    proposed = alternative.argmax(1)
    # Posteriors near 1 are often equal; then the clip with the more probable proposal comes first.
    order = unchecked[np.lexsort((-alternative[unchecked, proposed[unchecked]], -p_wrong[unchecked]))]
    return [
        SuspectLabel(
            int(i),
            int(weak[i]),
            int(proposed[i]),
            float(p_wrong[i]),
            float(p_wrong[i] * max(alternative[i, proposed[i]], 0.0)),
        )
        for i in order
    ]


def estimate_noise(
    weak: Ints,
    class_probabilities: NDArray[np.floating],
    groups: Ints,
    trusted: NDArray[np.bool_] | None = None,
    *,
    seed: int = 0,
    resamples: int = _RESAMPLES,
) -> NoiseEstimate:
    """Estimate the noise rate and the noise matrix, with 95 % intervals.

    The intervals are bootstrap intervals over whole groups of clips. They cover the error of sampling, but not the
    error of ``class_probabilities``.

    Args:
        weak: ``(N,)`` class indices, -1 where a clip has no label.
        class_probabilities: ``(N, C)`` class probabilities of each clip, estimated without its own label.
        groups: ``(N,)`` group of each clip; clips of a group come from the same source video.
        trusted: ``(N,)`` whether a person checked the label; such clips are left out, because their labels are not
            noisy like the others. None: no label was checked.
        seed: seed of the bootstrap.
        resamples: number of bootstrap samples.
    """
    rows = np.flatnonzero((weak >= 0) if trusted is None else (weak >= 0) & ~trusted)
    classes = class_probabilities.shape[1]
    if not len(rows):
        return NoiseEstimate(Interval(0.0, 0.0, 0.0, _LEVEL), np.eye(classes), np.eye(classes), np.eye(classes))
    matrix, rate = _estimate_matrix_and_rate(weak[rows], class_probabilities[rows])
    rng = np.random.default_rng(seed)
    _, group_index = np.unique(groups[rows], return_inverse=True)
    members = np.split(np.argsort(group_index, kind="stable"), np.cumsum(np.bincount(group_index))[:-1])
    drawn = []
    for _ in range(resamples):
        index = rows[np.concatenate([members[g] for g in rng.integers(0, len(members), len(members))])]
        drawn.append(_estimate_matrix_and_rate(weak[index], class_probabilities[index]))
    ends = (100 * (1 - _LEVEL) / 2, 100 * (1 + _LEVEL) / 2)
    low, high = np.percentile([m for m, _ in drawn], ends, axis=0)
    first, last = np.percentile([r for _, r in drawn], ends)
    return NoiseEstimate(Interval(rate, min(float(first), rate), max(float(last), rate), _LEVEL), matrix, low, high)


def count_class_support(
    weak: Ints, evidence: Evidence, pseudo: Ints, trusted: NDArray[np.bool_] | None
) -> list[ClassSupport]:
    """Count the clips of each class before and after pseudo-labelling.

    Args:
        weak: ``(N,)`` class indices, -1 where a clip has no label.
        evidence: the evidence of the pseudo-labels.
        pseudo: ``(N,)`` the most probable class of each clip's pseudo-label.
        trusted: ``(N,)`` whether a person checked the label; None: no label was checked.

    Returns:
        The numbers of each of the C classes.
    """
    classes, has = evidence.class_probabilities.shape[1], weak >= 0
    checked = np.zeros(len(weak), bool) if trusted is None else trusted
    p_wrong = np.where(has, evidence.p_wrong, 0.0)
    after = Counter(pseudo.tolist())
    return [
        {
            "labelled": int((weak == c).sum()),
            "wrong": float(p_wrong[weak == c].sum()),
            "after": after[c],
            "trusted": int((checked & (weak == c)).sum()),
        }
        for c in range(classes)
    ]


def _estimate_matrix_and_rate(weak: Ints, class_probabilities: NDArray[np.floating]) -> tuple[Floats, float]:
    """The noise matrix ``(C, C)``, and the share of wrong labels in [0, 1] that follows from it."""
    matrix = estimate_noise_matrix(weak, class_probabilities)
    shares = compute_posterior(weak, class_probabilities, matrix).mean(0)
    return matrix, 1 - float(shares @ np.diagonal(matrix))
