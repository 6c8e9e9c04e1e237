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
Answer = tuple[int, str | None]  # the number, why it failed
Make = Callable[..., Callable[[int, Any], str | None]]
_AHEAD = 8  # tasks that a worker knows of, so that it never waits for us
_START = 60.0  # seconds that a worker may take to start
_TRIES = 3  # workers that may end before they are ready; then no task is to blame
_MEMORY = 4 << 30  # bytes that a worker may take beyond what it has when it starts


@dataclass(eq=False)
class _Worker:
    process: Any
    link: Connection
    told: deque[Task] = field(default_factory=deque)
    since: float = 0.0  # when it began its first task, by the clock
    ready: bool = False


class Crew:
    """Processes that do tasks; see ``run``.

    Args:
        make: called in each process with ``arguments``; gives what does a task (its number, what to do) and returns
            why that failed, or None. Importable, as the arguments are picklable.
        arguments: of ``make``.
        processes: how many.
        patience: seconds that a task may take.
    """

    def __init__(
        self, make: Make, arguments: tuple[Any, ...], *, processes: int, patience: Callable[[Any], float]
    ) -> None:
        self._make, self._arguments, self._processes, self._patience = make, arguments, processes, patience
        self._workers: list[_Worker] = []
        self._again = deque[Task]()
        self._lost_once = set[int]()
        self._stillborn = 0

    def run(self, tasks: Iterable[Task]) -> Iterator[Answer]:
        """Do every task, and give each one's answer as it comes, in any order.

        Raises:
            UserError: A worker cannot go on with any task (the disk is full), or none starts.
        """
        todo = iter(tasks)
        try:
            while self._tell(todo):
                busy = [w for w in self._workers if w.told]
                ready = wait([w.link for w in busy], timeout=1.0)
                for worker in busy:
                    if worker.link in ready:
                        yield from self._hear(worker)
                    elif time.monotonic() - worker.since > (limit := self._patience(worker.told[0][1])):
                        yield from self._lose(worker, f"its decoding did not end within {limit:.0f} s")
        finally:
            for worker in self._workers:
                _end(worker)
            self._workers.clear()

    def _tell(self, todo: Iterator[Task]) -> bool:
        """Give every worker enough to do; False when all is done."""
        more = True
        while more:
            hungry = min(self._workers, key=lambda w: len(w.told), default=None)
            if len(self._workers) < self._processes and (hungry is None or hungry.told):
                if (task := self._next(todo)) is None:
                    break
                hungry = self._hire()
            elif hungry is None or len(hungry.told) >= _AHEAD or (task := self._next(todo)) is None:
                break
            self._send(hungry, task)
        return any(w.told for w in self._workers)

    def _next(self, todo: Iterator[Task]) -> Task | None:
        return self._again.popleft() if self._again else next(todo, None)

    def _hire(self) -> _Worker:
        ours, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=_work, args=(theirs, self._make, self._arguments), daemon=True)
        process.start()
        theirs.close()
        self._workers.append(worker := _Worker(process, ours, since=time.monotonic() + _START))
        return worker

    def _send(self, worker: _Worker, task: Task) -> None:
        if worker.ready and not worker.told:
            worker.since = time.monotonic()
        worker.told.append(task)
        with suppress(OSError):  # it has died: heard of when its answer is waited for
            worker.link.send(task)

    def _hear(self, worker: _Worker) -> Iterator[Answer]:
        try:
            there = True
            while there:
                number, reason, fatal = worker.link.recv()
                if fatal:
                    raise UserError(fatal)
                worker.since = time.monotonic()
                if worker.ready:
                    worker.told.popleft()
                    yield number, reason
                worker.ready = True
                there = bool(worker.told) and worker.link.poll()
        except (EOFError, OSError):
            worker.process.join(1)
            if not worker.ready:
                self._again.extend(worker.told)
                self._bury(worker)
                return
            yield from self._lose(worker, f"its decoding ended the process ({_how(worker.process.exitcode)})")

    def _bury(self, worker: _Worker) -> None:
        """A worker that ended before it began."""
        _end(worker)
        self._workers.remove(worker)
        self._stillborn += 1
        if self._stillborn >= _TRIES:
            raise UserError(
                f"no process for decoding starts ({_how(worker.process.exitcode)}; its own words are above); a Python "
                "script that decodes keeps what it does under: if __name__ == '__main__':"
            )

    def _lose(self, worker: _Worker, reason: str) -> Iterator[Answer]:
        """A worker is given up: what it was at is tried once more, what it was only told of goes on elsewhere."""
        _end(worker)
        self._workers.remove(worker)
        task = worker.told.popleft()
        self._again.extendleft(reversed(worker.told))
        if task[0] in self._lost_once:
            yield task[0], reason
        else:
            self._lost_once.add(task[0])
            self._again.append(task)


def _end(worker: _Worker) -> None:
    worker.link.close()
    worker.process.kill()
    worker.process.join()


def _how(code: int | None) -> str:
    with suppress(ValueError):
        return signal.Signals(-(code or 0)).name
    return f"exit code {code}"


# ------------------------------------------------------------------------------------------ in a worker
def _work(link: Connection, make: Make, arguments: tuple[Any, ...]) -> None:
    """Do tasks until the link is closed; an error that is no task's own fault goes back as the third item."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for those who started us
    _die_with_parent()
    try:
        do = make(*arguments)
        _limit_memory()
        link.send((-1, None, None))  # ready
        while True:
            number, what = link.recv()
            link.send((number, do(number, what), None))
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
        wanted = now + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))
