"""No task can stop the pool: neither one that hangs nor one that kills its process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from skd_bench.errors import UserError
from skd_edge.data.store.worker_pool import WorkerPool


def make_task(folder: Path):
    def run_task(number: int, what: str) -> str | None:
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

    return run_task


def make_pool(folder, processes=2, timeout=60.0):
    return WorkerPool(
        make_task, (folder,), processes=processes, task_timeout=lambda what: 1.5 if what == "hang" else timeout
    )


def test_every_task_has_one_result(tmp_path):
    payloads = ["", "bad", "die", "once", "greedy", "hang", *[""] * 30]
    pool = make_pool(tmp_path)
    results = list(pool.run(enumerate(payloads)))
    assert sorted(n for n, _ in results) == list(range(len(payloads)))
    assert pool.unfinished == {2, 5}  # not 1 and 4, whose function returned the reason
    reasons = dict(results)
    assert "SIGSEGV" in reasons[2]
    assert reasons[1] == "bad"
    assert reasons[3] is None  # the second attempt succeeded
    assert reasons[4] == "too much"
    assert "did not end within 2 s" in reasons[5]
    assert all(reasons[n] is None for n in range(6, len(payloads)))
    tries = {n: len((tmp_path / str(n)).read_text()) for n in range(len(payloads))}
    assert (tries[2], tries[3], tries[5]) == (2, 2, 2)
    assert all(tries[n] == 1 for n in range(6, len(payloads)))


def test_an_error_that_no_task_caused_ends_the_run(tmp_path):
    with pytest.raises(UserError, match="No space left"):
        list(make_pool(tmp_path, 1).run(enumerate(["", "full", ""])))


def exit_at_once(folder: Path):
    os._exit(3)


def test_workers_that_do_not_start_end_the_run(tmp_path):
    """As in a script without a main guard, where each worker would run the script again."""
    with pytest.raises(UserError, match=r"the decoding processes do not start \(exit code 3"):
        list(
            WorkerPool(exit_at_once, (tmp_path,), processes=2, task_timeout=lambda what: 60.0).run(enumerate([""] * 99))
        )


def test_no_process_is_left_running(tmp_path):
    import multiprocessing

    running = make_pool(tmp_path, 2).run(enumerate([""] * 100))
    next(running)
    running.close()
    assert not multiprocessing.active_children()
