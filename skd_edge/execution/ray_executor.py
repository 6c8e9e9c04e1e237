"""The tree of jobs over Ray: every job a task, ordered and retried by Ray, on one machine or on a cluster.

A worker finds the run folder, the cache and the recipe's data by the same paths as this process (one machine, or a
shared file system). It opens the clips itself and trains just as the local engine does; a worker that dies leaves the
job's checkpoint in the run folder, and the next one goes on from there. The journal has one writer, this process.
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

_RETRIES = 3  # deaths of a job's worker that are forgiven
_POLL_SECONDS = 0.5  # seconds between two looks at the workers' news
_OBJECT_STORE_BYTES = 200 << 20  # bytes of Ray's own store on a cluster that we start: clips do not travel through it


@dataclass(frozen=True)
class _WorkerContext:
    """What a worker is told of a run; two jobs of one key see the same clips."""

    key: str
    folder: Path
    cache: Path
    recipe: Recipe = field(compare=False)
    data_fingerprint: str = field(compare=False)
    threads: int = field(compare=False)
    allow_code: bool = field(compare=False)


class RayExecutor(LocalExecutor):
    """Trains the nodes of a tree as Ray tasks; networks and labels are read from the run folder as they are locally.

    The cluster is the one that ``RAY_ADDRESS`` names, else one that is started on this machine for the time of the
    training. A job takes as many of its CPUs as it has threads, and one GPU where the cluster has any.

    Args:
        recipe: the recipe.
        run: the run folder, on a file system that all workers share.
        training_data: its clips and weak labels, as this process sees them.
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
        """Train every job, as many at a time as there is room for; see `LocalExecutor.train_all`.

        Yields:
            Jobs as they are finished: those that are finished already, then the others as their workers end.

        Raises:
            UserError: See ``train_job``; Ray does not start, has no room for one job, or lost a job's worker too often.
        """
        remaining: dict[str, list[TrainingJob]] = {}  # by hash: two networks of one shape are one job under two names
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
                # Before the results: a worker sends its events before its job is finished.
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
                    "a worker of the Ray cluster cannot import skd-edge or something that it needs "
                    f"({_find_missing_module(str(error.cause))}); install the same skd-edge[ray] on every machine "
                    "of the cluster"
                ) from error
            raise error.cause from error  # as if it had been raised here; the worker's traceback goes with it
        except RayError as error:
            raise UserError(
                f"Ray lost the worker of a job {_RETRIES + 1} times, or the cluster itself ({_format_error(error)}); "
                "finished jobs and checkpoints are kept: the same command goes on"
            ) from error
        finally:
            with suppress(RayError):  # where Ray itself is gone, so is the rest of the news
                self._read_events(events, remaining, on_progress)
            for result, job_hash in running.items():
                if job_hash in self._started:
                    ray.cancel(result, force=True)  # what it wrote is whole, so it may die at once
            # The others find nobody to tell that they begin, and end. Not cancelled: Ray 2.60 ends this very process
            # where a task is cancelled while it is on its way to a worker.
            events.shutdown(force=True)

    def _submit_jobs(self, remaining: dict[str, list[TrainingJob]], events: Queue) -> dict[ray.ObjectRef[None], str]:
        """Hand all jobs to Ray; a job's task takes the results of those it needs: that is how Ray knows their order."""
        threads = self._worker_context.threads
        if not any(node["Alive"] and node["Resources"].get("CPU", 0) >= threads for node in ray.nodes()):
            raise UserError(
                f"a job takes {threads} threads, and no machine of the Ray cluster has that many CPUs; "
                "give fewer with --threads"
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
    """A run that another process holds: what belongs in the journal is told to that process."""

    def __init__(self, context: _WorkerContext, job_hash: str, events: Queue) -> None:
        super().__init__(context.folder, context.cache)
        self._job_hash, self._events = job_hash, events

    def record_event(self, event: str, **details: Any) -> None:
        self._events.put((self._job_hash, event, details))

    def send_progress(self, job: TrainingJob, row: dict[str, Any]) -> None:
        """News of the job for the screen."""
        self._events.put((self._job_hash, None, row))


@ray.remote(max_retries=_RETRIES)
def _train_job(context: _WorkerContext, job: TrainingJob, events: Queue, *required: None) -> None:
    """Train one job into the run folder; ``required`` are the jobs before it, finished when Ray calls this."""
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
    check_teacher_floor(context.recipe.teacher, result)  # fails the tasks of all that would learn from it


@lru_cache(maxsize=1)
def _load_worker_data(context: _WorkerContext) -> TrainingData:
    """The job's clips, opened once by each worker and never decoded anew."""
    training_data = load_training_data(context.recipe, context.cache)
    if _fingerprint_data(training_data) != context.data_fingerprint:
        raise UserError(
            f"the Ray worker on {socket.gethostname()} sees other clips than the machine that started the run; the "
            "recipe's data, SKD_EDGE_CACHE and the run folder must lie on a file system that all machines share"
        )
    return training_data


def _fingerprint_data(training_data: TrainingData) -> str:
    return f"{training_data.clips.train.hash} {training_data.clips.val.hash} {training_data.weak_hash}"


# ------------------------------------------------------------------------------------------------ the cluster
@contextmanager
def _connect_to_cluster() -> Iterator[None]:
    """A connection to Ray: the caller's where there is one, else to ``RAY_ADDRESS``, else to a cluster of our own."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
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
    except Exception as error:  # Ray raises bare ones here
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
    """Ray takes SIGTERM for itself and exits; here it means a pause, as the command line has it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _find_missing_module(traceback_text: str) -> str:
    """Of a worker's traceback, the one line that helps."""
    found = re.search(r"No module named '[^']+'", traceback_text)
    return found.group() if found else " ".join(traceback_text.split())[:200]


def _format_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
