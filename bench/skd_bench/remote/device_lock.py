"""One bench at a time on a device: two at once would slow each other, and both results would be wrong."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skd_bench.errors import UserError

EXIT_BUSY = 75
_PATIENCE_S = 10.0


class DeviceLock:
    """Held as a context manager while a device is measured; kept by the kernel, so that it never outlives its holder.

    Args:
        owner: Who measures, for the message that others get.
        token: Whoever holds the lock with the same one is ours, cut off from its link, and is ended; empty: nobody is.
        folder: Where the lock lies; None: the folder for temporary files, which all users of the device share.
    """

    def __init__(self, owner: str, token: str = "", *, folder: Path | str | None = None) -> None:
        self.path = Path(folder or tempfile.gettempdir(), "skd-bench.lock")
        self._owner, self._token = owner, token
        self._handle = -1

    def __enter__(self) -> DeviceLock:
        """Take the lock.

        Raises:
            UserError: Another bench has it: who, since when; or the lock cannot be made.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while not self._try_acquire():
            holder = self._read_holder()
            started_by_us = bool(self._token) and holder.get("token") == self._token
            if not started_by_us or time.monotonic() > deadline:
                raise UserError(_format_refusal(holder), exit_code=EXIT_BUSY)
            self._kill_holder(holder.get("pid"))
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # another user's file in a folder like /tmp cannot be removed
            self.path.unlink()
        os.close(self._handle)

    def _try_acquire(self) -> bool:
        try:
            # Without O_CREAT first: Linux refuses that for a file of another user in a folder like /tmp.
            handle = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                made = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                os.fchmod(made, 0o666)  # for the next user, whatever our umask says
                os.close(made)
            return self._try_acquire()
        except OSError as error:
            raise UserError(f"cannot open the device's lock {self.path}: {error.strerror}; remove that file") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            current = os.stat(self.path).st_ino == os.fstat(handle).st_ino
        except (BlockingIOError, FileNotFoundError):
            current = False
        if not current:  # held, or removed by its holder in the meantime
            os.close(handle)
            return False if self.path.exists() else self._try_acquire()
        since = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"who": self._owner, "pid": os.getpid(), "since": since, "token": self._token}
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(record).encode())
        self._handle = handle
        return True

    def _kill_holder(self, pid: object) -> None:
        """End a holder that was started with our token; others could write it into the file, not into a process."""
        with contextlib.suppress(OSError):
            if type(pid) is int and self._token.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                os.killpg(os.getpgid(pid), signal.SIGKILL)  # a run over a link has a process group of its own

    def _read_holder(self) -> dict[str, Any]:
        try:
            record = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}


def _format_refusal(holder: dict[str, Any]) -> str:
    owner, pid, since = ("".join(filter(str.isprintable, str(holder.get(k, "?")))) for k in ("who", "pid", "since"))
    return (
        f"another bench runs on this device, started by {owner[:100]} (pid {pid[:20]}) at {since[:40]}; two at once "
        "would slow each other: wait for it, or end it there"
    )
