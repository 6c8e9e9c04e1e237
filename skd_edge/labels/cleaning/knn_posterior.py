"""What a clip's neighbours in feature space say of it, freed of the noise in their own labels.

Nearest published: label propagation for noisy labels (MOIT, 2106.13325) and Dawid-Skene's EM with a single annotator.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_NEIGHBOURS = 30
_DISTANCE_SCALE = 0.1  # cosine distance over which a neighbour's weight falls to 1/e
_SMOOTHING = 0.02  # nobody is surer than this of anything


def knn_class_probabilities(
    weak: NDArray[np.int64],
    q: NDArray[np.float32],
    features: NDArray[np.float32],
    trusted: NDArray[np.bool_] | None = None,
    groups: NDArray[np.int64] | None = None,
) -> Floats:
    """Class probabilities ``(N, C)`` by the network and by a clip's neighbours; its own label is no witness.

    Args:
        weak: ``(N,)`` class indices, -1 where a clip has no label.
        q: ``(N, C)`` what a network says that has not memorised ``weak``; rows sum to 1.
        features: ``(N, D)`` what it sees.
        trusted: ``(N,)`` where ``weak`` is known to be right.
        groups: ``(N,)`` clips of one group (cut from one video) are no witnesses for each other; None: each is its own.
    """
    given = np.where((weak >= 0)[:, None], np.eye(q.shape[1])[weak], 0.0)
    if trusted is None or not trusted.any():
        matrix = estimate_noise_matrix(weak, q)
    else:
        matrix = estimate_noise_matrix(np.where(trusted, -1, weak), q)
        given[trusted] = matrix[weak[trusted]]  # as weak labels of that class would look: unmixing leaves the class
    seen = _average_neighbour_labels(given, features, groups)
    unmixed = np.clip(seen @ np.linalg.pinv(matrix, rcond=0.05), 1e-3, None)
    return _normalise_rows((_normalise_rows(unmixed) + _SMOOTHING) * np.sqrt(q + _SMOOTHING))


def estimate_noise_matrix(
    weak: NDArray[np.int64], class_probabilities: NDArray[np.floating], rounds: int = 30
) -> Floats:
    """``(C, C)`` probability of each weak label (column) given the true class (row), by expectation maximisation.

    Opinions are squared first: an unsure one would find every label likely, and noise would be underestimated. Three
    classes' worth of clips speak for noise that is the same for all classes, so that few clips do not make a pattern;
    the less, the more the errors that were counted differ from such noise (empirical Bayes).
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
    """How far counted errors are from being spread evenly: about 1 where they are (chi square by its freedom)."""
    off = ~np.eye(len(counts), dtype=bool)
    even = np.where(off, (counts * off).sum(1, keepdims=True) / max(len(counts) - 1, 1), 0.0)
    free = max(len(counts) * (len(counts) - 2), 1)
    return float(((counts - even)[off] ** 2 / np.maximum(even[off], 1.0)).sum() / free)


def compute_posterior(weak: NDArray[np.int64], class_probabilities: NDArray[np.floating], matrix: Floats) -> Floats:
    """Bayes: class probabilities ``(N, C)`` given the opinion and the weak label, as independent witnesses."""
    likelihood = np.where((weak >= 0)[:, None], matrix[:, weak].T, 1.0)
    return _normalise_rows(class_probabilities * likelihood)


def _average_neighbour_labels(given: Floats, features: NDArray[np.float32], groups: NDArray[np.int64] | None) -> Floats:
    """Share of each label among the nearest clips ``(N, C)``, near ones weighing more; ``given (N, C)``: their own."""
    from sklearn.neighbors import NearestNeighbors

    n, classes = given.shape
    if n < 2:
        return np.full((n, classes), 1 / classes)
    x = _half_whiten(features)
    largest = 1 if groups is None else int(np.unique(groups, return_counts=True)[1].max())
    count = min(_NEIGHBOURS + largest - 1, n - 1)
    distance, rows = NearestNeighbors(n_neighbors=count).fit(x).kneighbors()  # never itself
    weight = np.exp(-(distance**2) / 2 / _DISTANCE_SCALE) + 1e-12  # of unit vectors: 1 - cosine = distance squared / 2
    if groups is not None and largest > 1:
        other = groups[rows] != groups[:, None]
        weight *= other & (np.cumsum(other, axis=1) <= _NEIGHBOURS)  # the nearest of the other groups
    return _normalise_rows(np.einsum("nk,nkc->nc", weight, given[rows]) + 1e-6)


def _half_whiten(features: NDArray[np.float32]) -> Floats:
    """Unit vectors ``(N, D)`` whose strong directions drown the weak ones only half as much as they did."""
    x = features.astype(np.float64) - features.mean(0)
    scale, axes = np.linalg.eigh(x.T @ x)
    x = x @ (axes * np.maximum(scale, max(scale[-1], 1e-12) * 1e-9) ** -0.25)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def _make_symmetric_matrix(p_correct: float, classes: int) -> Floats:
    """A matrix that keeps each label with probability ``p_correct`` and spreads the rest evenly."""
    matrix = np.full((classes, classes), (1 - p_correct) / max(classes - 1, 1))
    np.fill_diagonal(matrix, p_correct)
    return matrix


def _normalise_rows(x: NDArray[np.floating]) -> Floats:
    return np.asarray(x / np.maximum(x.sum(1, keepdims=True), 1e-12), np.float64)
