"""The method on one screen: which loss terms a batch has, and which substages of the learner run at a step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skd_edge.distill.job import Leg
from skd_edge.distill.losses import LOGIT_LOSSES
from skd_edge.distill.losses.classification import early_learning, soft_cross_entropy
from skd_edge.distill.losses.correlation import correlate
from skd_edge.distill.losses.distribution import DistributionLoss
from skd_edge.models.substages import Staged


class Phase(NamedTuple):
    """What learns at a step: the learner's first ``upto`` substages (None: all, with the head), and how."""

    upto: int | None
    grafted: bool = False


WHOLE = Phase(None)


def loss_terms(
    leg: Leg,
    said: Staged,
    taught: Staged | None,
    targets: Tensor,
    memory: Tensor | None = None,
    spread: DistributionLoss | None = None,
    others: tuple[Tensor, ...] = (),
) -> dict[str, Tensor]:
    """The loss terms of one batch, each already times its weight.

    Args:
        leg: the settings.
        said: what the learner says; logits are None while only a prefix of its substages learns.
        taught: what the teacher says of the same views, or None.
        targets: label distributions ``(B, C)``; a row of zeros teaches nothing.
        memory: running mean of the learner's own predictions ``(B, C)``, where labels are weak.
        spread: the loss on feature distributions with its projectors, where substages are distilled.
        others: logits ``(B, C)`` of the teachers further up, where this step listens to them (dense guidance).
    """
    weights, terms = leg.training.losses, dict[str, Tensor]()
    if said.logits is not None:
        terms["labels"] = weights.labels * soft_cross_entropy(said.logits, targets)
        if memory is not None:
            terms["early learning"] = leg.training.elr * early_learning(said.logits, memory)
        if taught is not None and taught.logits is not None and weights.logits:
            terms["logits"] = weights.logits * _agreement(leg, said.logits, (taught.logits, *others))
    if taught is not None and spread is not None:
        ours, theirs = _corresponding(leg, said, taught)
        if weights.correlation:
            kind = weights.correlation_kind
            terms["correlation"] = weights.correlation * correlate(ours, theirs, kind=kind)
        if weights.distribution:
            terms["distribution"] = weights.distribution * spread(ours, theirs)
    return terms


def graft_term(leg: Leg, logits: Tensor, taught: Staged) -> dict[str, Tensor]:
    """The one term while a prefix is grafted: ``logits (B, C)`` of the teacher behind it, against the teacher's own."""
    assert taught.logits is not None
    return {"graft": leg.training.losses.logits * _agreement(leg, logits, (taught.logits,))}


def phase_at(leg: Leg, done: float) -> Phase:
    """What learns when the share ``done`` in [0, 1) of the leg's steps is behind it.

    Curriculum: the prefixes that end in a matched substage learn one after the other, the shortest first, to match
    the teacher's; then everything learns, with head and logits. Graft: each prefix learns as the front of the
    teacher, whose own later substages and head, frozen, judge it.
    """
    losses, how = leg.training.losses, leg.training
    grafted = how.combination == "graft"
    substages = how.combination == "curriculum" and (losses.correlation or losses.distribution)
    teaches = losses.logits if grafted else substages
    if not (leg.staged and teaches and done < how.prefix):
        return WHOLE
    ends = matched(leg)
    if grafted:  # the whole learner has no teacher's substage behind it to be judged by
        ends = tuple(k for k in ends if k < len(leg.learner.depths)) or (0,)
    upto = ends[int(done / how.prefix * len(ends))]
    return Phase(upto, grafted) if upto else WHOLE


def matched(leg: Leg) -> tuple[int, ...]:
    """Numbers of the substages that correspond, 1 the first."""
    return leg.training.match or tuple(range(1, len(leg.learner.depths) + 1))


def _agreement(leg: Leg, logits: Tensor, teachers: tuple[Tensor, ...]) -> Tensor:
    """Mean over the teachers of the loss on the logits."""
    losses = leg.training.losses
    loss = LOGIT_LOSSES[losses.logits_kind]
    return torch.stack([loss(logits, t, temperature=losses.temperature) for t in teachers]).mean()


def _corresponding(leg: Leg, said: Staged, taught: Staged) -> tuple[list[Tensor], list[Tensor]]:
    """The features of the matched substages that ran."""
    pick = [k - 1 for k in matched(leg) if k <= len(said.features)]
    return [said.features[k] for k in pick], [taught.features[k] for k in pick]
