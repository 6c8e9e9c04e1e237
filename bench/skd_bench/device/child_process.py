"""Helper processes end with the process that started them, also when it is killed."""

from __future__ import annotations

import ctypes
import signal
from contextlib import suppress
from multiprocessing import current_process

from skd_bench.errors import UserError


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends; without effect where the system is not Linux.

    Otherwise a helper of a killed process would wait for work forever, and hold the pipes open that it inherited. The
    parent is the thread that started this process.
    """
    with suppress(OSError, AttributeError, TypeError):  # TypeError: on Windows a library must have a name
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def require_child_processes(missing: str) -> None:
    """Check that this process may start others; the process of a job, which ends with the run, may not.

    Args:
        missing: what the others would make, such as "the clip store FOLDER".

    Raises:
        UserError: It may not.
    """
    if current_process().daemon:
        raise UserError(
            f"{missing} is missing or was damaged while the run was training; repeat the command, which repairs it"
        )
