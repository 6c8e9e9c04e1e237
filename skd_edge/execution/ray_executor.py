"""Trains jobs with Ray, on one machine or on a cluster: each job is a task, which Ray schedules and retries.

Workers use the same paths as this process for the run folder, the cache and the data (one machine, or a shared file
system). A worker opens the clips itself and trains the job with a `LocalExecutor`. If a worker dies, its checkpoint
stays in the run folder, and the next worker continues from there. Only this process writes the journal.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from skd_bench.errors import UserError
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.trainer import TrainingProgress
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.execution.local_executor import (
    JobResult,
    LocalExecutor,
    ProgressListener,
    check_teacher_floor,
    ignore_progress,
)
from skd_edge.execution.threads import configure_threads
from skd_edge.labels.dataset import TrainingData, load_training_data
from skd_edge.models.external.factory import allow_factory_code
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, RunFolder

_RETRIES = 3  # how often a job is restarted after its worker died
_POLL_SECONDS = 0.5  # time between two reads of the workers' events
_OBJECT_STORE_BYTES = (
    200 << 20
)  # Ray's object store on a cluster that we start; small, because clips are not sent through it


@dataclass(frozen=True)
class _WorkerContext:
    """Describes a run to a worker.

    Contexts with equal ``key``, ``folder`` and ``cache`` are equal and have the same clips. A worker therefore loads
    the clips of a run only once (see `_load_worker_data`).

    Attributes:
        key: the resolved recipe as YAML.
        folder: the run folder.
        cache: the cache that runs share.
        recipe: the recipe.
        data_fingerprint: hashes of the clips and weak labels that the worker must find.
        threads: torch's threads in each job.
        allow_code: whether the teacher's factory may run in workers.
    """

    key: str
    folder: Path
    cache: Path
    recipe: Recipe = field(compare=False)
    data_fingerprint: str = field(compare=False)
    threads: int = field(compare=False)
    allow_code: bool = field(compare=False)


class RayExecutor(LocalExecutor):
    """Trains jobs as Ray tasks; finished networks and labels are read from the run folder, as by `LocalExecutor`.

    The cluster is the one at ``RAY_ADDRESS``; without it, a cluster on this machine is started for the training. A job
    uses as many CPUs as it has threads, and one GPU if the cluster has any.

    Args:
        recipe: the recipe.
        run: the run folder, on a file system that all workers share.
        training_data: clips and weak labels, as loaded by this process.
        threads: torch's threads in each job.
        allow_code: whether the teacher's factory may run in workers.
    """

    def __init__(
        self, recipe: Recipe, run: Run, training_data: TrainingData, *, threads: int, allow_code: bool = False
    ) -> None:
        super().__init__(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1])
        self._worker_context = _WorkerContext(
            resolved_yaml(recipe),
            run.folder.resolve(),
            run.cache.resolve(),
            recipe,
            _fingerprint_data(training_data),
            threads,
            allow_code,
        )

    def train_all(
        self, jobs: list[TrainingJob], on_progress: ProgressListener = ignore_progress
    ) -> Generator[JobResult]:
        """Train all jobs, as many in parallel as the cluster has room for; see `LocalExecutor.train_all`.

        Yields:
            The results of jobs that were finished before, then those of the others as their workers finish.

        Raises:
            UserError: See `train_job`. Also: Ray does not start, no machine has enough CPUs for a job, or the worker
                of a job died too often.
        """
        remaining: dict[str, list[TrainingJob]] = {}  # by hash; networks of equal architecture can have the same job
        for job in jobs:
            if self.run.fetch_job(job.hash):
                yield self.train_job(job, on_progress)
            else:
                remaining.setdefault(job.hash, []).append(job)
        if remaining:
            with _connect_to_cluster():
                yield from self._train_on_ray(remaining, on_progress)

    def _train_on_ray(
        self, remaining: dict[str, list[TrainingJob]], on_progress: ProgressListener
    ) -> Generator[JobResult]:
        self._started: set[str] = set()
        this_machine = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        events = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": this_machine})
        running = self._submit_jobs(remaining, events)
        try:
            while running:
                done, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
                # Read before the results: a worker sends its events before its job is finished.
                self._read_events(events, remaining, on_progress)
                for result in done:
                    job_hash = running.pop(result)
                    ray.get(result)
                    first, *others = remaining[job_hash]
                    yield self._load_result(first, cached=False)
                    yield from map(self.train_job, others)
        except RayTaskError as error:
            if "failed to import on the worker" in str(error.cause):
                raise UserError(
                    "a worker of the Ray cluster cannot import skd-edge or one of its dependencies "
                    f"({_find_missing_module(str(error.cause))}); install the same skd-edge[ray] on every machine "
                    "of the cluster"
                ) from error
            raise error.cause from error  # the original error; the worker's traceback is attached
        except RayError as error:
            raise UserError(
                f"the worker of a job died {_RETRIES + 1} times, or the Ray cluster is gone ({_format_error(error)}); "
                "finished jobs and checkpoints are kept; repeat the command to continue"
            ) from error
        finally:
            with suppress(RayError):  # if the cluster is gone, so are the remaining events
                self._read_events(events, remaining, on_progress)
            for result, job_hash in running.items():
                if job_hash in self._started:
                    ray.cancel(result, force=True)  # safe: its files are written atomically
            # The other tasks fail when they send their first event to the closed queue. They are not cancelled, because
            # Ray 2.60 ends this process if a task is cancelled while it is being sent to a worker.
            events.shutdown(force=True)

    def _submit_jobs(self, remaining: dict[str, list[TrainingJob]], events: Queue) -> dict[ray.ObjectRef[None], str]:
        """Submit all jobs to Ray. A task takes the results of the jobs that it requires, so Ray runs them in order."""
        threads = self._worker_context.threads
        if not any(node["Alive"] and node["Resources"].get("CPU", 0) >= threads for node in ray.nodes()):
            raise UserError(
                f"a job uses {threads} threads, but no machine of the Ray cluster has so many CPUs; lower --threads"
            )
        task = _train_job.options(num_cpus=threads, num_gpus=1 if ray.cluster_resources().get("GPU") else 0)
        results: dict[str, ray.ObjectRef[None]] = {}
        for job_hash, (job, *_) in remaining.items():
            required = [results[n.hash] for n in job.required_jobs if n.hash in results]
            results[job_hash] = task.remote(self._worker_context, job, events, *required)
        return {result: job_hash for job_hash, result in results.items()}

    def _read_events(
        self, events: Queue, remaining: dict[str, list[TrainingJob]], on_progress: ProgressListener
    ) -> None:
        for job_hash, event, details in events.get_nowait_batch(events.qsize()):
            self._started.add(job_hash)
            if event is None:
                on_progress(remaining[job_hash][0], details)
            else:
                self.run.record_event(event, **details)


# ------------------------------------------------------------------------------------------------ in a worker
class _WorkerRunFolder(RunFolder):
    """The run folder in a worker; events for the journal are sent to the process that holds the run."""

    def __init__(self, context: _WorkerContext, job_hash: str, events: Queue) -> None:
        super().__init__(context.folder, context.cache)
        self._job_hash, self._events = job_hash, events

    def record_event(self, event: str, **details: Any) -> None:
        self._events.put((self._job_hash, event, details))

    def send_progress(self, job: TrainingJob, row: TrainingProgress) -> None:
        """Send a row of the job's progress; see `ProgressListener`."""
        self._events.put((self._job_hash, None, row))


@ray.remote(max_retries=_RETRIES)
def _train_job(context: _WorkerContext, job: TrainingJob, events: Queue, *required: None) -> None:
    """Train one job into the run folder. ``required`` makes Ray wait for the jobs that it depends on."""
    configure_threads(context.threads)
    allow_factory_code(context.recipe.teacher, context.allow_code)
    run_folder = _WorkerRunFolder(context, job.hash, events)
    executor = LocalExecutor(
        run_folder,
        _load_worker_data(context),
        context.recipe.labels,
        inference_preprocessing(context.recipe.clip)[1],
    )
    (result,) = executor.train_all([job], run_folder.send_progress)
    check_teacher_floor(
        context.recipe.teacher, result
    )  # raises, so that Ray does not start the tasks that depend on this one


@lru_cache(maxsize=1)
def _load_worker_data(context: _WorkerContext) -> TrainingData:
    """The clips of the run; each worker loads them once.

    Raises:
        UserError: The worker finds other clips or labels than the process that started the run.
    """
    training_data = load_training_data(context.recipe, context.cache)
    if _fingerprint_data(training_data) != context.data_fingerprint:
        raise UserError(
            f"the Ray worker on {socket.gethostname()} finds other clips than the machine that started the run; put "
            "the recipe's data, SKD_EDGE_CACHE and the run folder on a file system that all machines share"
        )
    return training_data


def _fingerprint_data(training_data: TrainingData) -> str:
    return f"{training_data.clips.train.hash} {training_data.clips.val.hash} {training_data.weak_hash}"


# ------------------------------------------------------------------------------------------------ the cluster
@contextmanager
def _connect_to_cluster() -> Iterator[None]:
    """Connect to Ray: an existing connection, or the cluster at ``RAY_ADDRESS``, or a new cluster on this machine.

    Raises:
        UserError: Ray does not start, or does not answer.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    size, dashboard = (None, None) if address else (_OBJECT_STORE_BYTES, False)
    try:
        with _preserve_sigterm_handler():
            ray.init(
                address=address or "local",
                object_store_memory=size,
                include_dashboard=dashboard,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # Ray raises plain exceptions here
        raise UserError(
            f"Ray does not {f'answer at RAY_ADDRESS {address}' if address else 'start on this machine'}: "
            f"{_format_error(error)}; try again, or train with --engine local"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _preserve_sigterm_handler() -> Iterator[None]:
    """Keep our handler of SIGTERM, which pauses the run; Ray would replace it by one that exits."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _find_missing_module(traceback_text: str) -> str:
    """The line of a worker's traceback that names the missing module."""
    found = re.search(r"No module named '[^']+'", traceback_text)
    return found.group() if found else " ".join(traceback_text.split())[:200]


def _format_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
