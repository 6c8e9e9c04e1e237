"""Simulated label noise for studies; equal labels, settings and seed give equal noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skd_edge.recipe.labels import NoiseSettings

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_RATE_RANGE = 0.75  # range of the annotators' error rates around their mean: for a mean of 0.4, from 0.1 to 0.7
_HABIT_SHARE = 0.5  # share of an annotator's errors that go to their habitual wrong class


def corrupt_labels(labels: Ints, classes: int, noise: NoiseSettings, seed: int) -> Ints:
    """Add symmetric or class-dependent noise: exactly ``round(rate * labelled)`` labels become wrong.

    Symmetric noise draws the wrong class uniformly from the other classes. Class-dependent noise takes the next class:
    each class is confused with one other class, which is harder to clean. For other kinds of noise the labels are
    copied; see ``simulate_votes`` and ``corrupt_instances``.

    Args:
        labels: ``(N,)`` class indices, -1 for unlabelled clips, which stay unlabelled.
        classes: number of classes C.
        noise: kind and rate.
        seed: draws the clips and the wrong classes.

    Returns:
        ``(N,)`` noisy labels; ``labels`` itself is not changed.
    """
    if noise.kind not in ("symmetric", "classes") or noise.rate == 0:
        return labels.copy()
    rng = np.random.default_rng((seed, 40_961))
    labelled = np.flatnonzero(labels >= 0)
    wrong = labelled[rng.permutation(len(labelled))[: round(noise.rate * len(labelled))]]
    step = rng.integers(1, classes, len(wrong)) if noise.kind == "symmetric" else 1
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + step) % classes
    return noisy


def corrupt_instances(labels: Ints, confusion: Floats, noise: NoiseSettings, seed: int) -> Ints:
    """Add noise that depends on the clip: clips that a weak model confuses get the class it confuses them with.

    Exactly ``round(rate * labelled)`` labels become wrong. Clips are drawn without replacement, in proportion to the
    probability that the model is wrong; the wrong class is drawn from the model's other probabilities (nearest: noise
    by a model's own predictions, "Beyond Class-Conditional Assumption", arXiv 2012.05458).

    Args:
        labels: ``(N,)`` class indices, -1 for unlabelled clips, which stay unlabelled.
        confusion: ``(N, C)`` class probabilities by the weak model; see ``estimate_confusions``.
        noise: its rate is used.
        seed: draws the clips and the wrong classes.

    Returns:
        ``(N,)`` noisy labels; ``labels`` itself is not changed.
    """
    rng = np.random.default_rng((seed, 40_963))
    labelled = np.flatnonzero(labels >= 0)
    others = confusion[labelled] + 1e-6
    others[np.arange(len(labelled)), labels[labelled]] = 0.0
    p_wrong = others.sum(1)
    count = round(noise.rate * len(labelled))
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


def compute_voter_error_rates(noise: NoiseSettings) -> NDArray[np.float64]:
    """Share of wrong votes of each annotator ``(noise.voters,)``: evenly spaced around ``noise.rate``, ascending."""
    half_range = _RATE_RANGE * min(noise.rate, 1 - noise.rate) if noise.voters > 1 else 0.0
    return np.linspace(noise.rate - half_range, noise.rate + half_range, noise.voters)


def simulate_votes(labels: Ints, classes: int, noise: NoiseSettings, seed: int) -> Ints:
    """Simulate the votes of imperfect annotators on clips with known labels.

    Each annotator abstains on exactly ``round(abstain * labelled)`` clips, and is wrong on exactly their error rate of
    the others (rounded). Half of the errors of an annotator go to one habitual wrong class for each true class, the
    rest to any wrong class. No annotator votes on an unlabelled clip.

    Args:
        labels: ``(N,)`` class indices, -1 for unlabelled clips.
        classes: number of classes C.
        noise: number of annotators (``voters``), mean error rate, and share of abstentions.
        seed: draws abstentions, errors and habits.

    Returns:
        ``(N, noise.voters)`` class indices, -1 for an abstention.
    """
    rng = np.random.default_rng((seed, 40_962))
    labelled = np.flatnonzero(labels >= 0)
    votes = np.full((len(labels), noise.voters), -1, np.int64)
    for voter, rate in enumerate(compute_voter_error_rates(noise)):
        habit = rng.integers(1, classes, classes)
        voted = rng.permutation(labelled)[round(noise.abstain * len(labelled)) :]
        wrong = rng.permutation(voted)[: round(rate * len(voted))]
        by_habit = rng.random(len(wrong)) < _HABIT_SHARE
        step = np.where(by_habit, habit[labels[wrong]], rng.integers(1, classes, len(wrong)))
        votes[voted, voter] = labels[voted]
        votes[wrong, voter] = (labels[wrong] + step) % classes
    return votes
