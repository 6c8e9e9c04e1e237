"""Several votes per clip become one weak label: by majority, or by Dawid and Skene's model of the annotators.

A vote is a class index, -1 an abstention::

    votes = np.array([[0, 0, 1],    # two say class 0, one says 1
                      [2, -1, 2],   # the second annotator abstained
                      [-1, -1, -1]])  # nobody voted: the clip stays unlabelled
    said = dawid_skene(votes, classes=3)
    said.hard          # [0, 2, -1]
    said.accuracy      # how often each annotator is right, estimated without any known truth

The model (A. P. Dawid, A. M. Skene, "Maximum likelihood estimation of observer error-rates using the EM algorithm",
Applied Statistics 28, 1979): an annotator sees true class c and votes l with probability ``confusion[a, c, l]``,
independently of the other annotators; EM alternates between the clips' classes and these matrices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

AggregationMethod = Literal["dawid-skene", "majority"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MAX_ROUNDS, _TOLERANCE = 100, 1e-4  # EM ends when no probability moves by more, or after so many rounds
_TINY = 1e-12  # keeps logarithms finite
_TIE_DIGITS = 9  # probabilities closer than this are a tie: the order of a sum must not decide


@dataclass(frozen=True)
class LabelModelResult:
    """What several annotators say together, and how good each of them is.

    Attributes:
        probabilities: ``(N, C)``, rows sum to 1; the class prior where nobody voted.
        hard: ``(N,)`` the most probable class, the lowest index of equals; -1 where nobody voted.
        prior: ``(C,)`` share of each class, sums to 1.
        accuracy: ``(A,)`` in [0, 1]: mean probability that an annotator's votes are right; NaN without a vote.
        vote_counts: ``(A,)`` how many clips each annotator voted on.
        confusion: ``(A, C, C)``, ``[a, c, l]`` the probability that annotator a calls class c by the name l, rows sum
            to 1; None for a majority.
        rounds: of EM; 0 for a majority.
    """

    probabilities: Floats
    hard: Ints
    prior: Floats
    accuracy: Floats
    vote_counts: Ints
    confusion: Floats | None = None
    rounds: int = 0

    def select_rows(self, index: Ints) -> LabelModelResult:
        """The same for the clips ``index`` only; annotators stay as they were judged on all clips."""
        return replace(self, probabilities=self.probabilities[index], hard=self.hard[index])


def aggregate_votes(
    votes: Ints, classes: int, method: AggregationMethod, prior: Floats | None = None
) -> LabelModelResult:
    """Aggregate ``votes (N, A)`` the way a recipe asks for; ``prior (C,)``: class shares, where they are known."""
    return majority_vote(votes, classes) if method == "majority" else dawid_skene(votes, classes, prior=prior)


def majority_vote(votes: Ints, classes: int) -> LabelModelResult:
    """Every vote counts the same: probabilities are shares of the votes.

    Args:
        votes: ``(N, A)`` class indices, -1 for an abstention.
        classes: number of classes C.

    Raises:
        ValueError: Votes are not of this form.
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
    """Weigh each vote by what its annotator tends to call which class (Dawid and Skene 1979).

    EM starts from the majority's shares and maximises the posterior under a weak prior on every annotator's matrix:
    each of its rows is given ``smoothing`` votes more, spread as if he were right as often as he agrees with the
    majority and erred evenly; so a class that he rarely voted on borrows from the others. The objective rises in every
    round; it ends when no probability moves by more than 1e-4, or after ``rounds``.

    Args:
        votes: ``(N, A)`` class indices, -1 for an abstention.
        classes: number of classes C.
        prior: ``(C,)`` known class shares, above 0 somewhere; estimated where None.
        smoothing: votes added to each row of each matrix, at least 0: what keeps a few votes from being a pattern.
        rounds: the most rounds of EM.

    Raises:
        ValueError: Votes or prior are not of this form.
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
    """An annotator's votes ``(N,)`` sorted once: clips in order of their label, the labels, where each begins."""
    order = np.argsort(column, kind="stable")[(column < 0).sum() :]
    labels, starts = np.unique(column[order], return_index=True)
    return order, labels, starts


def _estimate_one_coin_model(votes: Ints, belief: Floats) -> Floats:
    """For each annotator a matrix ``(A, C, C)``: right as often as the majority agrees with him, wrong evenly."""
    classes = belief.shape[1]
    right, count = _count_agreement(votes, belief)
    accuracy = (right + 1) / (count + 2)
    wrong = (1 - accuracy) / max(classes - 1, 1)
    eye = np.eye(classes)
    return _normalise_last_axis(accuracy[:, None, None] * eye + wrong[:, None, None] * (1 - eye))


def _m_step(
    belief: Floats, by_label: list[tuple[Ints, Ints, Ints]], extra: Floats, smoothing: float, known: Floats | None
) -> tuple[Floats, Floats]:
    """Class shares and confusion matrices that fit the clips' probabilities ``belief (N, C)`` best."""
    counts = extra.copy()
    for matrix, (order, labels, starts) in zip(counts, by_label, strict=True):
        if len(order):
            matrix[:, labels] += np.add.reduceat(belief[order], starts, axis=0).T
    shares = known if known is not None else _normalise_last_axis(belief.sum(0) + smoothing / belief.shape[1])
    return shares, _normalise_last_axis(counts)


def _e_step(votes: Ints, shares: Floats, confusion: Floats) -> Floats:
    """The clips' probabilities ``(N, C)``, given what the annotators tend to say; in logarithms until the end."""
    with np.errstate(divide="ignore"):
        log = np.tile(np.log(shares), (len(votes), 1))  # a class that is known not to occur: -inf
    for column, matrix in zip(votes.T, np.log(np.maximum(confusion, _TINY)), strict=True):
        silent = np.vstack((matrix.T, np.zeros(len(shares))))  # row -1: an abstention says nothing
        log += silent[column]
    log -= log.max(1, keepdims=True, initial=-np.inf)
    return _normalise_last_axis(np.exp(log))


# ------------------------------------------------------------------------------------------------ both
def _make_result(votes: Ints, probabilities: Floats, prior: Floats) -> LabelModelResult:
    hard = np.where((votes >= 0).any(1), probabilities.round(_TIE_DIGITS).argmax(1), -1).astype(np.int64)
    right, count = _count_agreement(votes, probabilities)
    accuracy = np.where(count > 0, right / np.maximum(count, 1), np.nan)
    return LabelModelResult(probabilities, hard, prior, accuracy, count)


def _count_agreement(votes: Ints, belief: Floats) -> tuple[Floats, Ints]:
    """For each annotator: the sum of his votes' probabilities to be right, and how many votes he gave."""
    own = np.take_along_axis(belief, np.maximum(votes, 0), axis=1)
    return np.where(votes >= 0, own, 0.0).sum(0), (votes >= 0).sum(0).astype(np.int64)


def _normalise_last_axis(x: Floats) -> Floats:
    """The last axis sums to 1; evenly where it held nothing."""
    total = x.sum(-1, keepdims=True)
    return np.asarray(np.where(total > 0, x / np.maximum(total, _TINY), 1 / x.shape[-1]))


def _uniform_prior(classes: int) -> Floats:
    return np.full(classes, 1 / classes)


def _check_votes(votes: Ints, classes: int) -> None:
    if votes.ndim != 2 or not np.issubdtype(votes.dtype, np.integer):
        raise ValueError(f"votes are an (N, annotators) array of class indices, not {votes.dtype} {votes.shape}")
    if classes < 1 or (votes.size and not -1 <= votes.min() <= votes.max() < classes):
        raise ValueError(f"a vote is a class index below {classes}, or -1 for an abstention")


def _check_prior(prior: Floats, classes: int) -> Floats:
    prior = np.asarray(prior, np.float64)
    if prior.shape != (classes,) or not np.isfinite(prior).all() or prior.min() < 0 or prior.sum() <= 0:
        raise ValueError(f"a prior has one share, at least 0, for each of the {classes} classes, and not only zeros")
    return _normalise_last_axis(prior)
