"""The checkpoint of a job: written atomically, with a checksum. Loading it does not execute code from the file."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import NotRequired, TypedDict

import torch
from torch import Tensor
from torch.optim.optimizer import StateDict

from skd_bench.integrity.checked_files import DamagedFileError, read_checked, report_damage, write_checked
from skd_edge.distill.weight_selection import SelectionProgress


class EpochMetrics(TypedDict):
    """The metrics of one epoch, as ``job.json`` stores them.

    Attributes:
        epoch: Number of the epoch, from 1.
        loss: Sum of the terms.
        terms: Mean of each term of the loss.
        accuracy: Validation accuracy, 0..1; None in epochs without validation.
        pace: Factor of the learning rate; only where it was halved.
    """

    epoch: int
    loss: float
    terms: dict[str, float]
    accuracy: float | None
    pace: NotRequired[float]


TrainingCurve = list[EpochMetrics]


class TrainingState(TypedDict):
    """What a checkpoint stores.

    Attributes:
        modules: State dict of each trained module, by name.
        averaged: State dict of the averaged network.
        best: The weights that would be the result now.
        best_accuracy: Their validation accuracy, 0..1; -1 where it is unknown.
        selection: How they were selected; absent in checkpoints of older versions.
        optimizer: State dict of the optimiser.
        step: Number of steps done.
        seconds: Wall time of the training so far.
        pace: Factor of the learning rate.
        curve: The metrics of the epochs done.
        memory: Running mean of the predictions on the training clips, where labels are weak.
    """

    modules: dict[str, dict[str, Tensor]]
    averaged: dict[str, Tensor]
    best: dict[str, Tensor]
    best_accuracy: float
    selection: NotRequired[SelectionProgress]
    optimizer: StateDict
    step: int
    seconds: float
    pace: float
    curve: TrainingCurve
    memory: Tensor | None


class Checkpoint:
    """The checkpoint file of a job.

    Args:
        path: The file.
        interval_seconds: Least time between two writes, so that jobs with short epochs do not write all the time.
    """

    def __init__(self, path: Path, interval_seconds: float = 15.0) -> None:
        self.path, self.interval_seconds, self.last_saved = path, interval_seconds, time.monotonic()

    def save(self, get_state: Callable[[], TrainingState], *, last: bool, now: bool = False) -> None:
        """Write the state if the last write is long enough ago.

        Args:
            get_state: Returns the state; it is called only if the state is written.
            last: Whether the last epoch is over. Then nothing is written, because the result of the job is stored
                elsewhere.
            now: Write even if the last write is recent.
        """
        if last or (not now and time.monotonic() - self.last_saved < self.interval_seconds):
            return
        buffer = io.BytesIO()
        torch.save(get_state(), buffer)
        write_checked(self.path, buffer.getvalue())
        self.last_saved = time.monotonic()

    def load(self) -> TrainingState | None:
        """The stored state; None if there is none or it is damaged: the job then starts from the beginning.

        Raises:
            UserError: The file cannot be read.
        """
        try:
            content = read_checked(self.path)
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            report_damage(error, "the job starts from its beginning")
            return None
        state: TrainingState = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        return state
