"""CFT (continuous fine-tuning, "Weaker than you think", arXiv 2305.17442): weak labels first, then checked clips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bench.suites.method.baselines.study import Outcome, Study
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.recipe.schema import NetworkSpec

_CHECKED_SHARE = 0.3  # of the epochs: those on the checked clips
_RATE = 0.3  # learning rate of these epochs, as a share of that of the first ones; a tuning trial multiplies it


def train_cft(study: Study) -> Outcome:
    """The student, first on the weak labels, then on the checked clips; both together have the row's epochs."""
    return _train_phases(study, study.student, study.recipe.training.epochs)[1]


def distil_cft(study: Study) -> Outcome:
    """The teacher by CFT; the student learns from its outputs on all clips, and from the checked labels."""
    teacher, _ = _train_phases(study, study.recipe.teacher, study.recipe.training.teacher_epochs)
    checked = study.label_clips(np.where(study.checked, study.data.given_labels, -1))
    plain = study.make_factory(checked).make_plain_kd_job(study.student, logits_kind="td-kd")
    return study.train_graph(checked, TrainingJob(replace(plain.spec, teacher=teacher.hash), teacher=teacher))


def _train_phases(study: Study, network: NetworkSpec, epochs: int) -> tuple[TrainingJob, Outcome]:
    """Train a network in both phases; returns the job of the second."""
    weak, checked = study.label_clips(study.data.weak_labels), study.repeat_checked_clips()
    second_epochs = max(round(_CHECKED_SHARE * epochs), 1)
    first = study.make_factory(weak).make_labels_only_job(network)
    first = TrainingJob(replace(first.spec, epochs=max(epochs - second_epochs, 1)))
    study.train_graph(weak, first)
    rate = study.recipe.training.rate * _RATE * study.weight
    training = study.recipe.training.model_copy(update={"rate": min(rate, 1.0)})
    spec = study.make_factory(checked).make_labels_only_job(network).spec
    second = TrainingJob(replace(spec, start=first.hash, epochs=second_epochs, training=training), start=first)
    outcome = study.train_graph(checked, second)
    return second, replace(outcome, epochs=epochs)
