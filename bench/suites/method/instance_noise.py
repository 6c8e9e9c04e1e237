"""Noise that depends on the clip, as recipes had it (``instances``) before ``labels.noise.kind: model`` replaced it.

It is measured once beside its successor. The errors are those of a model too, but of one that learned the clips' own
labels, out of fold, and random among confusable clips; a real model is wrong on all clips of a kind.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skd_edge.labels.dataset import TrainingData

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def add_instance_noise(data: TrainingData, rate: float, seed: int) -> TrainingData:
    """The same clips, whose listed labels (taken as true) got this noise."""
    train, classes = data.clips.train, len(data.clips.classes)
    noisy = corrupt_instances(train.labels, estimate_confusions(train.clips, train.labels, classes, seed), rate, seed)
    key = hashlib.sha256(b"instances" + noisy.tobytes()).hexdigest()
    return replace(data, weak_labels=noisy, truth=train.labels, weak_hash=key)


def corrupt_instances(labels: Ints, confusion: Floats, rate: float, seed: int) -> Ints:
    """Add noise that depends on the clip: clips that a weak model confuses get the class it confuses them with.

    Exactly ``round(rate * labelled)`` labels become wrong. Clips are drawn without replacement, in proportion to the
    probability that the model is wrong; the wrong class is drawn from the model's other probabilities (nearest: noise
    by a model's own predictions, "Beyond Class-Conditional Assumption", arXiv 2012.05458).

    Args:
        labels: ``(N,)`` class indices, -1 for unlabelled clips, which stay unlabelled.
        confusion: ``(N, C)`` class probabilities by the weak model; see ``estimate_confusions``.
        rate: share of wrong labels, in [0, 1].
        seed: draws the clips and the wrong classes.

    Returns:
        ``(N,)`` noisy labels; ``labels`` itself is not changed.
    """
    rng = np.random.default_rng((seed, 40_963))
    labelled = np.flatnonzero(labels >= 0)
    others = confusion[labelled] + 1e-6
    others[np.arange(len(labelled)), labels[labelled]] = 0.0
    p_wrong = others.sum(1)
    count = round(rate * len(labelled))
    drawn = rng.choice(len(labelled), count, replace=False, p=p_wrong / p_wrong.sum()) if count else labelled[:0]
    shares = np.cumsum(others[drawn] / p_wrong[drawn, None], axis=1)
    noisy = labels.copy()
    noisy[labelled[drawn]] = (rng.random((count, 1)) * shares[:, -1:] >= shares).sum(1)
    return noisy


def estimate_confusions(clips: NDArray[np.uint8], labels: Ints, classes: int, seed: int) -> Floats:
    """Predict class probabilities with a weak model, out of fold, to find confusable clips.

    The model is a logistic regression on 4x4 block means of the mean frame and of the mean frame difference. It
    captures where a clip is bright and where it moves, but not how it moves.

    Args:
        clips: ``(N, T, H, W, 3)`` uint8.
        labels: ``(N,)`` class indices, -1 for unlabelled clips.
        classes: number of classes C.
        seed: seed of the folds.

    Returns:
        ``(N, C)``, rows sum to 1; uniform for unlabelled clips.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    probabilities = np.full((len(labels), classes), 1 / classes)
    rows = np.flatnonzero(labels >= 0)
    x, y = StandardScaler().fit_transform(_compute_block_features(clips)[rows]), labels[rows]
    for fit_rows, held_out_rows in StratifiedKFold(3, shuffle=True, random_state=seed).split(x, y):
        model = LogisticRegression(C=0.1, max_iter=200).fit(x[fit_rows], y[fit_rows])
        probabilities[np.ix_(rows[held_out_rows], model.classes_)] = model.predict_proba(x[held_out_rows])
    return probabilities


def _compute_block_features(clips: NDArray[np.uint8], side: int = 4) -> Floats:
    """Brightness and motion of ``side * side`` blocks of each clip ``(N, 2 * side * side)``."""
    parts = []
    for clip in clips:  # one by one: all clips as floats would not fit into memory
        gray = clip.mean(-1)
        moved = np.abs(np.diff(gray, axis=0)).mean(0) if len(gray) > 1 else np.zeros_like(gray[0])
        blocks = [
            np.array_split(row, side, axis=1)
            for image in (gray.mean(0), moved)
            for row in np.array_split(image, side, axis=0)
        ]
        parts.append([block.mean() for row in blocks for block in row])
    return np.array(parts)
