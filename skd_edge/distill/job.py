"""What one job is: everything that decides its result, and the hash that names it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

from skd_edge.recipe.schema import NetworkSpec, TrainingSettings
from skd_edge.recipe.sections import AugmentationSettings, ClipSettings

METHOD_VERSION = 2  # version of the method: raise it when the same settings train to something else
JobRole = Literal["scout", "teacher", "assistant", "student", "rung", "alone", "kd"]


def json_digest(value: object) -> str:
    """Sixteen hexadecimal digits that name ``value`` (anything JSON can write)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class JobSpec:
    """One teacher -> learner training, a pure function of what stands here.

    Attributes:
        learner: the network that learns.
        role: what the job is for; ``alone`` and ``kd`` are controls, a ``rung`` only says whether to go on.
        path: names of the networks from the teacher to the learner (not part of the hash).
        teacher: hash of the job whose network teaches, or None.
        start: hash of the job whose weights the learner begins from, or None.
        targets: hash of the labels that it learns from.
        data: hash of the training clips and of the validation clips that pick the epoch.
        classes: number of classes.
        epochs: passes over the training clips.
        weak: early-learning regularisation applies: the targets are weak labels, and the learner's memory is wanted.
        staged: substage distillation (curriculum, correlation, distribution) on top of the logits.
        given: hash of the file that the weights come from, where the network was trained elsewhere.
        code: hash of the file beside the recipe that makes the network, where a factory does.
        others: hashes of the teachers further up the cascade, where guidance is dense.
        rounded: bits of the weights while the learner is fine-tuned as its INT8 file computes; None: it is not.
        names: the classes, where the learner comes trained with a class list of its own to match them with.
        fold: ``(i, k)``: the i-th of k parts of the training clips is held out, for out-of-fold opinions.
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
        """Names the job: equal hashes train to equal weights (on the same kind of machine)."""
        excluded = {"learner", "path", "role", "clip", "augment", "training"}
        excluded |= {key for key in ("rounded", "names") if not getattr(self, key)}  # came later, and rename no job
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
        """The settings that this job reads: without a teacher, none that is about teaching."""
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
        """How people call it: ``teacher>assistant>wide``."""
        return ">".join(self.path)
