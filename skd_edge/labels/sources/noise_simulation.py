"""Label noise made by a recipe, for studies: which labels are wrong depends on the seed alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skd_edge.recipe.labels import NoiseSettings

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_RATE_RANGE = 0.75  # of the voters' error rates about their mean: at 0.4, from 0.1 to 0.7
_HABIT_SHARE = 0.5  # share of a voter's errors that are his habit for that class


def corrupt_labels(labels: Ints, classes: int, noise: NoiseSettings, seed: int) -> Ints:
    """Replace exactly ``round(rate * labelled)`` of the labels ``(N,)`` by wrong ones; -1 (unlabelled) stays.

    Symmetric noise draws the wrong class uniformly from the others; class-dependent noise takes the next class
    (each class is mistaken for one other, the harder case). Voters are made by ``simulated_votes``, noise that depends
    on the clip by ``corrupt_instances``.
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
    """Noise that depends on the clip: what a weak model confuses is mislabelled, and by what it confuses it with.

    Exactly ``round(rate * labelled)`` labels ``(N,)`` become wrong: clips are drawn without replacement in proportion
    to the probability that the model is wrong, the wrong class by its other probabilities (nearest: noise by a model's
    own predictions, "Beyond Class-Conditional Assumption", 2012.05458).

    Args:
        labels: class indices, -1 where a clip is unlabelled: it stays so.
        confusion: ``(N, C)`` what the weak model says of each clip; see ``confusable``.
        noise: of the recipe.
        seed: draws clips and classes.
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
    """What a weak model says of each clip ``(N, C)``, out of fold: who is confused with whom, clip by clip.

    Logistic regression on 4x4 block means of the mean frame and of the mean frame difference: it knows where there is
    light and where something moves, not how.

    Args:
        clips: ``(N, T, H, W, 3)`` uint8.
        labels: ``(N,)`` class indices, -1 where a clip is unlabelled (its row is even).
        classes: C.
        seed: of the folds.
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
    """Brightness and motion of ``side * side`` blocks of each clip ``(N, 2 * side * side)``; a few clips at a time."""
    parts = []
    for clip in clips:
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
    """Share of wrong votes of each voter ``(voters,)``: evenly spaced about ``rate``, the best first."""
    half_range = _RATE_RANGE * min(noise.rate, 1 - noise.rate) if noise.voters > 1 else 0.0
    return np.linspace(noise.rate - half_range, noise.rate + half_range, noise.voters)


def simulate_votes(labels: Ints, classes: int, noise: NoiseSettings, seed: int) -> Ints:
    """Votes ``(N, voters)`` of imperfect annotators on clips with known ``labels (N,)``, -1 where one abstains.

    Each voter leaves out exactly ``round(abstain * labelled)`` clips and is wrong on exactly his rate of the others
    (rounded). Half of his errors are a habit, one wrong class of his own for each true class; the rest are any other
    class. Nobody votes on a clip that is unlabelled.
    """
    rng = np.random.default_rng((seed, 40_962))
    labelled = np.flatnonzero(labels >= 0)
    votes = np.full((len(labels), noise.voters), -1, np.int64)
    for voter, rate in enumerate(compute_voter_error_rates(noise)):
        habit = rng.integers(1, classes, classes)
        seen = rng.permutation(labelled)[round(noise.abstain * len(labelled)) :]
        wrong = rng.permutation(seen)[: round(rate * len(seen))]
        by_habit = rng.random(len(wrong)) < _HABIT_SHARE
        step = np.where(by_habit, habit[labels[wrong]], rng.integers(1, classes, len(wrong)))
        votes[seen, voter] = labels[seen]
        votes[wrong, voter] = (labels[wrong] + step) % classes
    return votes
