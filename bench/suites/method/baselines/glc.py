"""Gold Loss Correction (GLC, arXiv 1802.05300): a noise matrix from checked clips corrects the loss on weak labels.

1. A network learns the weak labels of the clips that nobody checked.
2. Its mean prediction on the checked clips of a class is that class's row of the noise matrix.
3. A new network learns checked labels as they are, and weak ones through the matrix: -log(sum over classes of its
   probability times the matrix's probability of the weak label).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bench.suites.method.baselines.study import Floats, Ints, Outcome, Study, name_targets, one_hot
from skd_bench.metrics.accuracy import softmax
from skd_edge.distill.losses import register_logit_loss
from skd_edge.distill.prediction import predict
from skd_edge.distill.teacher_outputs import FixedTeacherOutputs
from skd_edge.distill.trainer import Trainer, TrainingInputs


def forward_corrected_loss(learner: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Negative log-likelihood of weak labels.

    Args:
        learner: logits ``(B, C)``.
        teacher: ``(B, C)`` log-probability of the clip's weak label, by true class; zeros for a clip that has none.
        temperature: not used; part of the signature of losses on logits.

    Returns:
        The mean over the batch.
    """
    return -torch.logsumexp(torch.log_softmax(learner.float(), 1) + teacher, 1).mean()


register_logit_loss("glc", forward_corrected_loss)


def train_glc(study: Study) -> Outcome:
    """The student by GLC; the tuning trials multiply the weight of the checked labels."""
    data, checked = study.data, study.checked
    unchecked = study.label_clips(np.where(checked, -1, data.weak_labels))
    first = study.train_alone(unchecked)
    rows = np.flatnonzero(checked)
    predictions = softmax(predict(first.network, data.clips.train.select_rows(rows), study.preprocess))
    matrix = measure_noise_matrix(predictions, data.given_labels[rows])
    likelihood = compute_log_likelihood(unchecked.weak_labels, matrix)
    targets = one_hot(np.where(checked, data.given_labels, -1), len(matrix))
    losses = study.recipe.training.losses
    losses = losses.model_copy(update={"logits_kind": "glc", "logits": 1.0, "labels": study.weight})
    training = study.recipe.training.model_copy(update={"losses": losses})
    spec = study.make_factory(unchecked).make_labels_only_job(study.student).spec
    spec = replace(spec, training=training, teacher="glc", targets=name_targets("glc", targets, likelihood))
    inputs = TrainingInputs(data.clips, targets, study.preprocess, FixedTeacherOutputs(likelihood))
    return study.train_directly(spec, inputs, Trainer).add_seconds(first)


def measure_noise_matrix(predictions: Floats, labels: Ints) -> Floats:
    """The noise matrix ``(C, C)``: mean prediction ``(M, C)`` on the checked clips of each class ``labels (M,)``.

    A class without any checked clip gets the identity.
    """
    classes = predictions.shape[1]
    rows = [predictions[labels == c].mean(0) if (labels == c).any() else np.eye(classes)[c] for c in range(classes)]
    return np.stack(rows).astype(np.float32)


def compute_log_likelihood(weak: Ints, matrix: Floats) -> Floats:
    """The log-probability ``(N, C)`` of each weak label by true class; zeros for clips without a label (-1)."""
    likelihood = np.log(np.maximum(matrix[:, weak].T, 1e-6))
    return np.asarray(np.where((weak >= 0)[:, None], likelihood, 0.0), np.float32)
