"""The method on one screen: which loss terms a batch has, and which substages of the learner run at a step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skd_edge.distill.job import JobSpec
from skd_edge.distill.losses import LOGIT_LOSSES
from skd_edge.distill.losses.classification import early_learning_loss, soft_cross_entropy
from skd_edge.distill.losses.correlation import correlation_loss
from skd_edge.distill.losses.distribution import DistributionLoss
from skd_edge.models.substages import SubstageOutput


class TrainingPhase(NamedTuple):
    """What learns at a step: the learner's first ``upto`` substages (None: all, with the head), and how."""

    upto: int | None
    grafted: bool = False


FULL_NETWORK = TrainingPhase(None)


def compute_loss_terms(
    spec: JobSpec,
    student_out: SubstageOutput,
    teacher_out: SubstageOutput | None,
    targets: Tensor,
    ema_predictions: Tensor | None = None,
    distribution_loss: DistributionLoss | None = None,
    other_logits: tuple[Tensor, ...] = (),
) -> dict[str, Tensor]:
    """The loss terms of one batch, each already times its weight.

    Args:
        spec: the settings.
        student_out: what the learner says; logits are None while only a prefix of its substages learns.
        teacher_out: what the teacher says of the same views, or None.
        targets: label distributions ``(B, C)``; a row of zeros teaches nothing.
        ema_predictions: running mean of the learner's own predictions ``(B, C)``, where labels are weak.
        distribution_loss: the loss on feature distributions with its projectors, where substages are distilled.
        other_logits: logits ``(B, C)`` of the teachers further up, where this step listens to them (dense guidance).
    """
    weights, terms = spec.training.losses, dict[str, Tensor]()
    if student_out.logits is not None:
        terms["labels"] = weights.labels * soft_cross_entropy(student_out.logits, targets)
        if ema_predictions is not None:
            terms["early learning"] = spec.training.elr * early_learning_loss(student_out.logits, ema_predictions)
        if teacher_out is not None and teacher_out.logits is not None and weights.logits:
            terms["logits"] = weights.logits * _compute_logit_loss(
                spec, student_out.logits, (teacher_out.logits, *other_logits)
            )
    if teacher_out is not None and distribution_loss is not None:
        student_features, teacher_features = _select_matched_features(spec, student_out, teacher_out)
        if weights.correlation:
            kind = weights.correlation_kind
            terms["correlation"] = weights.correlation * correlation_loss(student_features, teacher_features, kind=kind)
        if weights.distribution:
            terms["distribution"] = weights.distribution * distribution_loss(student_features, teacher_features)
    return terms


def compute_graft_term(spec: JobSpec, logits: Tensor, teacher_out: SubstageOutput) -> dict[str, Tensor]:
    """The one term while a prefix is grafted: ``logits (B, C)`` of the teacher behind it, against the teacher's own."""
    assert teacher_out.logits is not None
    return {"graft": spec.training.losses.logits * _compute_logit_loss(spec, logits, (teacher_out.logits,))}


def phase_at(spec: JobSpec, progress: float) -> TrainingPhase:
    """What learns when the share ``progress`` in [0, 1) of the job's steps is behind it.

    Curriculum: the prefixes that end in a matched substage learn one after the other, the shortest first, to match
    the teacher's; then everything learns, with head and logits. Graft: each prefix learns as the front of the
    teacher, whose own later substages and head, frozen, judge it.
    """
    losses, training = spec.training.losses, spec.training
    grafted = training.combination == "graft"
    matches_substages = training.combination == "curriculum" and (losses.correlation or losses.distribution)
    has_phases = losses.logits if grafted else matches_substages
    if not (spec.staged and has_phases and progress < training.prefix):
        return FULL_NETWORK
    ends = matched_substages(spec)
    if grafted:  # the whole learner has no teacher's substage behind it to be judged by
        ends = tuple(k for k in ends if k < len(spec.learner.depths)) or (0,)
    upto = ends[int(progress / training.prefix * len(ends))]
    return TrainingPhase(upto, grafted) if upto else FULL_NETWORK


def matched_substages(spec: JobSpec) -> tuple[int, ...]:
    """Numbers of the substages that correspond, 1 the first."""
    return spec.training.match or tuple(range(1, len(spec.learner.depths) + 1))


def _compute_logit_loss(spec: JobSpec, logits: Tensor, teacher_logits: tuple[Tensor, ...]) -> Tensor:
    """Mean over the teachers of the loss on the logits."""
    losses = spec.training.losses
    loss = LOGIT_LOSSES[losses.logits_kind]
    return torch.stack([loss(logits, t, temperature=losses.temperature) for t in teacher_logits]).mean()


def _select_matched_features(
    spec: JobSpec, student_out: SubstageOutput, teacher_out: SubstageOutput
) -> tuple[list[Tensor], list[Tensor]]:
    """The features of the matched substages that ran."""
    indices = [k - 1 for k in matched_substages(spec) if k <= len(student_out.features)]
    return [student_out.features[k] for k in indices], [teacher_out.features[k] for k in indices]
