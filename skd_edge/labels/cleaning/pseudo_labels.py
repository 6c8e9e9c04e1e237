"""Pseudo-labels: what training uses instead of a weak label, and why (method.md, idea c).

``target = (1 - w) * weak + w * q``: q is what is known of a clip without its own label, w the posterior that the weak
label is wrong. By default both come from Bayes' rule: a network that has not memorised the label and the clip's
neighbours in feature space are the witnesses, and a noise matrix says how far a label is to be trusted
(``neighbours.py``). As switches: a two-component mixture on the network's loss, class by class (nearest: DivideMix,
2002.07394), sharpened by class prototypes; confident learning; or the network's opinion alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skd_edge.labels.cleaning.confident_learning import find_label_errors
from skd_edge.labels.cleaning.knn_posterior import compute_posterior, estimate_noise_matrix, knn_class_probabilities
from skd_edge.recipe.labels import LabelSettings

Floats = NDArray[np.float32]
_MIN_CLASS_CLIPS = 24  # clips of a class below which the mixture is fitted on all classes together


@dataclass(frozen=True)
class Evidence:
    """What is known of each clip beside its own label, before any class is guarded: what an audit goes by.

    Attributes:
        class_probabilities: ``(N, C)`` class probabilities by network and neighbours, rows sum to 1.
        p_wrong: ``(N,)`` posterior in [0, 1] that the weak label is wrong; 0 where it is trusted, 1 where there is none.
        alternative: ``(N, C)`` class probabilities given that the weak label is wrong.
    """

    class_probabilities: NDArray[np.floating]
    p_wrong: NDArray[np.float64]
    alternative: NDArray[np.floating]


@dataclass(frozen=True)
class PseudoLabels:
    """One probability vector for each training clip, and how it came about.

    Attributes:
        targets: ``(N, C)``, rows sum to 1.
        wrong: ``(N,)`` posterior in [0, 1] that the weak label is wrong; 1 where there is none.
        weak: ``(N,)`` the weak labels, -1 where there is none.
        why: ``(N,)`` one of ``kept``, ``replaced``, ``uncertain``, ``guarded``, ``unlabelled``, ``trusted``.
        noise_rate: estimated share of wrong labels among those that are not trusted, before any class is guarded.
        evidence: what they were estimated from.
    """

    targets: Floats
    wrong: Floats
    weak: NDArray[np.int64]
    why: NDArray[np.str_]
    noise_rate: float
    evidence: Evidence | None = None

    @property
    def hard(self) -> NDArray[np.int64]:
        """The most probable class of each clip ``(N,)``."""
        return np.asarray(self.targets.argmax(1), np.int64)


def estimate_pseudo_labels(
    weak: NDArray[np.int64],
    q: Floats,
    features: Floats,
    settings: LabelSettings,
    trusted: NDArray[np.bool_] | None = None,
    groups: NDArray[np.int64] | None = None,
) -> PseudoLabels:
    """Estimate pseudo-labels.

    Args:
        weak: ``(N,)`` class indices, -1 where a clip has no label.
        q: ``(N, C)`` probabilities by a network that has not memorised ``weak``; a row of zeros has no opinion, and
            the weak label stands (or, where there is none, every class is as likely).
        features: ``(N, D)`` what the same network sees in each clip.
        settings: of the recipe.
        trusted: ``(N,)`` where a person has checked the label: it stays as it is.
        groups: ``(N,)`` which clips belong together (of one source video); None: each is its own.

    Returns:
        Pseudo-labels; a class keeps at least ``min_class_share`` of its clips whatever the mixture says.
    """
    classes, has = q.shape[1], weak >= 0
    checked = np.zeros(len(weak), bool) if trusted is None else trusted & has
    given = np.where(has[:, None], np.eye(classes, dtype=np.float32)[weak], np.float32(1 / classes))
    silent: NDArray[np.bool_] = ~np.any(q, axis=1)
    # Who was never looked at is no witness for the neighbours; elsewhere nothing speaks against his label.
    q = np.where(silent[:, None], 1 / classes if settings.method == "neighbours" else given, q)
    belief = q[np.arange(len(weak)), weak]
    p_wrong, class_probabilities, q, noise_rate = _estimate_label_errors(weak, q, features, settings, checked, groups)
    wrong, guarded = np.where(has, np.where(silent | checked, 0.0, p_wrong), 1.0), np.zeros(len(weak), bool)
    evidence = Evidence(class_probabilities, wrong.copy(), q)
    if settings.method != "soft":
        share = settings.min_class_share
        wrong[has], guarded[has] = _guard_classes(wrong[has], belief[has], weak[has], classes, share)
    targets = (1 - wrong)[:, None] * given + wrong[:, None] * q
    why = np.where(wrong < 0.2, "kept", np.where(wrong > 0.8, "replaced", "uncertain"))
    why = np.where(has, np.where(guarded, "guarded", np.where(checked, "trusted", why)), "unlabelled")
    return PseudoLabels(targets.astype(np.float32), wrong.astype(np.float32), weak, why, noise_rate, evidence)


def _estimate_label_errors(
    weak: NDArray[np.int64],
    q: Floats,
    features: Floats,
    settings: LabelSettings,
    trusted: NDArray[np.bool_],
    groups: NDArray[np.int64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.floating], NDArray[np.floating], float]:
    """Which labels are wrong, before any class is guarded.

    Returns:
        Posterior ``(N,)`` that each label is wrong, the opinion ``(N, C)`` that this rests on, what takes the label's
        place ``(N, C)``, the share of wrong labels among those that are not trusted.
    """
    classes, rows, has = q.shape[1], np.arange(len(weak)), weak >= 0
    unchecked = has & ~trusted
    if settings.method == "neighbours":
        class_probabilities = knn_class_probabilities(weak, q, features, trusted, groups)
        matrix = estimate_noise_matrix(np.where(trusted, -1, weak), class_probabilities)
        label_posterior = compute_posterior(weak, class_probabilities, matrix)
        right = label_posterior[rows, weak]
        rest = label_posterior.copy()
        rest[rows[has], weak[has]] = 0.0  # given that the weak label is wrong
        noise_rate = 1 - float(label_posterior[unchecked].mean(0) @ np.diagonal(matrix)) if unchecked.any() else 0.0
        return 1 - right, class_probabilities, rest / np.maximum(rest.sum(1, keepdims=True), 1e-12), noise_rate
    wrong = np.ones(len(weak))
    if settings.method == "confident":
        wrong[has] = find_label_errors(weak[has], q[has])
    if settings.method == "mixture":
        loss = -np.log(np.clip(q[rows, weak], 1e-6, 1.0))[has]
        wrong[has] = _fit_class_mixtures(loss, weak[has], classes)
        if settings.prototypes and has.any():
            likeness = _compare_with_prototypes(features[has], weak[has], 1 - wrong[has], classes)
            wrong[has] = _sharpen_posterior(wrong[has], likeness)
    return wrong, q, q, float(wrong[unchecked].mean()) if unchecked.any() else 0.0


def _fit_class_mixtures(loss: NDArray[np.float64], weak: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Posterior ``(N,)`` of the component with the higher loss, fitted class by class."""
    wrong = _fit_mixture(loss)
    for c in range(classes):
        members = np.flatnonzero(weak == c)
        if len(members) >= _MIN_CLASS_CLIPS:
            wrong[members] = _fit_mixture(loss[members])
    return wrong


def _fit_mixture(loss: NDArray[np.float64]) -> NDArray[np.float64]:
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


def _compare_with_prototypes(
    features: Floats, weak: NDArray[np.int64], p_right: NDArray[np.float64], classes: int
) -> NDArray[np.float64]:
    """Odds, as a share in (0, 1), that a clip looks like its weak class rather than like the next best class."""
    x = features - features.mean(0)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    weights = np.zeros((classes, len(weak)), np.float64)
    weights[weak, np.arange(len(weak))] = p_right + 1e-6
    prototypes = weights @ x
    prototypes /= np.maximum(np.linalg.norm(prototypes, axis=1, keepdims=True), 1e-6)
    likeness = x @ prototypes.T
    own = likeness[np.arange(len(weak)), weak]
    likeness[np.arange(len(weak)), weak] = -np.inf
    share: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip((own - likeness.max(1)) / 0.1, -4, 4)))
    return share


def _sharpen_posterior(wrong: NDArray[np.float64], resembles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bayes: the mixture's posterior and the resemblance to the weak class as independent witnesses."""
    against = wrong * (1 - resembles)
    return against / np.maximum(against + (1 - wrong) * resembles, 1e-12)


def _guard_classes(
    wrong: NDArray[np.float64], belief: NDArray[np.floating], weak: NDArray[np.int64], classes: int, share: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Keep the least suspicious ``share`` of each class, so that no class is emptied.

    Of equally suspicious labels those are kept in which the network has more ``belief (N,)``.
    """
    guarded, wrong = np.zeros(len(weak), bool), wrong.copy()
    for c in range(classes):
        members = np.flatnonzero(weak == c)
        order = np.lexsort((-belief[members], wrong[members]))
        keep = members[order[: int(np.ceil(share * len(members)))]]
        guarded[keep] = wrong[keep] > 0.49
        wrong[keep] = np.minimum(wrong[keep], 0.49)  # the weak label stays the likeliest
    return wrong, guarded
