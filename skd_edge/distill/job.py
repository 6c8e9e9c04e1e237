"""The specification of a job: everything that determines its result, and the hash that identifies it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

from skd_edge.recipe.schema import NetworkSpec, TrainingSettings
from skd_edge.recipe.sections import AugmentationSettings, ClipSettings

METHOD_VERSION = 6  # part of every hash; increase it when the same settings lead to other weights
JobRole = Literal["scout", "teacher", "assistant", "student", "rung", "alone", "kd"]


def json_digest(value: object) -> str:
    """A hash of ``value`` as 16 hexadecimal digits; what JSON cannot represent is hashed by its ``str``."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class JobSpec:
    """The training of one learner, with or without a teacher. The fields below determine its result.

    Attributes:
        learner: The network to train.
        role: Purpose of the job. ``scout`` is the teacher's first pass, on the weak labels; ``alone`` and ``kd`` are
            controls; a ``rung`` trains for fewer epochs, to decide whether to train the cascade in full. Not part of
            the hash.
        path: Names of the networks from the teacher to the learner. Not part of the hash.
        teacher: Hash of the job that trained the teacher, or None.
        start: Hash of the job whose weights the learner starts from, or None.
        targets: Hash of the training labels.
        data: Hash of the training clips and of the validation clips, which select the epoch.
        classes: Number of classes.
        clip: Frames and size of the clips.
        augment: Augmentation of the training clips.
        training: Optimiser and loss settings.
        epochs: Passes over the training clips.
        weak: Whether the targets are weak labels: early-learning regularisation applies, and the learner's mean
            predictions are part of the result.
        staged: Whether substages are distilled (curriculum, correlation, distribution) in addition to the logits.
        seed: Seed of weights, batches and augmentation.
        given: Hash of the weights file, where the network was trained elsewhere.
        code: Hash of the file next to the recipe whose factory makes the network.
        others: Hashes of the jobs that trained the teachers further up the cascade, where guidance is dense.
        fold: ``(i, k)``: part i of k of the training clips is held out, to obtain out-of-fold predictions for it.
        rounded: Bits of the weights during quantisation-aware fine-tuning; None without it.
        names: Names of the classes, where the learner has a trained head with its own list of classes.
    """

    learner: NetworkSpec
    role: JobRole
    path: tuple[str, ...]
    teacher: str | None
    start: str | None
    targets: str
    data: str
    classes: int
    clip: ClipSettings
    augment: AugmentationSettings
    training: TrainingSettings
    epochs: int
    weak: bool
    staged: bool
    seed: int
    given: str | None = None
    code: str | None = None
    others: tuple[str, ...] = ()
    fold: tuple[int, int] | None = None
    rounded: int | None = None
    names: tuple[str, ...] = ()

    @cached_property
    def hash(self) -> str:
        """Identifies the job: jobs with equal hashes lead to equal weights, on the same kind of machine."""
        excluded = {"learner", "path", "role", "clip", "augment", "training"}
        excluded |= {
            key for key in ("rounded", "names") if not getattr(self, key)
        }  # added later: their defaults must not change existing hashes
        return json_digest(
            {
                "method": METHOD_VERSION,
                "learner": self.learner.architecture,
                **{f.name: getattr(self, f.name) for f in fields(self) if f.name not in excluded},
                "clip": self.clip.model_dump(),
                "augment": self.augment.model_dump(),
                "training": self._relevant_training_settings(),
            }
        )

    def _relevant_training_settings(self) -> dict[str, object]:
        """The training settings that affect this job; without a teacher, those of distillation do not."""
        unread = {"epochs", "teacher_epochs", "refine", "rounds"} | (set() if self.weak else {"elr"})
        unread |= {"accumulate"} if self.training.accumulate == 1 else set()
        if self.teacher is not None:
            return self.training.model_dump(exclude=unread)
        return {
            **self.training.model_dump(exclude=unread | {"losses", "combination", "prefix", "match", "dense", "cache"}),
            "labels": self.training.losses.labels,
        }

    @property
    def name(self) -> str:
        """Name for messages: the path, such as ``teacher>assistant>wide``. Several jobs can have the same."""
        return ">".join(self.path)
