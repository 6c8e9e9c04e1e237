"""No task can stop the crew: not one that hangs, not one that kills its process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from skd_bench.errors import UserError
from skd_edge.data.store.worker_pool import WorkerPool


def maker(folder: Path):
    def do(number: int, what: str) -> str | None:
        with (folder / f"{number}").open("a") as log:
            log.write("x")
        if what == "hang":
            time.sleep(600)
        if what == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "greedy":
            try:
                bytearray(64 << 30)
            except MemoryError:
                return "too much"
        if what == "once" and (folder / f"{number}").read_text() == "x":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "full":
            raise OSError(28, "No space left on device")
        return "bad" if what == "bad" else None

    return do


def crew(folder, processes=2, patience=60.0):
    return WorkerPool(
        maker, (folder,), processes=processes, task_timeout=lambda what: 1.5 if what == "hang" else patience
    )


def test_every_task_is_answered_once(tmp_path):
    wants = ["", "bad", "die", "once", "greedy", "hang", *[""] * 30]
    answers = list(crew(tmp_path).run(enumerate(wants)))
    assert sorted(n for n, _ in answers) == list(range(len(wants)))
    said = dict(answers)
    assert "SIGSEGV" in said[2]
    assert said[1] == "bad"
    assert said[3] is None  # the second time it worked
    assert said[4] == "too much"
    assert "did not end within 2 s" in said[5]
    assert all(said[n] is None for n in range(6, len(wants)))
    tries = {n: len((tmp_path / str(n)).read_text()) for n in range(len(wants))}
    assert (tries[2], tries[3], tries[5]) == (2, 2, 2)
    assert all(tries[n] == 1 for n in range(6, len(wants)))


def test_what_is_no_tasks_fault_ends_the_work(tmp_path):
    with pytest.raises(UserError, match="No space left"):
        list(crew(tmp_path, 1).run(enumerate(["", "full", ""])))


def stillborn(folder: Path):
    os._exit(3)


def test_workers_that_never_start_end_the_work(tmp_path):
    """A script without a main guard: each worker would start the script anew, and each task be tried twice."""
    with pytest.raises(UserError, match=r"no process for decoding starts \(exit code 3"):
        list(WorkerPool(stillborn, (tmp_path,), processes=2, task_timeout=lambda what: 60.0).run(enumerate([""] * 99)))


def test_nobody_is_left_behind(tmp_path):
    import multiprocessing

    running = crew(tmp_path, 2).run(enumerate([""] * 100))
    next(running)
    running.close()
    assert not multiprocessing.active_children()
