"""Pseudo-labels: the targets that training uses instead of weak labels (docs/method.md, idea c).

``target = (1 - w) * weak + w * q``, where q are class probabilities estimated without the clip's own label, and w is
the posterior that the weak label is wrong. The recipe's ``labels.method`` selects the estimate:

- ``neighbours`` (default): Bayes' rule with two sources of evidence, a network that has not memorised the label and the
  clip's neighbours in feature space, and with a noise matrix for the label (``knn_posterior.py``).
- ``mixture``: a mixture of two Gaussians on the network's loss, class by class (nearest: DivideMix, arXiv 2002.07394),
  optionally sharpened by class prototypes.
- ``confident``: confident learning (``confident_learning.py``).
- ``soft``: the network's probabilities alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skd_edge.labels.cleaning.confident_learning import find_label_errors
from skd_edge.labels.cleaning.knn_posterior import compute_posterior, estimate_noise_matrix, knn_class_probabilities
from skd_edge.recipe.labels import LabelSettings

Floats = NDArray[np.float32]
_MIN_CLASS_CLIPS = 24  # for a class with fewer clips the mixture is fitted on all classes together


@dataclass(frozen=True)
class Evidence:
    """The evidence about each clip's label, before ``min_class_share`` is applied; the audit uses it.

    Attributes:
        class_probabilities: ``(N, C)`` class probabilities without the clip's own label, rows sum to 1.
        p_wrong: ``(N,)`` posterior in [0, 1] that the weak label is wrong; 0 if a person checked it, 1 if there is no
            label.
        alternative: ``(N, C)`` class probabilities given that the weak label is wrong.
    """

    class_probabilities: NDArray[np.floating]
    p_wrong: NDArray[np.float64]
    alternative: NDArray[np.floating]


@dataclass(frozen=True)
class PseudoLabels:
    """The pseudo-labels of the training clips.

    Attributes:
        targets: ``(N, C)`` class probabilities, rows sum to 1.
        wrong: ``(N,)`` posterior in [0, 1] that the weak label is wrong, after ``min_class_share`` is applied; 1 if
            there is no label.
        weak: ``(N,)`` class indices of the weak labels, -1 if there is no label.
        why: ``(N,)`` what happened to the weak label: ``kept`` (posterior below 0.2), ``replaced`` (above 0.8),
            ``uncertain`` (between), ``guarded`` (retained because of ``min_class_share``), ``unlabelled``, or
            ``trusted`` (checked by a person).
        noise_rate: estimated share of wrong labels among the labels that no person checked, in [0, 1].
        evidence: the evidence that the pseudo-labels were estimated from.
    """

    targets: Floats
    wrong: Floats
    weak: NDArray[np.int64]
    why: NDArray[np.str_]
    noise_rate: float
    evidence: Evidence | None = None

    @property
    def hard(self) -> NDArray[np.int64]:
        """Index of the most probable class of each clip ``(N,)``."""
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
        q: ``(N, C)`` class probabilities of a network that has not memorised ``weak``. A row of zeros means that the
            network made no prediction for the clip: its weak label stays (without a label, all classes are equally
            probable).
        features: ``(N, D)`` features of the same network.
        settings: the recipe's section ``labels``.
        trusted: ``(N,)`` whether a person checked the label: it stays. None: no label was checked.
        groups: ``(N,)`` group of each clip (its source video); None: each clip is its own group.

    Returns:
        The pseudo-labels. At least ``min_class_share`` of the clips of each class retain their weak label as the most
        probable class (except with the method ``soft``).
    """
    classes, has = q.shape[1], weak >= 0
    checked = np.zeros(len(weak), bool) if trusted is None else trusted & has
    given = np.where(has[:, None], np.eye(classes, dtype=np.float32)[weak], np.float32(1 / classes))
    no_prediction: NDArray[np.bool_] = ~np.any(q, axis=1)
    # With neighbours, a clip without a prediction gets even probabilities: the network then gives no evidence about it.
    # With the other methods it gets its own label, so that nothing contradicts the label.
    q = np.where(no_prediction[:, None], 1 / classes if settings.method == "neighbours" else given, q)
    belief = q[np.arange(len(weak)), weak]
    p_wrong, class_probabilities, q, noise_rate = _estimate_label_errors(weak, q, features, settings, checked, groups)
    wrong, guarded = np.where(has, np.where(no_prediction | checked, 0.0, p_wrong), 1.0), np.zeros(len(weak), bool)
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
    """Estimate which labels are wrong, before ``min_class_share`` is applied; ``trusted (N,)`` is False if unlabelled.

    Returns:
        The posterior ``(N,)`` that each label is wrong, the class probabilities ``(N, C)`` behind it, the class
        probabilities ``(N, C)`` that replace a wrong label, and the share of wrong labels among those that no person
        checked.
    """
    classes, rows, has = q.shape[1], np.arange(len(weak)), weak >= 0
    unchecked = has & ~trusted
    if settings.method == "neighbours":
        class_probabilities = knn_class_probabilities(weak, q, features, trusted, groups)
        matrix = estimate_noise_matrix(np.where(trusted, -1, weak), class_probabilities)
        label_posterior = compute_posterior(weak, class_probabilities, matrix)
        right = label_posterior[rows, weak]
        rest = label_posterior.copy()
        rest[rows[has], weak[has]] = 0.0  # condition: the weak label is wrong
        noise_rate = 1 - float(label_posterior[unchecked].mean(0) @ np.diagonal(matrix)) if unchecked.any() else 0.0
        return 1 - right, class_probabilities, rest / np.maximum(rest.sum(1, keepdims=True), 1e-12), noise_rate
    wrong = np.ones(len(weak))
    if settings.method == "confident":
        wrong[has] = find_label_errors(weak[has], q[has])
    if settings.method == "mixture":
        loss = -np.log(np.clip(q[rows, weak], 1e-6, 1.0))[has]
        wrong[has] = _fit_class_mixtures(loss, weak[has], classes)
        if settings.prototypes and has.any():
            resemblance = _compare_with_prototypes(features[has], weak[has], 1 - wrong[has], classes)
            wrong[has] = _sharpen_posterior(wrong[has], resemblance)
    return wrong, q, q, float(wrong[unchecked].mean()) if unchecked.any() else 0.0


def _fit_class_mixtures(loss: NDArray[np.float64], weak: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Posterior ``(N,)`` of the component with the higher loss, fitted class by class; ``loss (N,)``, ``weak (N,)``."""
    wrong = _fit_mixture(loss)
    for c in range(classes):
        members = np.flatnonzero(weak == c)
        if len(members) >= _MIN_CLASS_CLIPS:
            wrong[members] = _fit_mixture(loss[members])
    return wrong


def _fit_mixture(loss: NDArray[np.float64]) -> NDArray[np.float64]:
    """Posterior ``(N,)`` of the upper of two Gaussians, fitted on the loss ``(N,)``; all 0 if the losses are equal."""
    from sklearn.mixture import GaussianMixture

    if len(loss) < 2 or np.ptp(loss) < 1e-6:
        return np.zeros_like(loss)
    ends = np.percentile(loss, (10, 90))[:, None]
    mixture = GaussianMixture(2, reg_covar=1e-3, means_init=ends, random_state=0, max_iter=50).fit(loss[:, None])
    upper = int(mixture.means_[:, 0].argmax())
    posterior: NDArray[np.float64] = mixture.predict_proba(loss[:, None])[:, upper]
    # A wide upper Gaussian can exceed the lower one at very low losses too; such labels are not suspicious.
    posterior[loss <= mixture.means_[1 - upper, 0]] = 0.0
    # A loss below log 2 means a probability above 1/2: such a label is not an error, whatever the two groups are.
    return np.asarray(posterior * (loss > np.log(2)))


def _compare_with_prototypes(
    features: Floats, weak: NDArray[np.int64], p_right: NDArray[np.float64], classes: int
) -> NDArray[np.float64]:
    """How much a clip resembles its weak class rather than the most similar other class: ``(N,)`` in (0, 1)."""
    x = features - features.mean(0)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    weights = np.zeros((classes, len(weak)), np.float64)
    weights[weak, np.arange(len(weak))] = p_right + 1e-6
    prototypes = weights @ x
    prototypes /= np.maximum(np.linalg.norm(prototypes, axis=1, keepdims=True), 1e-6)
    similarity = x @ prototypes.T
    own = similarity[np.arange(len(weak)), weak]
    similarity[np.arange(len(weak)), weak] = -np.inf
    resemblance: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip((own - similarity.max(1)) / 0.1, -4, 4)))
    return resemblance


def _sharpen_posterior(wrong: NDArray[np.float64], resemblance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Combine the mixture's posterior with the resemblance to the weak class by Bayes' rule, as independent."""
    against = wrong * (1 - resemblance)
    return against / np.maximum(against + (1 - wrong) * resemblance, 1e-12)


def _guard_classes(
    wrong: NDArray[np.float64], belief: NDArray[np.floating], weak: NDArray[np.int64], classes: int, share: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Retain the least suspicious ``share`` of each class, so that no class loses all clips.

    Args:
        wrong: ``(N,)`` posterior that the label is wrong.
        belief: ``(N,)`` probability of the weak label by the network; decides between equal posteriors.
        weak: ``(N,)`` class indices.
        classes: number of classes C.
        share: of each class, in [0, 1].

    Returns:
        The new posterior ``(N,)``, and whether it was lowered to retain the label ``(N,)``.
    """
    guarded, wrong = np.zeros(len(weak), bool), wrong.copy()
    for c in range(classes):
        members = np.flatnonzero(weak == c)
        order = np.lexsort((-belief[members], wrong[members]))
        retained = members[order[: int(np.ceil(share * len(members)))]]
        guarded[retained] = wrong[retained] > 0.49
        wrong[retained] = np.minimum(wrong[retained], 0.49)  # below 1/2: the weak label stays the most probable class
    return wrong, guarded
