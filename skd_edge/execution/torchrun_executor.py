"""One job over several processes: ``torchrun --nproc-per-node 2 -m skd_edge.cli compress recipe.yaml``.

The first process does all that a run does, and tells the others of each job that is to be learnt; they open the same
clips, teachers and labels (one file system) and train their part of every batch. A run that stops takes them along:
torchrun ends every process when one fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.distributed import ProcessGroup
from skd_edge.distill.trainer import TrainResult
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.execution.local_executor import LocalExecutor, ProgressListener, ignore_progress
from skd_edge.labels.dataset import TrainingData, load_training_data
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, RunFolder, open_cache


class TorchrunExecutor(LocalExecutor):
    """Trains jobs in order, each with all processes of a group; runs in the first of them.

    Args:
        recipe: the recipe.
        run: the run folder, on a file system that all processes share.
        training_data: clips and weak labels.
        process_group: the processes.
    """

    def __init__(self, recipe: Recipe, run: Run, training_data: TrainingData, process_group: ProcessGroup) -> None:
        super().__init__(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1], process_group)

    def train_network(self, job: TrainingJob, on_progress: ProgressListener = ignore_progress) -> TrainResult:
        """Train a job's network together with the other processes, which learn of it here."""
        self.process_group.broadcast(job)
        return super().train_network(job, on_progress)


class _WorkerRunFolder(RunFolder):
    """A run that the first process holds and keeps the journal of."""

    def record_event(self, event: str, **details: Any) -> None:
        """The first process writes it."""


def run_worker_rank(process_group: ProcessGroup, recipe: Recipe, folder: Path) -> None:
    """What every process but the first does: it trains its part of each job that the first one broadcasts, until None."""
    executor: LocalExecutor | None = None
    while (job := process_group.broadcast(None)) is not None:
        if executor is None:  # the clips are decoded when the first process speaks of a job
            run_folder = _WorkerRunFolder(folder, open_cache())
            executor = LocalExecutor(
                run_folder,
                load_training_data(recipe, run_folder.cache),
                recipe.labels,
                inference_preprocessing(recipe.clip)[1],
                process_group,
            )
        executor.train_network(job)
