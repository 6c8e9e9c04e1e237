"""Self-training as FixMatch does it (arXiv 2001.07685): checked clips are labelled, all clips are unlabelled.

For an unlabelled clip, the confident prediction on a weakly augmented view is the label of a strongly augmented one.
The weak view is the recipe's; the strong one has twice the shift, more brightness and contrast, and a box cut out
(the paper's RandAugment changes colours and shapes of pictures; flips and turns would change classes of motions). The
paper's batches have 7 unlabelled clips for each labelled one; here 2, because these batches are small. Weak labels are
not used.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.suites.method.baselines.study import Ints, Outcome, Study, name_targets, one_hot
from skd_edge.data.augmentation import augment_batch
from skd_edge.distill.job import JobSpec
from skd_edge.distill.losses.classification import soft_cross_entropy
from skd_edge.distill.teacher_outputs import TeacherOutputs
from skd_edge.distill.trainer import Trainer, TrainingInputs
from skd_edge.distill.views import training_view
from skd_edge.recipe.sections import AugmentationSettings

_THRESHOLD = 0.95  # of the paper
_STRONG_VIEWS = 1_000_000  # view numbers from here on are strong ones: other random numbers than the weak views
_LABELLED_VIEWS = 2_000_000  # likewise of the labelled clips, which are in many batches of an epoch


def train_fixmatch(study: Study) -> Outcome:
    """The student by self-training; trials multiply the weight of the unlabelled clips (1, as in the paper)."""
    labels = np.where(study.checked, study.data.given_labels, -1)
    data, targets = study.label_clips(labels), one_hot(labels, len(study.data.clips.classes))
    spec = study.make_factory(data).make_labels_only_job(study.student).spec
    spec = replace(spec, targets=name_targets("fixmatch", targets, study.weight))
    inputs = TrainingInputs(study.data.clips, targets, study.preprocess)
    return study.train_directly(
        spec, inputs, lambda *job: FixMatchTrainer(*job, np.flatnonzero(study.checked), study.weight)
    )


class FixMatchTrainer(Trainer):
    """The product's trainer with FixMatch's loss."""

    def __init__(self, spec: JobSpec, inputs: TrainingInputs, folder: Path, labelled: Ints, weight: float) -> None:
        super().__init__(spec, inputs, folder)
        self.labelled, self.weight = labelled, weight

    def _accumulate_gradients(
        self, index: NDArray[np.int64], view: int, teacher_outputs: TeacherOutputs | None, share: float
    ) -> dict[str, Tensor]:
        rng, train = np.random.default_rng((self.spec.seed, self.step, 29)), self.clips.train
        labelled = rng.choice(self.labelled, max(len(index) // 2, 1))
        clips = torch.cat(
            [
                training_view(train, labelled, _LABELLED_VIEWS + self.step, self.spec, self.preprocess),
                training_view(train, index, view, self.spec, self.preprocess),
                self._make_strong_view(index, rng),
            ]
        ).to(self.device)
        logits = self.learner(clips).logits
        assert logits is not None
        on_labelled, on_weak, on_strong = logits.split([len(labelled), len(index), len(index)])
        terms = {
            "labels": soft_cross_entropy(on_labelled, self.targets[torch.from_numpy(labelled).to(self.device)]),
            "unlabelled": self.weight * compute_consistency_loss(on_weak, on_strong),
        }
        (share * torch.stack(list(terms.values())).sum()).backward()
        return {name: term.detach() for name, term in terms.items()}

    def _make_strong_view(self, index: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        train, weak = self.clips.train, self.spec.augment
        strong = AugmentationSettings(shift=min(2 * weak.shift, 64), brightness=0.4, contrast=0.6, flip=weak.flip)
        clips = augment_batch(train.clips[index], train.ids[index], _STRONG_VIEWS + self.step, strong, self.preprocess)
        height, width = clips.shape[3:]
        for clip in clips:
            top, left = rng.integers(0, height), rng.integers(0, width)
            clip[:, :, max(top - height // 4, 0) : top + height // 4, max(left - width // 4, 0) : left + width // 4] = 0
        return clips


def compute_consistency_loss(on_weak: Tensor, on_strong: Tensor) -> Tensor:
    """Cross-entropy of the strong view's logits ``(B, C)`` against the weak view's confident classes, mean over B."""
    confidence, classes = torch.softmax(on_weak.detach().float(), 1).max(1)
    losses = torch.nn.functional.cross_entropy(on_strong.float(), classes, reduction="none")
    return (losses * (confidence >= _THRESHOLD)).mean()
