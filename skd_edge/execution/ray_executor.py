"""The tree of legs over Ray: every leg a task, ordered and retried by Ray, on one machine or on a cluster.

A worker finds the run folder, the cache and the recipe's data by the same paths as this process (one machine, or a
shared file system). It opens the clips itself and trains just as the local engine does; a worker that dies leaves the
leg's checkpoint in the run folder, and the next one goes on from there. The journal has one writer, this process.
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
from skd_edge.execution.executors import use_threads
from skd_edge.execution.job_graph import Node
from skd_edge.execution.local_executor import Finished, LocalEngine, check_floor
from skd_edge.labels.dataset import Material, deployed_view, gather
from skd_edge.models.external.factory import permit
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, RunFolder

_RETRIES = 3  # deaths of a leg's worker that are forgiven
_GLANCE = 0.5  # seconds between two looks at the workers' news
_OBJECTS = 200 << 20  # bytes of Ray's own store on a cluster that we start: clips do not travel through it


@dataclass(frozen=True)
class _Job:
    """What a worker is told of a run; two jobs of one key see the same clips."""

    key: str
    folder: Path
    cache: Path
    recipe: Recipe = field(compare=False)
    clips: str = field(compare=False)
    threads: int = field(compare=False)
    allow_code: bool = field(compare=False)


class RayEngine(LocalEngine):
    """Trains the nodes of a tree as Ray tasks; networks and labels are read from the run folder as they are locally.

    The cluster is the one that ``RAY_ADDRESS`` names, else one that is started on this machine for the time of the
    training. A leg takes as many of its CPUs as it has threads, and one GPU where the cluster has any.

    Args:
        recipe: the recipe.
        run: the run folder, on a file system that all workers share.
        material: its clips and weak labels, as this process sees them.
        threads: torch's threads in each leg.
        allow_code: whether the teacher's factory may run in workers.
    """

    def __init__(self, recipe: Recipe, run: Run, material: Material, *, threads: int, allow_code: bool = False) -> None:
        super().__init__(run, material, recipe.labels, deployed_view(recipe.clip)[1])
        self._job = _Job(resolved_yaml(recipe), run.folder.resolve(), run.cache.resolve(), recipe, _known_as(material),
                         threads, allow_code)  # fmt: skip

    def train_all(self, tree: list[Node]) -> Generator[Finished]:
        """Train every node, as many at a time as there is room for; see ``LocalEngine.train_all``.

        Yields:
            Legs as they are finished: those that are finished already, then the others as their workers end.

        Raises:
            UserError: See ``train_leg``; Ray does not start, has no room for one leg, or lost a leg's worker too often.
        """
        left: dict[str, list[Node]] = {}  # by hash: two networks of one shape are one leg under two names
        for node in tree:
            if self.run.fetch(node.hash):
                yield self.train(node)
            else:
                left.setdefault(node.hash, []).append(node)
        if left:
            with _cluster():
                yield from self._train_on_ray(left)

    def _train_on_ray(self, left: dict[str, list[Node]]) -> Generator[Finished]:
        self._begun: set[str] = set()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        news = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        running = self._submit(left, news)
        try:
            while running:
                done, _ = ray.wait(list(running), timeout=_GLANCE)
                self._read(news, left)  # before the results: what a worker told, it told before its leg was finished
                for result in done:
                    leg = running.pop(result)
                    ray.get(result)
                    first, *others = left[leg]
                    yield self._finished(first, cached=False)
                    yield from map(self.train, others)
        except RayTaskError as error:
            if "failed to import on the worker" in str(error.cause):
                raise UserError(
                    "a worker of the Ray cluster cannot import skd-edge or something that it needs "
                    f"({_missing(str(error.cause))}); install the same skd-edge[ray] on every machine of the cluster"
                ) from error
            raise error.cause from error  # as if it had been raised here; the worker's traceback goes with it
        except RayError as error:
            raise UserError(
                f"Ray lost the worker of a leg {_RETRIES + 1} times, or the cluster itself ({_brief(error)}); "
                "finished legs and checkpoints are kept: the same command goes on"
            ) from error
        finally:
            with suppress(RayError):  # where Ray itself is gone, so is the rest of the news
                self._read(news, left)
            for result, leg in running.items():
                if leg in self._begun:
                    ray.cancel(result, force=True)  # what it wrote is whole, so it may die at once
            # The others find nobody to tell that they begin, and end. Not cancelled: Ray 2.60 ends this very process
            # where a task is cancelled while it is on its way to a worker.
            news.shutdown(force=True)

    def _submit(self, left: dict[str, list[Node]], news: Queue) -> dict[ray.ObjectRef[None], str]:
        """Hand all legs to Ray; a leg's task takes the results of those it needs: that is how Ray knows their order."""
        threads = self._job.threads
        if not any(node["Alive"] and node["Resources"].get("CPU", 0) >= threads for node in ray.nodes()):
            raise UserError(f"a leg takes {threads} threads, and no machine of the Ray cluster has that many CPUs; "
                            "give fewer with --threads")  # fmt: skip
        task = _train_leg.options(num_cpus=threads, num_gpus=1 if ray.cluster_resources().get("GPU") else 0)
        results: dict[str, ray.ObjectRef[None]] = {}
        for leg, (node, *_) in left.items():
            needed = [results[n.hash] for n in node.needs if n.hash in results]
            results[leg] = task.remote(self._job, node, news, *needed)
        return {result: leg for leg, result in results.items()}

    def _read(self, news: Queue, left: dict[str, list[Node]]) -> None:
        for leg, event, facts in news.get_nowait_batch(news.qsize()):
            self._begun.add(leg)
            if event is None:
                self.report(left[leg][0], facts)
            else:
                self.run.journal(event, **facts)


# ------------------------------------------------------------------------------------------------ in a worker
class _Guest(RunFolder):
    """A run that another process holds: what belongs in the journal is told to that process."""

    def __init__(self, job: _Job, leg: str, news: Queue) -> None:
        super().__init__(job.folder, job.cache)
        self._leg, self._news = leg, news

    def journal(self, event: str, **facts: Any) -> None:
        self._news.put((self._leg, event, facts))

    def row(self, node: Node, row: dict[str, Any]) -> None:
        """News of the leg for the screen."""
        self._news.put((self._leg, None, row))


@ray.remote(max_retries=_RETRIES)
def _train_leg(job: _Job, node: Node, news: Queue, *needed: None) -> None:
    """Train one leg into the run folder; ``needed`` are the legs before it, finished when Ray calls this."""
    use_threads(job.threads)
    permit(job.recipe.teacher, job.allow_code)
    guest = _Guest(job, node.hash, news)
    engine = LocalEngine(guest, _clips(job), job.recipe.labels, deployed_view(job.recipe.clip)[1], guest.row)
    (leg,) = engine.train_all([node])
    check_floor(job.recipe.teacher, leg)  # fails the tasks of all that would learn from it


@lru_cache(maxsize=1)
def _clips(job: _Job) -> Material:
    """The job's clips, opened once by each worker and never decoded anew."""
    material = gather(job.recipe, job.cache)
    if _known_as(material) != job.clips:
        raise UserError(
            f"the Ray worker on {socket.gethostname()} sees other clips than the machine that started the run; the "
            "recipe's data, SKD_EDGE_CACHE and the run folder must lie on a file system that all machines share"
        )
    return material


def _known_as(material: Material) -> str:
    return f"{material.clips.train.hash} {material.clips.val.hash} {material.weak_hash}"


# ------------------------------------------------------------------------------------------------ the cluster
@contextmanager
def _cluster() -> Iterator[None]:
    """A connection to Ray: the caller's where there is one, else to ``RAY_ADDRESS``, else to a cluster of our own."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    size, dashboard = (None, None) if address else (_OBJECTS, False)
    try:
        with _own_signals():
            ray.init(address=address or "local", object_store_memory=size, include_dashboard=dashboard,
                     log_to_driver=False, logging_level=logging.ERROR)  # fmt: skip
    except Exception as error:  # Ray raises bare ones here
        raise UserError(
            f"Ray does not {f'answer at RAY_ADDRESS {address}' if address else 'start on this machine'}: "
            f"{_brief(error)}; try again, or train with --engine local"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself and exits; here it means a pause, as the command line has it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _missing(said: str) -> str:
    """Of a worker's traceback, the one line that helps."""
    found = re.search(r"No module named '[^']+'", said)
    return found.group() if found else " ".join(said.split())[:200]


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
