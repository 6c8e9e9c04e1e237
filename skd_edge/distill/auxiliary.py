"""What is trained beside the learner: projectors and adapters, which exist during training only."""

from __future__ import annotations

import torch

from skd_edge.distill.grafting import GraftedTeacher
from skd_edge.distill.job import JobSpec
from skd_edge.distill.losses.distribution import DistributionLoss, make_distribution_loss
from skd_edge.distill.objective import matched_substages
from skd_edge.distill.teacher_outputs import TeacherOutputSource
from skd_edge.models.tsm import TSM


def build_auxiliary_modules(
    spec: JobSpec, learner_widths: tuple[int, ...], teacher: TeacherOutputSource | None, device: torch.device
) -> tuple[DistributionLoss | None, GraftedTeacher | None]:
    """The projectors and adapters of a staged job; their weights depend on the seed only.

    Args:
        spec: The job.
        learner_widths: Channels of the learner's substages.
        teacher: The teacher outputs, or None.
        device: Where they are trained.
    """
    if teacher is None or not spec.staged:
        return None, None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        teacher_widths = tuple(f.shape[2] for f in teacher.outputs_for_view(0).features)
        matched_indices = [k - 1 for k in matched_substages(spec)]
        matched_learner_widths = tuple(learner_widths[k] for k in matched_indices)
        matched_teacher_widths = tuple(teacher_widths[k] for k in matched_indices)
        kind = spec.training.losses.distribution_kind
        distribution_loss = make_distribution_loss(kind, matched_learner_widths, matched_teacher_widths).to(device)
        grafted_teacher = None
        if spec.training.combination == "graft":
            assert isinstance(teacher.network, TSM)
            grafted_teacher = GraftedTeacher(learner_widths, teacher.network).to(device)
    return distribution_loss, grafted_teacher
