"""A lock on work that several jobs need: one process computes a result, and the others do not compute it again."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def lock_work(path: Path, *, wait: bool) -> Iterator[bool]:
    """Lock the work that a file stands for, until the end of the block; the lock of a killed process is released.

    Args:
        path: the lock file; it is created with its folder, and stays.
        wait: wait for a process that has locked it.

    Yields:
        Whether the work is locked by this process. A file system without locks gives every process the work: results
        are written atomically, so that costs time only.

    Raises:
        OSError: The file cannot be created, for example on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError:
            yield True
            return
        yield True
