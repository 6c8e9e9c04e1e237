"""A lock for one benchmark at a time on a device: two at once would slow each other, and both results be wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from skd_bench.errors import UserError
from skd_bench.untrusted.text import print_error

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # a name of a module has the type of modules

EXIT_BUSY = 75
_PATIENCE_S = 10.0  # to wait for a killed holder to disappear


class DeviceLock:
    """A context manager that locks a device while it is measured; the kernel releases it when the process ends.

    Where the system has no such locks (Windows), a note is printed instead.

    Args:
        owner: The name of the person who measures; other users get it in an error message.
        token: Identifies a run. A process that holds the lock with the same token is left over from a lost connection
            of this run, and is killed. Empty: no process is killed.
        folder: The folder of the lock file; None: the folder for temporary files, which all users of the device share.
    """

    def __init__(self, owner: str, token: str = "", *, folder: Path | str | None = None) -> None:
        self.path = Path(folder or tempfile.gettempdir(), "skd-bench.lock")
        self._owner, self._token = owner, token
        self._handle = -1

    def __enter__(self) -> DeviceLock:
        """Take the lock.

        Raises:
            UserError: Another benchmark holds it (exit code 75; the message contains its owner and start), or the lock
                file cannot be opened.
        """
        if fcntl is None:
            print_error("note: this system has no file locks; take care that no other benchmark runs at the same time")
            return self
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
        if self._handle == -1:
            return
        with contextlib.suppress(OSError):  # in a folder like /tmp, another user's file cannot be removed
            self.path.unlink()
        os.close(self._handle)

    def _try_acquire(self) -> bool:
        try:
            # First without O_CREAT: with it, Linux refuses to open another user's file in a folder like /tmp.
            handle = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                made = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                os.fchmod(made, 0o666)  # other users must be able to open it, whatever our umask is
                os.close(made)
            return self._try_acquire()
        except OSError as error:
            raise UserError(f"cannot open the device's lock file {self.path}: {error.strerror}; remove it") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            current = os.stat(self.path).st_ino == os.fstat(handle).st_ino
        except (BlockingIOError, FileNotFoundError):
            current = False
        if not current:  # another process holds it, or has removed the file in the meantime
            os.close(handle)
            return False if self.path.exists() else self._try_acquire()
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        record = {"who": self._owner, "pid": os.getpid(), "since": since, "token": self._token}
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(record).encode())
        self._handle = handle
        return True

    def _kill_holder(self, pid: object) -> None:
        """Kill the holder if our token is on its command line; the lock file alone could have been forged."""
        with contextlib.suppress(OSError):
            if type(pid) is int and self._token.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                os.killpg(os.getpgid(pid), signal.SIGKILL)  # a run over ssh has its own process group

    def _read_holder(self) -> dict[str, Any]:
        try:
            record = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}


def _format_refusal(holder: Mapping[str, object]) -> str:
    owner, pid, since = ("".join(filter(str.isprintable, str(holder.get(k, "?")))) for k in ("who", "pid", "since"))
    return (
        f"another benchmark runs on this device, started by {owner[:100]} (pid {pid[:20]}) at {since[:40]}; "
        "two at once would slow each other: wait until it has finished, or stop it there"
    )
