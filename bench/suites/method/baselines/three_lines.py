"""Three lines: a network trained on the checked clips, times the noise matrix of their own weak labels, by Bayes' rule.

No published method; it is what anybody would write first, so a method must beat it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bench.suites.method.baselines.study import Floats, Ints, Outcome, Study, name_targets
from skd_bench.metrics.accuracy import softmax
from skd_edge.distill.prediction import predict
from skd_edge.distill.trainer import Trainer, TrainingInputs

_PRIOR_CLIPS = 1.0  # so many clips of evenly spread errors are added to each class; a tuning trial multiplies it


def train_on_three_lines(study: Study) -> Outcome:
    """The student on the posterior."""
    posterior, network = estimate_posterior(study)
    data = study.label_clips(posterior.argmax(1).astype(np.int64))
    spec = study.make_factory(data).make_labels_only_job(study.student).spec
    spec = replace(spec, targets=name_targets("three lines", posterior))
    student = study.train_directly(spec, TrainingInputs(study.data.clips, posterior, study.preprocess), Trainer)
    return replace(student.add_seconds(network), labels=data.weak_labels)


def distil_three_lines(study: Study) -> Outcome:
    """Plain distillation with these labels, for the teacher too."""
    posterior, network = estimate_posterior(study)
    data = study.label_clips(posterior.argmax(1).astype(np.int64))
    job = study.make_factory(data).make_plain_kd_job(study.student, logits_kind="td-kd")
    return replace(study.train_graph(data, job).add_seconds(network), labels=data.weak_labels)


def train_method_on_three_lines(study: Study) -> Outcome:
    """What a recipe does by default, with these labels as weak ones; checked labels stay checked."""
    posterior, network = estimate_posterior(study)
    data = study.label_clips(posterior.argmax(1).astype(np.int64), keep_checks=True)
    job = study.make_factory(data).make_cascade_job(study.student, ())
    return study.train_graph(data, job).add_seconds(network)


def estimate_posterior(study: Study) -> tuple[Floats, Outcome]:
    """The class probabilities ``(N, C)`` of the training clips, and the network (the teacher's) that they come from."""
    checked_clips = study.repeat_checked_clips()
    job = study.make_factory(checked_clips).make_plain_teacher_job()
    network = study.train_graph(checked_clips, job)
    data = study.data
    probabilities = softmax(predict(network.network, data.clips.train, study.preprocess))
    rows = np.flatnonzero(study.checked)
    matrix = count_noise_matrix(
        data.given_labels[rows], data.weak_labels[rows], probabilities.shape[1], _PRIOR_CLIPS * study.weight
    )
    posterior = combine_with_weak_labels(probabilities, data.weak_labels, matrix)
    posterior[rows] = np.eye(len(matrix), dtype=np.float32)[data.given_labels[rows]]
    return posterior, network


def count_noise_matrix(true: Ints, weak: Ints, classes: int, prior: float) -> Floats:
    """Count how often checked clips of a class have which weak label.

    Args:
        true: ``(M,)`` checked class indices.
        weak: ``(M,)`` the weak labels of the same clips; -1 is not counted.
        classes: number of classes C.
        prior: so many clips with the average accuracy and evenly spread errors are added to each class.

    Returns:
        ``(C, C)`` probability of each weak label (column) given the true class (row), rows sum to 1.
    """
    counts, has = np.zeros((classes, classes)), weak >= 0
    np.add.at(counts, (true[has], weak[has]), 1)
    right = (np.trace(counts) + 1) / (counts.sum() + 2)
    even = np.full((classes, classes), (1 - right) / max(classes - 1, 1))
    np.fill_diagonal(even, right)
    counts += max(prior, 1e-3) * even
    return np.asarray(counts / counts.sum(1, keepdims=True), np.float32)


def combine_with_weak_labels(probabilities: Floats, weak: Ints, matrix: Floats) -> Floats:
    """Bayes' rule: ``probabilities (N, C)`` times the matrix's probability of each weak label; -1 changes nothing."""
    likelihood = np.where((weak >= 0)[:, None], matrix[:, weak].T, 1.0)
    posterior = (probabilities + 1e-4) * likelihood
    return np.asarray(posterior / posterior.sum(1, keepdims=True), np.float32)
