"""Trains jobs in other processes: what a worker needs to train a job, what it sends back, and who writes it down.

Workers use the same paths as this process for the run folder, the cache and the data (one machine, or a shared file
system). A worker opens the clips itself and trains the job with a `LocalExecutor`. If a worker dies, its checkpoint
stays in the run folder, and the next worker continues from there. Only this process writes the journal.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from skd_bench.errors import UserError
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.trainer import TrainingProgress
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.execution.job_results import JobResult, ProgressListener, ignore_progress
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.execution.threads import configure_threads
from skd_edge.labels.dataset import TrainingData, load_training_data
from skd_edge.models.external.factory import allow_recipe_code
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, RunFolder


@dataclass(frozen=True)
class WorkerContext:
    """Describes a run to a worker.

    Contexts with equal ``key``, ``folder`` and ``cache`` are equal and have the same clips. A worker therefore loads
    the clips of a run only once (see `_load_worker_data`).

    Attributes:
        key: the resolved recipe as YAML.
        folder: the run folder.
        cache: the cache that runs share.
        recipe: the recipe.
        data_fingerprint: hashes of the clips and weak labels that the worker must find.
        allow_code: whether the teacher's factory may run in workers.
    """

    key: str
    folder: Path
    cache: Path
    recipe: Recipe = field(compare=False)
    data_fingerprint: str = field(compare=False)
    allow_code: bool = field(compare=False)

    @property
    def threads(self) -> int:
        """Torch's threads in each job."""
        return self.recipe.training.threads


@dataclass(frozen=True)
class WorkerEvent:
    """What a worker reports while it trains a job.

    Attributes:
        job_hash: the job.
        name: name of an event for the journal; None: ``details`` is a row of the job's progress.
        details: the event's values, or the row.
    """

    job_hash: str
    name: str | None
    details: Mapping[str, Any] | TrainingProgress


SendEvent = Callable[[WorkerEvent], None]


class WorkerExecutor(LocalExecutor, ABC):
    """Trains jobs in workers; finished networks and labels are read from the run folder, as by `LocalExecutor`.

    Args:
        recipe: the recipe.
        run: the run folder, on a file system that all workers share.
        training_data: clips and weak labels, as loaded by this process.
        allow_code: whether the teacher's factory may run in workers.
    """

    def __init__(self, recipe: Recipe, run: Run, training_data: TrainingData, *, allow_code: bool = False) -> None:
        super().__init__(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1])
        self.worker_context = WorkerContext(
            resolved_yaml(recipe),
            run.folder.resolve(),
            run.cache.resolve(),
            recipe,
            _fingerprint_data(training_data),
            allow_code,
        )

    def train_all(
        self, jobs: list[TrainingJob], on_progress: ProgressListener = ignore_progress
    ) -> Generator[JobResult]:
        """Train all jobs, as many at the same time as there is room for; see `LocalExecutor.train_all`.

        Yields:
            The results of jobs that were finished before, then those of the others as their workers finish.
        """
        remaining: dict[str, list[TrainingJob]] = {}  # by hash; networks of equal architecture can have the same job
        for job in jobs:
            if self.run.fetch_job(job.hash):
                yield self.train_job(job, on_progress)
            else:
                remaining.setdefault(job.hash, []).append(job)
        if remaining:
            yield from self._train_in_workers(remaining, on_progress)

    @abstractmethod
    def _train_in_workers(
        self, remaining: Mapping[str, list[TrainingJob]], on_progress: ProgressListener
    ) -> Generator[JobResult]:
        """Train the first job of each list, teachers before learners, and yield the results of all jobs."""

    def _load_results(self, equal_jobs: list[TrainingJob]) -> Generator[JobResult]:
        """The results of jobs with one hash, of which a worker has trained the first."""
        yield self.load_result(equal_jobs[0], cached=False)
        yield from map(self.train_job, equal_jobs[1:])

    def _receive_event(self, event: WorkerEvent, job: TrainingJob, on_progress: ProgressListener) -> None:
        if event.name is None:
            on_progress(job, event.details)  # type: ignore[arg-type]
        else:
            self.run.record_event(event.name, **event.details)


# ------------------------------------------------------------------------------------------------ in a worker
class _WorkerRunFolder(RunFolder):
    """The run folder in a worker; events for the journal are sent to the process that holds the run."""

    def __init__(self, context: WorkerContext, job_hash: str, send_event: SendEvent) -> None:
        super().__init__(context.folder, context.cache)
        self._job_hash, self._send_event = job_hash, send_event

    def record_event(self, event: str, **details: Any) -> None:
        """Send the event to the process that holds the run."""
        self._send_event(WorkerEvent(self._job_hash, event, details))

    def send_progress(self, job: TrainingJob, row: TrainingProgress) -> None:
        """Send a row of the job's progress; see `ProgressListener`."""
        self._send_event(WorkerEvent(self._job_hash, None, row))


def train_in_worker(context: WorkerContext, job: TrainingJob, send_event: SendEvent) -> JobResult:
    """Train one job into the run folder, in a worker. The jobs that it requires are finished.

    Raises:
        UserError: The worker finds other clips than the process that holds the run; or see `LocalExecutor.train_job`.
    """
    configure_threads(context.threads)
    allow_recipe_code(context.recipe, context.allow_code)
    run_folder = _WorkerRunFolder(context, job.hash, send_event)
    preprocess = inference_preprocessing(context.recipe.clip)[1]
    executor = LocalExecutor(run_folder, _load_worker_data(context), context.recipe.labels, preprocess)
    (result,) = executor.train_all([job], run_folder.send_progress)
    return result


@lru_cache(maxsize=1)
def _load_worker_data(context: WorkerContext) -> TrainingData:
    """The clips of the run; each worker loads them once.

    Raises:
        UserError: The worker finds other clips or labels than the process that started the run.
    """
    training_data = load_training_data(context.recipe, context.cache)
    if _fingerprint_data(training_data) != context.data_fingerprint:
        raise UserError(
            f"a worker on {socket.gethostname()} finds other clips than the process that started the run; leave the "
            "data as they are while a run trains; with Ray, put the recipe's data, SKD_EDGE_CACHE and the run folder "
            "on a file system that all machines share"
        )
    return training_data


def _fingerprint_data(training_data: TrainingData) -> str:
    return f"{training_data.clips.train.hash} {training_data.clips.val.hash} {training_data.weak_hash}"
