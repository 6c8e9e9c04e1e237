"""Pseudo-labels: what training uses instead of a weak label, and why (method.md, idea c).

``target = (1 - w) * weak + w * q``: q is what a network that has not memorised the label says, w the posterior that the
weak label is wrong, from a two-component mixture on its loss, class by class (nearest: 2007.00151 ELR, 2002.07394
DivideMix), sharpened by whether the clip resembles its class in feature space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skd_edge.recipe import Labels

Floats = NDArray[np.float32]
_FEWEST = 24  # clips of a class below which the mixture is fitted on all classes together


@dataclass(frozen=True)
class PseudoLabels:
    """One probability vector for each training clip, and how it came about.

    Attributes:
        targets: ``(N, C)``, rows sum to 1.
        wrong: ``(N,)`` posterior in [0, 1] that the weak label is wrong.
        weak: ``(N,)`` the weak labels.
        why: ``(N,)`` one of ``kept``, ``replaced``, ``uncertain``, ``guarded``.
        noise_rate: estimated share of wrong weak labels: the mean posterior, before any class is guarded.
    """

    targets: Floats
    wrong: Floats
    weak: NDArray[np.int64]
    why: NDArray[np.str_]
    noise_rate: float

    @property
    def hard(self) -> NDArray[np.int64]:
        """The most probable class of each clip ``(N,)``."""
        return np.asarray(self.targets.argmax(1), np.int64)


def optimise(weak: NDArray[np.int64], q: Floats, features: Floats, settings: Labels) -> PseudoLabels:
    """Estimate pseudo-labels.

    Args:
        weak: ``(N,)`` class indices.
        q: ``(N, C)`` probabilities by a network that has not memorised ``weak``; a row of zeros has no opinion, and
            the weak label stands.
        features: ``(N, D)`` what the same network sees in each clip.
        settings: of the recipe.

    Returns:
        Pseudo-labels; a class keeps at least ``min_class_share`` of its clips whatever the mixture says.
    """
    n, classes = q.shape
    given = np.eye(classes, dtype=np.float32)[weak]
    q = np.where(q.any(1, keepdims=True), q, given)
    loss = -np.log(np.clip(q[np.arange(n), weak], 1e-6, 1.0))
    wrong = _posterior(loss, weak, classes)
    if settings.prototypes:
        wrong = _sharpen(wrong, _resemblance(features, weak, 1 - wrong, classes))
    noise_rate = float(wrong.mean())
    wrong, guarded = _guard(wrong, weak, classes, settings.min_class_share)
    targets = (1 - wrong)[:, None] * given + wrong[:, None] * q
    why = np.where(wrong < 0.2, "kept", np.where(wrong > 0.8, "replaced", "uncertain"))
    why = np.where(guarded, "guarded", why)
    return PseudoLabels(targets.astype(np.float32), wrong.astype(np.float32), weak, why, noise_rate)


def _posterior(loss: NDArray[np.float64], weak: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Posterior ``(N,)`` of the component with the higher loss, fitted class by class."""
    wrong = _mixture(loss)
    for c in range(classes):
        members = np.flatnonzero(weak == c)
        if len(members) >= _FEWEST:
            wrong[members] = _mixture(loss[members])
    return wrong


def _mixture(loss: NDArray[np.float64]) -> NDArray[np.float64]:
    """Posterior of the upper of two Gaussians on the loss ``(N,)``; 0 everywhere where there is but one group."""
    from sklearn.mixture import GaussianMixture

    if len(loss) < 2 or np.ptp(loss) < 1e-6:
        return np.zeros_like(loss)
    ends = np.percentile(loss, (10, 90))[:, None]
    mixture = GaussianMixture(2, reg_covar=1e-3, means_init=ends, random_state=0, max_iter=50).fit(loss[:, None])
    upper = int(mixture.means_[:, 0].argmax())
    posterior: NDArray[np.float64] = mixture.predict_proba(loss[:, None])[:, upper]
    # A wide Gaussian wins back the far low end: below the lower mean a label is not suspicious.
    posterior[loss <= mixture.means_[1 - upper, 0]] = 0.0
    # A label that the network finds likelier than not is no error, however the two groups lie.
    return np.asarray(posterior * (loss > np.log(2)))


def _resemblance(
    features: Floats, weak: NDArray[np.int64], trust: NDArray[np.float64], classes: int
) -> NDArray[np.float64]:
    """Odds, as a share in (0, 1), that a clip looks like its weak class rather than like the next best class."""
    x = features - features.mean(0)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    weights = np.zeros((classes, len(weak)), np.float64)
    weights[weak, np.arange(len(weak))] = trust + 1e-6
    prototypes = weights @ x
    prototypes /= np.maximum(np.linalg.norm(prototypes, axis=1, keepdims=True), 1e-6)
    likeness = x @ prototypes.T
    own = likeness[np.arange(len(weak)), weak]
    likeness[np.arange(len(weak)), weak] = -np.inf
    share: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip((own - likeness.max(1)) / 0.1, -4, 4)))
    return share


def _sharpen(wrong: NDArray[np.float64], resembles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bayes: the mixture's posterior and the resemblance to the weak class as independent witnesses."""
    against = wrong * (1 - resembles)
    return against / np.maximum(against + (1 - wrong) * resembles, 1e-12)


def _guard(
    wrong: NDArray[np.float64], weak: NDArray[np.int64], classes: int, share: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Keep the least suspicious ``share`` of each class, so that no class is emptied."""
    guarded = np.zeros(len(weak), bool)
    for c in range(classes):
        members = np.flatnonzero(weak == c)
        keep = members[np.argsort(wrong[members], kind="stable")[: int(np.ceil(share * len(members)))]]
        guarded[keep] = wrong[keep] > 0.49
        wrong = wrong.copy()
        wrong[keep] = np.minimum(wrong[keep], 0.49)  # the weak label stays the likeliest
    return wrong, guarded
