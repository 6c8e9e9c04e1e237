"""Trains jobs with Ray, on one machine or on a cluster: each job is a task, which Ray schedules and retries."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from skd_bench.errors import UserError
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.execution.job_results import JobResult, ProgressListener, check_teacher_floor
from skd_edge.execution.worker_executor import WorkerContext, WorkerExecutor, train_in_worker

_RETRIES = 3  # how often a job is restarted after its worker died
_POLL_SECONDS = 0.5  # time between two reads of the workers' events
_OBJECT_STORE_BYTES = (
    200 << 20
)  # Ray's object store on a cluster that we start; small, because clips are not sent through it


class RayExecutor(WorkerExecutor):
    """Trains jobs as Ray tasks; see `WorkerExecutor`.

    The cluster is the one at ``RAY_ADDRESS``; without it, a cluster on this machine is started for the training. A job
    uses as many CPUs as it has threads, and one GPU if the cluster has any.
    """

    def _train_in_workers(
        self, remaining: Mapping[str, list[TrainingJob]], on_progress: ProgressListener
    ) -> Generator[JobResult]:
        """Train the jobs on the cluster.

        Raises:
            UserError: See `train_job`. Also: Ray does not start, no machine has enough CPUs for a job, or the worker
                of a job died too often.
        """
        with _connect_to_cluster():
            yield from self._train_on_ray(remaining, on_progress)

    def _train_on_ray(
        self, remaining: Mapping[str, list[TrainingJob]], on_progress: ProgressListener
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
                    yield from self._load_results(remaining[job_hash])
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

    def _submit_jobs(self, remaining: Mapping[str, list[TrainingJob]], events: Queue) -> dict[ray.ObjectRef[None], str]:
        """Submit all jobs to Ray. A task takes the results of the jobs that it requires, so Ray runs them in order."""
        threads = self.worker_context.threads
        if not any(node["Alive"] and node["Resources"].get("CPU", 0) >= threads for node in ray.nodes()):
            raise UserError(
                f"a job uses {threads} threads, but no machine of the Ray cluster has so many CPUs; lower "
                "training.threads"
            )
        task = _train_job.options(num_cpus=threads, num_gpus=1 if ray.cluster_resources().get("GPU") else 0)
        results: dict[str, ray.ObjectRef[None]] = {}
        for job_hash, (job, *_) in remaining.items():
            required = [results[n.hash] for n in job.required_jobs if n.hash in results]
            results[job_hash] = task.remote(self.worker_context, job, events, *required)
        return {result: job_hash for job_hash, result in results.items()}

    def _read_events(
        self, events: Queue, remaining: Mapping[str, list[TrainingJob]], on_progress: ProgressListener
    ) -> None:
        for event in events.get_nowait_batch(events.qsize()):
            self._started.add(event.job_hash)
            self._receive_event(event, remaining[event.job_hash][0], on_progress)


@ray.remote(max_retries=_RETRIES)
def _train_job(context: WorkerContext, job: TrainingJob, events: Queue, *required: None) -> None:
    """Train one job into the run folder. ``required`` makes Ray wait for the jobs that it depends on."""
    result = train_in_worker(context, job, events.put)
    # Raises, so that Ray does not start the tasks that depend on this one.
    check_teacher_floor(context.recipe.teacher, result)


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
