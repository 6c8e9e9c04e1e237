"""Class probabilities of a clip from its neighbours in feature space, corrected for the noise in their labels.

Nearest published methods: label propagation for noisy labels (MOIT, arXiv 2106.13325), and the EM algorithm of Dawid
and Skene with a single annotator.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skd_edge.labels.cleaning.neighbours import find_neighbours

Floats = NDArray[np.float64]
_NEIGHBOURS = 30
_DISTANCE_SCALE = 0.1  # cosine distance at which a neighbour's weight falls to 1/e
_BLOCK_ROWS = 2048
_SMOOTHING = 0.02  # added to probabilities, so that neither network nor neighbours can exclude a class


def knn_class_probabilities(
    weak: NDArray[np.int64],
    q: NDArray[np.float32],
    features: NDArray[np.float32],
    trusted: NDArray[np.bool_] | None = None,
    groups: NDArray[np.int64] | None = None,
) -> Floats:
    """Estimate class probabilities from the network and from neighbouring clips, without the clip's own label.

    Args:
        weak: ``(N,)`` class indices, -1 where a clip has no label.
        q: ``(N, C)`` class probabilities of a network that has not memorised ``weak``; rows sum to 1.
        features: ``(N, D)`` features of the same network.
        trusted: ``(N,)`` whether a person checked the label; None: no label was checked.
        groups: ``(N,)`` group of each clip (its source video); a clip's neighbours are taken from other groups. None:
            each clip is its own group.

    Returns:
        ``(N, C)``, rows sum to 1.
    """
    given = np.where((weak >= 0)[:, None], np.eye(q.shape[1])[weak], 0.0)
    if trusted is None or not trusted.any():
        matrix = estimate_noise_matrix(weak, q)
    else:
        matrix = estimate_noise_matrix(np.where(trusted, -1, weak), q)
        # The correction below removes noise from all labels. It maps this row of the noise matrix to the class itself.
        given[trusted] = matrix[weak[trusted]]
    neighbour_labels = _average_neighbour_labels(given, features, groups)
    unmixed = np.clip(neighbour_labels @ np.linalg.pinv(matrix, rcond=0.05), 1e-3, None)
    return _normalise_rows((_normalise_rows(unmixed) + _SMOOTHING) * np.sqrt(q + _SMOOTHING))


def estimate_noise_matrix(
    weak: NDArray[np.int64], class_probabilities: NDArray[np.floating], rounds: int = 30
) -> Floats:
    """Estimate the noise matrix by expectation maximisation.

    Probabilities are squared and normalised first: a vague distribution makes every label plausible, and the noise
    would be underestimated. The prior is symmetric noise with the weight of three average classes, so that few clips do
    not look like a pattern. The weight decreases the more the counted errors differ from symmetric noise (empirical
    Bayes).

    Args:
        weak: ``(N,)`` class indices, -1 where a clip has no label.
        class_probabilities: ``(N, C)`` class probabilities of each clip, estimated without its own label.
        rounds: rounds of EM.

    Returns:
        ``(C, C)`` probability of each weak label (column) given the true class (row), rows sum to 1.
    """
    classes, has = class_probabilities.shape[1], weak >= 0
    given, sharpened = np.eye(classes)[weak[has]], _normalise_rows(class_probabilities[has] ** 2)
    matrix = _make_symmetric_matrix(0.7, classes)
    for _ in range(rounds):
        counts = _normalise_rows(sharpened * matrix[:, weak[has]].T).T @ given
        p_correct = float(np.clip(np.trace(counts) / max(counts.sum(), 1e-12), 1 / classes, 1.0))
        prior = 3 * has.sum() / classes / max(_measure_unevenness(counts), 1.0)
        matrix = _normalise_rows(counts + prior * _make_symmetric_matrix(p_correct, classes) + 1e-6)
    return matrix


def _measure_unevenness(counts: Floats) -> float:
    """Chi square of the counted errors against evenly spread errors, per degree of freedom: about 1 for even errors."""
    off = ~np.eye(len(counts), dtype=bool)
    even = np.where(off, (counts * off).sum(1, keepdims=True) / max(len(counts) - 1, 1), 0.0)
    degrees_of_freedom = max(len(counts) * (len(counts) - 2), 1)
    return float(((counts - even)[off] ** 2 / np.maximum(even[off], 1.0)).sum() / degrees_of_freedom)


def compute_posterior(weak: NDArray[np.int64], class_probabilities: NDArray[np.floating], matrix: Floats) -> Floats:
    """Combine class probabilities with the weak label by Bayes' rule, as independent evidence.

    Args:
        weak: ``(N,)`` class indices, -1 where a clip has no label: its probabilities stay the same.
        class_probabilities: ``(N, C)``, estimated without the clip's own label.
        matrix: ``(C, C)`` noise matrix, see ``estimate_noise_matrix``.

    Returns:
        ``(N, C)`` posterior, rows sum to 1.
    """
    likelihood = np.where((weak >= 0)[:, None], matrix[:, weak].T, 1.0)
    return _normalise_rows(class_probabilities * likelihood)


def _average_neighbour_labels(given: Floats, features: NDArray[np.float32], groups: NDArray[np.int64] | None) -> Floats:
    """Weighted mean of the labels of each clip's nearest clips ``(N, C)``; near clips have more weight.

    Args:
        given: ``(N, C)`` label distribution of each clip; zeros for an unlabelled clip.
        features: ``(N, D)``.
        groups: ``(N,)``, or None; clips of the same group are not used.
    """
    n, classes = given.shape
    if n < 2:
        return np.full((n, classes), 1 / classes)
    own_groups = np.arange(n) if groups is None else groups
    neighbours = find_neighbours(_half_whiten(features), own_groups, min(_NEIGHBOURS, n - 1))
    # Cosine distance; clips that are no neighbours have an infinite one.
    weight = np.exp((neighbours.similarity.astype(np.float64) - 1) / _DISTANCE_SCALE)
    weight += 1e-12 * np.isfinite(neighbours.similarity)
    sums = np.empty((n, classes))
    for first in range(0, n, _BLOCK_ROWS):  # the labels of all neighbours at once would be large
        block = slice(first, first + _BLOCK_ROWS)
        np.einsum("nk,nkc->nc", weight[block], given[neighbours.rows[block]], out=sums[block])
    return _normalise_rows(sums + 1e-6)


def _half_whiten(features: NDArray[np.float32]) -> Floats:
    """Scale each principal axis by the fourth root of its inverse variance, then normalise to unit vectors ``(N, D)``.

    This is halfway to whitening: strong directions still count more than weak ones, but less than before.
    """
    x = features.astype(np.float64) - features.mean(0)
    scale, axes = np.linalg.eigh(x.T @ x)
    x = x @ (axes * np.maximum(scale, max(scale[-1], 1e-12) * 1e-9) ** -0.25)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def _make_symmetric_matrix(p_correct: float, classes: int) -> Floats:
    """The noise matrix ``(C, C)`` with ``p_correct`` on the diagonal and the rest spread evenly."""
    matrix = np.full((classes, classes), (1 - p_correct) / max(classes - 1, 1))
    np.fill_diagonal(matrix, p_correct)
    return matrix


def _normalise_rows(x: NDArray[np.floating]) -> Floats:
    return np.asarray(x / np.maximum(x.sum(1, keepdims=True), 1e-12), np.float64)
