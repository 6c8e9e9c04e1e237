"""What the training of a job returns and reports, whichever executor trains it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_edge.distill.checkpoint import TrainingCurve
from skd_edge.distill.trainer import TrainingProgress
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.recipe.schema import Teacher


@dataclass(frozen=True)
class JobResult:
    """A finished job.

    Attributes:
        job: the job.
        folder: the folder with its weights and logits.
        accuracy: top-1 accuracy on the N validation clips, in 0..1.
        seconds: duration of the training, including its labels if it was the first to need them.
        cached: whether the job was finished before.
        curve: one row of metrics for each epoch; empty for a teacher that was trained elsewhere.
        correct: ``(N,)`` whether each validation clip is classified correctly.
        predictions: ``(N,)`` the class that the network predicts for each of them.
    """

    job: TrainingJob
    folder: Path
    accuracy: float
    seconds: float
    cached: bool
    curve: TrainingCurve
    correct: NDArray[np.bool_]
    predictions: NDArray[np.int64]


ProgressListener = Callable[[TrainingJob, TrainingProgress], None]


def ignore_progress(job: TrainingJob, row: TrainingProgress) -> None:
    """A `ProgressListener` that does nothing."""


class OutOfMemory(UserError):
    """A job does not fit into memory.

    Attributes:
        learner: name of the network that was trained.
    """

    def __init__(self, message: str, learner: str = "") -> None:
        super().__init__(message)
        self.learner = learner

    @classmethod
    def for_job(cls, job: TrainingJob, error: BaseException) -> OutOfMemory:
        """The error for a job, from the exception that was raised while it was trained."""
        training, reason = job.spec.training, " ".join(str(error).split())[:120]
        return cls(
            f"job {job.spec.name} does not fit into memory, with a batch of {training.batch} in {training.accumulate} "
            f"part(s) ({reason}); lower training.batch, or raise training.accumulate",
            job.spec.learner.name,
        )


# oneDNN, which computes convolutions on the CPU, says no more when its scratch memory cannot be allocated.
_ONEDNN_ALLOCATION_FAILURES = ("could not create a memory object", "could not execute a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or numpy could not allocate memory; on the CPU, torch and oneDNN raise a plain RuntimeError."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", *_ONEDNN_ALLOCATION_FAILURES)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(w in str(error).lower() for w in words)


def check_teacher_floor(teacher: Teacher, result: JobResult) -> None:
    """Check that the teacher reaches the accuracy ``teacher.floor`` of the recipe.

    Raises:
        UserError: The job is a teacher's and its accuracy is below the floor.
    """
    if result.job.spec.role == "teacher" and result.accuracy < teacher.floor:
        raise UserError(
            f"the teacher has {result.accuracy:.1%} accuracy on the validation clips, below teacher.floor "
            f"{teacher.floor:.1%}; train it longer, improve the labels, or lower the floor"
        )
