"""A process of this machine that trains one job, and reports to the process that started it.

Processes are forked from a small server that has imported torch once, but holds no clips and no GPU. So they start in a
tenth of a second, and each job starts from the same state.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from types import FrameType

from skd_edge.execution.job_graph import TrainingJob
from skd_edge.execution.memory import measure_peak_bytes
from skd_edge.execution.worker_executor import WorkerContext, WorkerEvent, train_in_worker

_PRELOADED = (__name__, "torch._dynamo")  # torch imports the second for every optimiser
_STOP_SECONDS = 20.0  # a stopped process has so long to write its checkpoint


@dataclass(frozen=True)
class JobOutcome:
    """The last message of a process.

    Attributes:
        error: why the job was not finished, or None.
        peak_bytes: the largest memory of the process.
    """

    error: Exception | None
    peak_bytes: int


class JobProcess:
    """A process that trains one job; it starts at once.

    Args:
        context: describes the run.
        job: the job; the jobs that it requires are finished.

    Attributes:
        outcome: what the process said last; None while it trains, or if it died.
        has_ended: whether it will send nothing more.
        began_training: whether it has reported anything.
    """

    def __init__(self, context: WorkerContext, job: TrainingJob) -> None:
        self.job = job
        self.outcome: JobOutcome | None = None
        self.has_ended = self.began_training = False
        server = get_context("forkserver")
        server.set_forkserver_preload(list(_PRELOADED))
        self._link, theirs = server.Pipe(duplex=False)
        self._process = server.Process(target=_run_process, args=(theirs, context, job), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int | None:
        """The process id."""
        return self._process.pid

    def receive(self) -> Iterator[WorkerEvent]:
        """The events that have arrived; sets ``outcome`` and ``has_ended``."""
        try:
            while not self.has_ended and self._link.poll():
                message = self._link.recv()
                self.began_training = True
                if isinstance(message, JobOutcome):
                    self.outcome, self.has_ended = message, True
                else:
                    yield message
        except (EOFError, OSError):
            self.has_ended = True

    def describe_end(self) -> str:
        """How the process ended: the name of a signal, or its exit code."""
        self._process.join(_STOP_SECONDS)
        code = self._process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    @staticmethod
    def wait_for_any(processes: Collection[JobProcess], seconds: float) -> list[JobProcess]:
        """Wait until one of these has something to receive, at most so long; returns those that have."""
        ready = wait([process._link for process in processes], timeout=seconds)
        return [process for process in processes if process._link in ready]

    @staticmethod
    def stop_all(processes: Collection[JobProcess]) -> None:
        """End these processes; each writes the checkpoint of its last epoch first, if it trains."""
        for one in processes:
            one._process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        try:
            for one in processes:
                one._process.join(max(deadline - time.monotonic(), 0.0))
        finally:  # also where a second Ctrl-C ends the waiting
            for one in processes:
                one._process.kill()
                one._process.join()
                one._link.close()


# ------------------------------------------------------------------------------------------------ in the process
def _run_process(link: Connection, context: WorkerContext, job: TrainingJob) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent stops its processes in an orderly way
    signal.signal(signal.SIGTERM, _interrupt_once)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        train_in_worker(context, job, link.send)
        outcome = JobOutcome(None, measure_peak_bytes())
    except KeyboardInterrupt:
        return
    except Exception as error:
        outcome = JobOutcome(_make_picklable(error), measure_peak_bytes())
    link.send(outcome)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """SIGTERM stops the training as Ctrl-C does: the trainer writes a checkpoint, which no second signal interrupts."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _exit_with_parent() -> None:
    """End this process as soon as its parent is gone, even if that was killed; files are written atomically."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make_picklable(error: Exception) -> Exception:
    """The error with its traceback as a note; an error that cannot be pickled becomes a RuntimeError."""
    text = "".join(traceback.format_exception(error))
    try:
        copy: object = pickle.loads(pickle.dumps(error))
        sendable = error if isinstance(copy, type(error)) else RuntimeError(f"{type(error).__name__}: {error}")
    except Exception:
        sendable = RuntimeError(f"{type(error).__name__}: {error}")
    sendable.add_note(f"in the process that trained the job:\n{text}")
    return sendable
