"""A pool of worker processes for files that may be damaged: a file that hangs or kills its worker costs one task.

Each worker is assigned a few tasks at a time and sends a result after each. A task that exceeds its time limit, or that
ends its worker process, is tried once more. If it fails again, its result is the reason.
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

from skd_bench.device.child_process import end_with_parent
from skd_bench.errors import UserError

Task = tuple[int, Any]  # number, payload
TaskResult = tuple[int, str | None]  # number, reason of the failure or None
TaskFunctionFactory = Callable[..., Callable[[int, Any], str | None]]
_TASKS_AHEAD = 8  # tasks that are assigned to a worker at a time, so that it never waits for the pool
_START_TIMEOUT_S = 60.0  # added to the time limit of a worker's first task, for starting the process
_MAX_FAILED_STARTS = 3  # after so many workers that end before they are ready, the pool gives up
_EXTRA_MEMORY_BYTES = 4 << 30  # memory that a worker may allocate beyond what it uses after its start


@dataclass(eq=False)
class _WorkerHandle:
    process: Any
    link: Connection
    assigned: deque[Task] = field(default_factory=deque)
    busy_since: float = 0.0  # start of its current task, on the monotonic clock
    ready: bool = False

    def assign(self, task: Task) -> None:
        """Queue a task; the clock starts where the worker has nothing else to do."""
        if self.ready and not self.assigned:
            self.busy_since = time.monotonic()
        self.assigned.append(task)

    def begin_next_task(self) -> None:
        """The worker is up, and reported its last task, if any: the clock of the next one starts."""
        self.busy_since, self.ready = time.monotonic(), True


class WorkerPool:
    """A pool of processes that run tasks; see ``run``.

    Args:
        make_task_function: called once in each process with ``arguments``. It returns the task function, which takes
            the number and the payload of a task and returns the reason of a failure, or None. Must be importable.
        arguments: the arguments of ``make_task_function``; must be picklable.
        processes: number of processes.
        task_timeout: takes the payload of a task and returns the seconds that it may take.

    Attributes:
        unfinished: numbers of the tasks that failed because they exceeded their time or ended their process.
    """

    def __init__(
        self,
        make_task_function: TaskFunctionFactory,
        arguments: tuple[Any, ...],
        *,
        processes: int,
        task_timeout: Callable[[Any], float],
    ) -> None:
        self._make_task_function = make_task_function
        self._arguments = arguments
        self._processes = processes
        self._task_timeout = task_timeout
        self.unfinished = set[int]()
        self._workers: list[_WorkerHandle] = []
        self._retry_queue = deque[Task]()
        self._failed_once = set[int]()
        self._failed_starts = 0

    def run(self, tasks: Iterable[Task]) -> Iterator[TaskResult]:
        """Run every task; results are in the order in which tasks finish.

        Args:
            tasks: number and picklable payload of each task; numbers are unique and not negative.

        Yields:
            The number of each task, and the reason if it failed, else None.

        Raises:
            UserError: A worker reports an error that is not due to its task (the disk is full), or no worker starts.
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
                        yield from self._requeue_tasks(worker, f"decoding did not end within {limit:.0f} s")
        finally:
            for worker in self._workers:
                _kill_worker(worker)
            self._workers.clear()

    def _dispatch_tasks(self, todo: Iterator[Task]) -> bool:
        """Start workers and send them tasks, the least busy first; False when no task is left or running."""
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
        worker.assign(task)
        with suppress(OSError):  # the process has ended; _receive_results notices and requeues its tasks
            worker.link.send(task)

    def _receive_results(self, worker: _WorkerHandle) -> Iterator[TaskResult]:
        try:
            has_more = True
            while has_more:
                number, reason, fatal = worker.link.recv()
                if fatal:
                    raise UserError(fatal)
                was_ready = worker.ready
                worker.begin_next_task()
                if was_ready:
                    worker.assigned.popleft()
                    yield number, reason
                has_more = bool(worker.assigned) and worker.link.poll()
        except (EOFError, OSError):
            worker.process.join(1)
            if not worker.ready:
                self._retry_queue.extend(worker.assigned)
                self._discard_worker(worker)
                return
            yield from self._requeue_tasks(
                worker, f"decoding ended the process ({_format_exit_reason(worker.process.exitcode)})"
            )

    def _discard_worker(self, worker: _WorkerHandle) -> None:
        """Remove a worker that ended before it was ready.

        Raises:
            UserError: Too many workers have failed to start.
        """
        _kill_worker(worker)
        self._workers.remove(worker)
        self._failed_starts += 1
        if self._failed_starts >= _MAX_FAILED_STARTS:
            reason = _format_exit_reason(worker.process.exitcode)
            raise UserError(
                f"the decoding processes do not start ({reason}; their error messages are above); if your own script "
                "starts the decoding, put its code under: if __name__ == '__main__':"
            )

    def _requeue_tasks(self, worker: _WorkerHandle, reason: str) -> Iterator[TaskResult]:
        """Kill a worker and requeue its tasks; the task that was running fails with ``reason`` the second time."""
        _kill_worker(worker)
        self._workers.remove(worker)
        task = worker.assigned.popleft()
        self._retry_queue.extendleft(reversed(worker.assigned))
        if task[0] in self._failed_once:
            self.unfinished.add(task[0])
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
    """Run tasks until the link is closed; errors that are not due to a task are sent as the third item."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent process ends the workers
    end_with_parent()  # a worker that hangs in a decoder would not notice that its link is closed
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


def _limit_memory() -> None:
    """Limit the memory of this worker, so that a damaged file with absurd sizes causes an error, not a full machine."""
    with suppress(OSError, ValueError):
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = now + _EXTRA_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))
