"""Aggregates the votes on each clip to one weak label: by majority, or with Dawid and Skene's model of annotators.

A vote is a class index; -1 is an abstention::

    votes = np.array([[0, 0, 1],    # two votes for class 0, one for class 1
                      [2, -1, 2],   # the second annotator abstained
                      [-1, -1, -1]])  # no votes: the clip stays unlabelled
    result = dawid_skene(votes, classes=3)
    result.hard          # [0, 2, -1]
    result.accuracy      # estimated share of right votes of each annotator, without known true labels

The model (A. P. Dawid, A. M. Skene, "Maximum likelihood estimation of observer error-rates using the EM algorithm",
Applied Statistics 28, 1979): if the true class is c, annotator a votes l with probability ``confusion[a, c, l]``,
independently of the other annotators. EM alternates between estimating the clips' classes and these matrices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

AggregationMethod = Literal["dawid-skene", "majority"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MAX_ROUNDS, _TOLERANCE = 100, 1e-4  # EM ends after so many rounds, or when no probability changes by more than this
_TINY = 1e-12  # keeps logarithms finite
_TIE_DIGITS = 9  # probabilities are rounded to so many digits before ties are resolved; float sums are not exact


@dataclass(frozen=True)
class LabelModelResult:
    """The aggregated labels of N clips with C classes, and the estimated accuracies of A annotators.

    Attributes:
        probabilities: ``(N, C)``, rows sum to 1; the class prior for clips without votes.
        hard: ``(N,)`` index of the most probable class, the lowest one of equals; -1 for clips without votes.
        prior: ``(C,)`` share of each class, sums to 1.
        accuracy: ``(A,)`` mean probability that an annotator's votes are right, in [0, 1]; NaN without votes.
        vote_counts: ``(A,)`` number of clips that each annotator voted on.
        confusion: ``(A, C, C)`` probability that annotator a votes l if the true class is c, at ``[a, c, l]``; rows sum
            to 1. None for a majority vote.
        rounds: rounds of EM; 0 for a majority vote.
    """

    probabilities: Floats
    hard: Ints
    prior: Floats
    accuracy: Floats
    vote_counts: Ints
    confusion: Floats | None = None
    rounds: int = 0

    def select_rows(self, index: Ints) -> LabelModelResult:
        """The result for the clips ``index (M,)`` only; the estimates of annotators remain those of all clips."""
        return replace(self, probabilities=self.probabilities[index], hard=self.hard[index])


def aggregate_votes(
    votes: Ints, classes: int, method: AggregationMethod, prior: Floats | None = None
) -> LabelModelResult:
    """Aggregate votes with the method of a recipe.

    Args:
        votes: ``(N, A)`` class indices, -1 for an abstention.
        classes: number of classes C.
        method: the recipe's ``labels.aggregate``.
        prior: ``(C,)`` class shares, if known; a majority vote does not use them.

    Raises:
        ValueError: ``votes`` or ``prior`` has another form.
    """
    return majority_vote(votes, classes) if method == "majority" else dawid_skene(votes, classes, prior=prior)


def majority_vote(votes: Ints, classes: int) -> LabelModelResult:
    """Aggregate with equal weight for every vote: probabilities are shares of the votes.

    Args:
        votes: ``(N, A)`` class indices, -1 for an abstention.
        classes: number of classes C.

    Raises:
        ValueError: ``votes`` has another form.
    """
    _check_votes(votes, classes)
    counts = np.zeros((len(votes), classes))
    for column in votes.T:
        given = np.flatnonzero(column >= 0)
        counts[given, column[given]] += 1
    voted = counts.sum(1) > 0
    prior = (
        _normalise_last_axis(counts[voted] / counts[voted].sum(1, keepdims=True)).mean(0)
        if voted.any()
        else _uniform_prior(classes)
    )
    shares = np.where(voted[:, None], counts / np.maximum(counts.sum(1, keepdims=True), 1), prior)
    return _make_result(votes, shares, prior)


def dawid_skene(
    votes: Ints, classes: int, *, prior: Floats | None = None, smoothing: float = 3.0, rounds: int = _MAX_ROUNDS
) -> LabelModelResult:
    """Aggregate with a confusion matrix for each annotator, estimated by EM (Dawid and Skene 1979).

    EM starts from the majority vote. It maximises the posterior under a weak prior on each annotator's matrix:
    ``smoothing`` votes are added to each row, spread as if the annotator were right as often as they agree with the
    majority, and wrong evenly over the other classes. A class that the annotator rarely voted on is thus estimated
    from their other votes. The objective rises in every round. EM ends when no probability changes by more than 1e-4,
    or after ``rounds``.

    Args:
        votes: ``(N, A)`` class indices, -1 for an abstention.
        classes: number of classes C.
        prior: ``(C,)`` known class shares, at least 0 and not all 0; None: estimated.
        smoothing: votes added to each row of each matrix, at least 0; prevents conclusions from a few votes.
        rounds: maximum number of EM rounds.

    Raises:
        ValueError: ``votes`` or ``prior`` has another form.
    """
    start = majority_vote(votes, classes)
    known = None if prior is None else _check_prior(prior, classes)
    voted = (votes >= 0).any(1)
    cast, belief = votes[voted], start.probabilities[voted]
    by_label = [_sort_by_label(column) for column in cast.T]
    extra = smoothing * _estimate_one_coin_model(cast, belief)
    shares, confusion, done = start.prior, extra, 0
    for done in range(1, rounds + 1):  # noqa: B007
        shares, confusion = _m_step(belief, by_label, extra, smoothing, known)
        before, belief = belief, _e_step(cast, shares, confusion)
        if not len(cast) or np.abs(belief - before).max() < _TOLERANCE:
            break
    probabilities = np.tile(shares, (len(votes), 1))
    probabilities[voted] = belief
    return replace(_make_result(votes, probabilities, shares), confusion=confusion, rounds=done)


# ------------------------------------------------------------------------------------------------ EM
def _sort_by_label(column: Ints) -> tuple[Ints, Ints, Ints]:
    """Sort an annotator's votes ``(N,)`` once: clips ordered by label, the labels, and the start of each label."""
    order = np.argsort(column, kind="stable")[(column < 0).sum() :]
    labels, starts = np.unique(column[order], return_index=True)
    return order, labels, starts


def _estimate_one_coin_model(votes: Ints, belief: Floats) -> Floats:
    """A matrix ``(A, C, C)`` for each annotator: right as often as they agree with the majority, else evenly wrong."""
    classes = belief.shape[1]
    right, count = _count_agreement(votes, belief)
    accuracy = (right + 1) / (count + 2)
    wrong = (1 - accuracy) / max(classes - 1, 1)
    eye = np.eye(classes)
    return _normalise_last_axis(accuracy[:, None, None] * eye + wrong[:, None, None] * (1 - eye))


def _m_step(
    belief: Floats, by_label: list[tuple[Ints, Ints, Ints]], extra: Floats, smoothing: float, known: Floats | None
) -> tuple[Floats, Floats]:
    """Class shares ``(C,)`` and confusion matrices ``(A, C, C)`` that best fit the probabilities ``belief (N, C)``."""
    counts = extra.copy()
    for matrix, (order, labels, starts) in zip(counts, by_label, strict=True):
        if len(order):
            matrix[:, labels] += np.add.reduceat(belief[order], starts, axis=0).T
    shares = known if known is not None else _normalise_last_axis(belief.sum(0) + smoothing / belief.shape[1])
    return shares, _normalise_last_axis(counts)


def _e_step(votes: Ints, shares: Floats, confusion: Floats) -> Floats:
    """Class probabilities ``(N, C)`` of the clips, given class shares and confusion matrices.

    Sums of logarithms, because a product over many annotators would underflow.
    """
    with np.errstate(divide="ignore"):
        log = np.tile(np.log(shares), (len(votes), 1))  # a class that is known not to occur: -inf
    for column, matrix in zip(votes.T, np.log(np.maximum(confusion, _TINY)), strict=True):
        log_likelihood = np.vstack((matrix.T, np.zeros(len(shares))))  # last row, index -1: an abstention adds 0
        log += log_likelihood[column]
    log -= log.max(1, keepdims=True, initial=-np.inf)
    return _normalise_last_axis(np.exp(log))


# ------------------------------------------------------------------------------------------ majority vote and EM
def _make_result(votes: Ints, probabilities: Floats, prior: Floats) -> LabelModelResult:
    hard = np.where((votes >= 0).any(1), probabilities.round(_TIE_DIGITS).argmax(1), -1).astype(np.int64)
    right, count = _count_agreement(votes, probabilities)
    accuracy = np.where(count > 0, right / np.maximum(count, 1), np.nan)
    return LabelModelResult(probabilities, hard, prior, accuracy, count)


def _count_agreement(votes: Ints, belief: Floats) -> tuple[Floats, Ints]:
    """For each annotator ``(A,)``: the expected number of right votes, and the number of votes."""
    own = np.take_along_axis(belief, np.maximum(votes, 0), axis=1)
    return np.where(votes >= 0, own, 0.0).sum(0), (votes >= 0).sum(0).astype(np.int64)


def _normalise_last_axis(x: Floats) -> Floats:
    """Scale the last axis to sum 1; if it is all zeros, it becomes uniform."""
    total = x.sum(-1, keepdims=True)
    return np.asarray(np.where(total > 0, x / np.maximum(total, _TINY), 1 / x.shape[-1]))


def _uniform_prior(classes: int) -> Floats:
    return np.full(classes, 1 / classes)


def _check_votes(votes: Ints, classes: int) -> None:
    if votes.ndim != 2 or not np.issubdtype(votes.dtype, np.integer):
        raise ValueError(
            f"votes must be an integer array of shape (N, annotators); this is {votes.dtype} of shape {votes.shape}"
        )
    if classes < 1 or (votes.size and not -1 <= votes.min() <= votes.max() < classes):
        raise ValueError(f"each vote must be a class index below {classes}, or -1 for an abstention")


def _check_prior(prior: Floats, classes: int) -> Floats:
    prior = np.asarray(prior, np.float64)
    if prior.shape != (classes,) or not np.isfinite(prior).all() or prior.min() < 0 or prior.sum() <= 0:
        raise ValueError(f"prior must give each of the {classes} classes a share of at least 0, and not only zeros")
    return _normalise_last_axis(prior)
