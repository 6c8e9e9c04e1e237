"""What an audit finds: which labels are probably wrong, how many are, and who mislabels what as what."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skd_bench.stats import Interval
from skd_edge.labels.cleaning.knn_posterior import compute_posterior, estimate_noise_matrix
from skd_edge.labels.cleaning.pseudo_labels import Evidence

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_RESAMPLES = 200
_LEVEL = 0.95


@dataclass(frozen=True)
class NoiseEstimate:
    """How noisy the labels that nobody has checked are.

    Attributes:
        rate: share of wrong labels, 0..1.
        matrix: ``(C, C)`` probability of each label (column) given the true class (row), rows sum to 1.
        low: ``(C, C)`` lower end of each entry's interval; ``high`` the upper end.
        high: see ``low``.
    """

    rate: Interval
    matrix: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class SuspectLabel:
    """One clip whose label is doubted.

    Attributes:
        clip: its row among the training clips.
        label: class index of the label in doubt.
        proposed: the most probable class, given that the label is wrong.
        p_wrong: posterior in [0, 1] that the label is wrong; what suspects are ranked by.
        confidence: probability in [0, 1] that the clip is of the proposed class.
    """

    clip: int
    label: int
    proposed: int
    p_wrong: float
    confidence: float


def rank_label_errors(weak: Ints, evidence: Evidence, trusted: NDArray[np.bool_] | None = None) -> list[SuspectLabel]:
    """Every labelled clip that nobody has checked, the most doubtful first.

    Args:
        weak: ``(N,)`` class indices, -1 where a clip has no label.
        evidence: of the label optimiser.
        trusted: ``(N,)`` labels that a person has checked.
    """
    alternative, p_wrong = np.array(evidence.alternative, np.float64), evidence.p_wrong
    unchecked = np.flatnonzero((weak >= 0) if trusted is None else (weak >= 0) & ~trusted)
    alternative[unchecked, weak[unchecked]] = -1.0
    proposed = alternative.argmax(1)
    # Where doubts are equal (rounded to 1), the surer proposal comes first.
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
    """The noise rate and matrix with 95 % intervals.

    Intervals come from resampling whole groups of clips and estimating anew: they hold what the sample leaves open,
    not how wrong the network's opinions may be.

    Args:
        weak: ``(N,)`` class indices, -1 where a clip has no label.
        class_probabilities: ``(N, C)`` class probabilities of each clip beside its own label.
        groups: ``(N,)`` clips of one group come from one source video.
        trusted: ``(N,)`` labels that a person has checked: they say nothing of the others' noise.
        seed: of the resampling.
        resamples: how many.
    """
    rows = np.flatnonzero((weak >= 0) if trusted is None else (weak >= 0) & ~trusted)
    classes = class_probabilities.shape[1]
    if not len(rows):
        return NoiseEstimate(Interval(0.0, 0.0, 0.0, _LEVEL), np.eye(classes), np.eye(classes), np.eye(classes))
    matrix, rate = _estimate_matrix_and_rate(weak[rows], class_probabilities[rows])
    rng = np.random.default_rng(seed)
    _, of = np.unique(groups[rows], return_inverse=True)
    members = np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of))[:-1])
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
) -> list[dict[str, float]]:
    """For each class: labelled clips, how many of those are wrong, how many clips the class really has.

    Args:
        weak: ``(N,)`` class indices, -1 where a clip has no label.
        evidence: of the label optimiser.
        pseudo: ``(N,)`` the most probable class of each clip after optimisation.
        trusted: ``(N,)`` labels that a person has checked.

    Returns:
        C rows: ``labelled``, ``wrong`` (expected number), ``after`` (clips of this pseudo-label), ``trusted``.
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
    """The noise matrix, and the share of wrong labels that it and the clips' classes amount to."""
    matrix = estimate_noise_matrix(weak, class_probabilities)
    shares = compute_posterior(weak, class_probabilities, matrix).mean(0)
    return matrix, 1 - float(shares @ np.diagonal(matrix))
