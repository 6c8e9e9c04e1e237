"""Trains each job in several processes: ``torchrun --nproc-per-node 2 -m skd_edge.cli compress recipe.yaml``.

The first process runs the command and broadcasts each job that has to be trained. The others load the same clips,
teachers and labels from a shared file system, and train their part of every batch. If one process fails, torchrun ends
all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.distributed import ProcessGroup
from skd_edge.distill.trainer import TrainResult
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.execution.job_results import ProgressListener, ignore_progress
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.labels.dataset import TrainingData, load_training_data
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, RunFolder, open_cache


class TorchrunExecutor(LocalExecutor):
    """Trains jobs in order, each with all processes of a group; used in the first of these processes.

    Args:
        recipe: the recipe.
        run: the run folder, on a file system that all processes share.
        training_data: clips and weak labels.
        process_group: the processes.
    """

    def __init__(self, recipe: Recipe, run: Run, training_data: TrainingData, process_group: ProcessGroup) -> None:
        super().__init__(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1], process_group)

    def train_network(self, job: TrainingJob, on_progress: ProgressListener = ignore_progress) -> TrainResult:
        """Train the network of a job in all processes; see `LocalExecutor.train_network`.

        The job is broadcast to `run_worker_rank` in the other processes.
        """
        self.process_group.broadcast(job)
        return super().train_network(job, on_progress)


class _WorkerRunFolder(RunFolder):
    """The run folder in a process other than the first, which alone writes the journal."""

    def record_event(self, event: str, **details: Any) -> None:
        """Does nothing: the first process records the event."""


def run_worker_rank(process_group: ProcessGroup, recipe: Recipe, folder: Path) -> None:
    """Train this process's part of each job that the first process broadcasts, until it broadcasts None.

    Args:
        process_group: the processes; this one is not the first.
        recipe: the recipe.
        folder: the run folder, on a file system that all processes share.

    Raises:
        UserError: The data cannot be loaded, or the training fails; torchrun then ends all processes.
    """
    executor: LocalExecutor | None = None
    while (job := process_group.broadcast(None)) is not None:
        if executor is None:  # only now: the first process has decoded the clips by the time it broadcasts a job
            run_folder = _WorkerRunFolder(folder, open_cache())
            executor = LocalExecutor(
                run_folder,
                load_training_data(recipe, run_folder.cache),
                recipe.labels,
                inference_preprocessing(recipe.clip)[1],
                process_group,
            )
        executor.train_network(job)
