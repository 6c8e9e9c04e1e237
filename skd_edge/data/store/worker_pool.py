"""Work on files by a crew of processes that no file can stop: one that hangs or kills its worker costs one task.

Each worker is told of a few tasks at a time and answers after each one. A task that takes longer than its time, or
takes its worker along, is tried once more; the second time it has failed, with the reason.
"""

from __future__ import annotations

import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from skd_bench.errors import UserError

Task = tuple[int, Any]  # its number, what to do
TaskResult = tuple[int, str | None]  # the number, why it failed
TaskFunctionFactory = Callable[..., Callable[[int, Any], str | None]]
_TASKS_AHEAD = 8  # tasks that a worker knows of, so that it never waits for us
_START_TIMEOUT_S = 60.0  # seconds that a worker may take to start
_MAX_FAILED_STARTS = 3  # workers that may end before they are ready; then no task is to blame
_EXTRA_MEMORY_BYTES = 4 << 30  # bytes that a worker may take beyond what it has when it starts


@dataclass(eq=False)
class _WorkerHandle:
    process: Any
    link: Connection
    assigned: deque[Task] = field(default_factory=deque)
    busy_since: float = 0.0  # when it began its first task, by the clock
    ready: bool = False


class WorkerPool:
    """Processes that do tasks; see ``run``.

    Args:
        make_task_function: called in each process with ``arguments``; gives what does a task (its number, what to do) and returns
            why that failed, or None. Importable, as the arguments are picklable.
        arguments: of ``make_task_function``.
        processes: how many.
        task_timeout: seconds that a task may take.
    """

    def __init__(
        self,
        make_task_function: TaskFunctionFactory,
        arguments: tuple[Any, ...],
        *,
        processes: int,
        task_timeout: Callable[[Any], float],
    ) -> None:
        self._make_task_function, self._arguments, self._processes, self._task_timeout = (
            make_task_function,
            arguments,
            processes,
            task_timeout,
        )
        self._workers: list[_WorkerHandle] = []
        self._retry_queue = deque[Task]()
        self._failed_once = set[int]()
        self._failed_starts = 0

    def run(self, tasks: Iterable[Task]) -> Iterator[TaskResult]:
        """Do every task, and give each one's answer as it comes, in any order.

        Raises:
            UserError: A worker cannot go on with any task (the disk is full), or none starts.
        """
        todo = iter(tasks)
        try:
            while self._dispatch_tasks(todo):
                busy = [w for w in self._workers if w.assigned]
                ready = wait([w.link for w in busy], timeout=1.0)
                for worker in busy:
                    if worker.link in ready:
                        yield from self._receive_results(worker)
                    elif time.monotonic() - worker.busy_since > (limit := self._task_timeout(worker.assigned[0][1])):
                        yield from self._requeue_tasks(worker, f"its decoding did not end within {limit:.0f} s")
        finally:
            for worker in self._workers:
                _kill_worker(worker)
            self._workers.clear()

    def _dispatch_tasks(self, todo: Iterator[Task]) -> bool:
        """Give every worker enough to do; False when all is done."""
        more = True
        while more:
            least_busy = min(self._workers, key=lambda w: len(w.assigned), default=None)
            if len(self._workers) < self._processes and (least_busy is None or least_busy.assigned):
                if (task := self._next_task(todo)) is None:
                    break
                least_busy = self._start_worker()
            elif (
                least_busy is None
                or len(least_busy.assigned) >= _TASKS_AHEAD
                or (task := self._next_task(todo)) is None
            ):
                break
            self._send_task(least_busy, task)
        return any(w.assigned for w in self._workers)

    def _next_task(self, todo: Iterator[Task]) -> Task | None:
        return self._retry_queue.popleft() if self._retry_queue else next(todo, None)

    def _start_worker(self) -> _WorkerHandle:
        ours, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(
            target=_run_worker, args=(theirs, self._make_task_function, self._arguments), daemon=True
        )
        process.start()
        theirs.close()
        self._workers.append(worker := _WorkerHandle(process, ours, busy_since=time.monotonic() + _START_TIMEOUT_S))
        return worker

    def _send_task(self, worker: _WorkerHandle, task: Task) -> None:
        if worker.ready and not worker.assigned:
            worker.busy_since = time.monotonic()
        worker.assigned.append(task)
        with suppress(OSError):  # it has died: heard of when its answer is waited for
            worker.link.send(task)

    def _receive_results(self, worker: _WorkerHandle) -> Iterator[TaskResult]:
        try:
            has_more = True
            while has_more:
                number, reason, fatal = worker.link.recv()
                if fatal:
                    raise UserError(fatal)
                worker.busy_since = time.monotonic()
                if worker.ready:
                    worker.assigned.popleft()
                    yield number, reason
                worker.ready = True
                has_more = bool(worker.assigned) and worker.link.poll()
        except (EOFError, OSError):
            worker.process.join(1)
            if not worker.ready:
                self._retry_queue.extend(worker.assigned)
                self._discard_worker(worker)
                return
            yield from self._requeue_tasks(
                worker, f"its decoding ended the process ({_format_exit_reason(worker.process.exitcode)})"
            )

    def _discard_worker(self, worker: _WorkerHandle) -> None:
        """A worker that ended before it began."""
        _kill_worker(worker)
        self._workers.remove(worker)
        self._failed_starts += 1
        if self._failed_starts >= _MAX_FAILED_STARTS:
            raise UserError(
                f"no process for decoding starts ({_format_exit_reason(worker.process.exitcode)}; its own words are above); a Python "
                "script that decodes keeps what it does under: if __name__ == '__main__':"
            )

    def _requeue_tasks(self, worker: _WorkerHandle, reason: str) -> Iterator[TaskResult]:
        """A worker is given up: what it was at is tried once more, what it was only told of goes on elsewhere."""
        _kill_worker(worker)
        self._workers.remove(worker)
        task = worker.assigned.popleft()
        self._retry_queue.extendleft(reversed(worker.assigned))
        if task[0] in self._failed_once:
            yield task[0], reason
        else:
            self._failed_once.add(task[0])
            self._retry_queue.append(task)


def _kill_worker(worker: _WorkerHandle) -> None:
    worker.link.close()
    worker.process.kill()
    worker.process.join()


def _format_exit_reason(code: int | None) -> str:
    with suppress(ValueError):
        return signal.Signals(-(code or 0)).name
    return f"exit code {code}"


# ------------------------------------------------------------------------------------------ in a worker
def _run_worker(link: Connection, make_task_function: TaskFunctionFactory, arguments: tuple[Any, ...]) -> None:
    """Do tasks until the link is closed; an error that is no task's own fault goes back as the third item."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for those who started us
    _die_with_parent()
    try:
        do_task = make_task_function(*arguments)
        _limit_memory()
        link.send((-1, None, None))  # ready
        while True:
            number, payload = link.recv()
            link.send((number, do_task(number, payload), None))
    except EOFError:
        return
    except (OSError, UserError) as error:
        with suppress(OSError):
            link.send((-1, None, str(error)))


def _die_with_parent() -> None:
    """A worker that hangs in a decoder would not notice that nobody listens any more."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, Linux


def _limit_memory() -> None:
    """A header that asks for gigabytes gets an error, not the machine's memory."""
    with suppress(OSError, ValueError):
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = now + _EXTRA_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))
