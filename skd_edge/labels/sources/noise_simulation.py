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
    copied; see ``simulate_votes``, ``weak_model.py`` and ``made_up_titles.py``.

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
        voted = rng.permutation(labelled)[round(noise.abstain_share * len(labelled)) :]
        wrong = rng.permutation(voted)[: round(rate * len(voted))]
        by_habit = rng.random(len(wrong)) < _HABIT_SHARE
        step = np.where(by_habit, habit[labels[wrong]], rng.integers(1, classes, len(wrong)))
        votes[voted, voter] = labels[voted]
        votes[wrong, voter] = (labels[wrong] + step) % classes
    return votes
