"""Label noise made by a recipe, for studies: which labels are wrong depends on the seed alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skd_edge.recipe import Noise

Ints = NDArray[np.int64]
_SPREAD = 0.75  # of the voters' error rates about their mean: at 0.4, from 0.1 to 0.7
_HABIT = 0.5  # share of a voter's errors that are his habit for that class


def corrupt(labels: Ints, classes: int, noise: Noise, seed: int) -> Ints:
    """Replace exactly ``round(rate * labelled)`` of the labels ``(N,)`` by wrong ones; -1 (unlabelled) stays.

    Symmetric noise draws the wrong class uniformly from the others; class-dependent noise takes the next class
    (each class is mistaken for one other, the harder case). Voters are made by ``simulated_votes``.
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


def voter_rates(noise: Noise) -> NDArray[np.float64]:
    """Share of wrong votes of each voter ``(voters,)``: evenly spaced about ``rate``, the best first."""
    spread = _SPREAD * min(noise.rate, 1 - noise.rate) if noise.voters > 1 else 0.0
    return np.linspace(noise.rate - spread, noise.rate + spread, noise.voters)


def simulated_votes(labels: Ints, classes: int, noise: Noise, seed: int) -> Ints:
    """Votes ``(N, voters)`` of imperfect annotators on clips with known ``labels (N,)``, -1 where one abstains.

    Each voter leaves out exactly ``round(abstain * labelled)`` clips and is wrong on exactly his rate of the others
    (rounded). Half of his errors are a habit, one wrong class of his own for each true class; the rest are any other
    class. Nobody votes on a clip that is unlabelled.
    """
    rng = np.random.default_rng((seed, 40_962))
    labelled = np.flatnonzero(labels >= 0)
    votes = np.full((len(labels), noise.voters), -1, np.int64)
    for voter, rate in enumerate(voter_rates(noise)):
        habit = rng.integers(1, classes, classes)
        seen = rng.permutation(labelled)[round(noise.abstain * len(labelled)) :]
        wrong = rng.permutation(seen)[: round(rate * len(seen))]
        by_habit = rng.random(len(wrong)) < _HABIT
        step = np.where(by_habit, habit[labels[wrong]], rng.integers(1, classes, len(wrong)))
        votes[seen, voter] = labels[seen]
        votes[wrong, voter] = (labels[wrong] + step) % classes
    return votes
