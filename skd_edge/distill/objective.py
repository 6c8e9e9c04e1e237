"""The training objective: the loss terms of a batch, and which substages of the learner are trained at a step."""

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
    """What is trained at a step.

    Attributes:
        upto: The learner's first ``upto`` substages are trained; None: the whole network with its head.
        grafted: Whether these substages are grafted onto the teacher's later ones.
    """

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
    """The loss terms of one batch, each multiplied by its weight.

    Args:
        spec: The settings.
        student_out: Student outputs; the logits are None while only a prefix of the substages is trained.
        teacher_out: Teacher outputs for the same views, or None.
        targets: Label distributions ``(B, C)``; a row of zeros is a clip without a label.
        ema_predictions: Running mean of the learner's own predictions ``(B, C)``, where labels are weak.
        distribution_loss: The loss on feature distributions with its projectors, where substages are distilled.
        other_logits: Logits ``(B, C)`` of teachers further up the cascade that this step uses (dense guidance).

    Returns:
        Scalars by name of the term; absent terms do not apply to the batch.
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
    """The loss while a prefix is grafted, its only term.

    Args:
        spec: The settings.
        logits: ``(B, C)`` of the grafted network, see `GraftedTeacher`.
        teacher_out: Teacher outputs for the same views.
    """
    assert teacher_out.logits is not None
    return {"graft": spec.training.losses.logits * _compute_logit_loss(spec, logits, (teacher_out.logits,))}


def phase_at(spec: JobSpec, progress: float) -> TrainingPhase:
    """What is trained at a point of the job.

    Curriculum: first the prefixes that end in a matched substage are trained to match the teacher's, one after the
    other, the shortest first; then the whole network is trained, with head and logits. Graft: each prefix is trained as
    the front of the teacher, whose later substages and head are frozen.

    Args:
        spec: The settings.
        progress: Share of the job's steps that is done, in [0, 1).
    """
    losses, training = spec.training.losses, spec.training
    grafted = training.combination == "graft"
    matches_substages = training.combination == "curriculum" and (losses.correlation or losses.distribution)
    has_phases = losses.logits if grafted else matches_substages
    if not (spec.staged and has_phases and progress < training.prefix):
        return FULL_NETWORK
    ends = matched_substages(spec)
    if grafted:  # after the last substage nothing of the teacher is left to graft onto
        ends = tuple(k for k in ends if k < len(spec.learner.depths)) or (0,)
    upto = ends[int(progress / training.prefix * len(ends))]
    return TrainingPhase(upto, grafted) if upto else FULL_NETWORK


def matched_substages(spec: JobSpec) -> tuple[int, ...]:
    """Numbers of the substages that are compared with the teacher's, from 1."""
    return spec.training.match or tuple(range(1, len(spec.learner.depths) + 1))


def _compute_logit_loss(spec: JobSpec, logits: Tensor, teacher_logits: tuple[Tensor, ...]) -> Tensor:
    """The loss on the logits, mean over the teachers."""
    losses = spec.training.losses
    loss = LOGIT_LOSSES[losses.logits_kind]
    return torch.stack([loss(logits, t, temperature=losses.temperature) for t in teacher_logits]).mean()


def _select_matched_features(
    spec: JobSpec, student_out: SubstageOutput, teacher_out: SubstageOutput
) -> tuple[list[Tensor], list[Tensor]]:
    """Features of learner and teacher at the matched substages that were computed."""
    indices = [k - 1 for k in matched_substages(spec) if k <= len(student_out.features)]
    return [student_out.features[k] for k in indices], [teacher_out.features[k] for k in indices]
