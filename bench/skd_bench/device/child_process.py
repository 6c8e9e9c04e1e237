"""Helper processes end with the process that started them, also when it is killed."""

from __future__ import annotations

import ctypes
import signal
from contextlib import suppress


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends; without effect where the system is not Linux.

    Otherwise a helper of a killed process would wait for work forever, and hold the pipes open that it inherited. The
    parent is the thread that started this process.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
