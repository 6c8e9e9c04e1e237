"""The run folder of ``skd-edge compress`` with its journal and its lock, and the cache that runs share."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from abc import ABC, abstractmethod
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from skd_bench.errors import UsageError, UserError
from skd_bench.files import write_atomic

JOURNAL_FILE = "journal.jsonl"
# Increase it when files of a cache or a run folder move or change their format, so that older ones are rejected.
LAYOUT_VERSION = 2
LAYOUT_FILE = "layout_version"


def open_cache() -> Path:
    """The cache: the folder of decoded clips, jobs and teacher outputs that runs share. It is created when missing.

    Its place is ``SKD_EDGE_CACHE``, or ``skd-edge`` in ``XDG_CACHE_HOME`` (default ``~/.cache``).

    Raises:
        UserError: The cache was written by a version with another layout; the message says what to delete.
    """
    given = os.environ.get("SKD_EDGE_CACHE")
    cache = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "skd-edge"
    if (found := _find_other_layout(cache)) is not None:
        raise UserError(
            f"the cache {cache} has {found}, but this skd-edge needs version {LAYOUT_VERSION}; delete the folder "
            "(everything in it can be made again), or set SKD_EDGE_CACHE to another folder"
        )
    with suppress(OSError):  # if it is not writable, the first write into it raises a clear error
        _write_layout_version(cache)
    return cache


def _find_other_layout(folder: Path) -> str | None:
    """Describe a folder's layout if this version cannot use it; None if it is supported or the folder is new."""
    try:
        version = (folder / LAYOUT_FILE).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        is_new = not folder.is_dir() or all(path.name.startswith(".") for path in folder.iterdir())
        return None if is_new else "no layout version"
    return None if version == str(LAYOUT_VERSION) else f"layout version {version[:20]}"


def _write_layout_version(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / LAYOUT_FILE).exists():
        write_atomic(folder / LAYOUT_FILE, f"{LAYOUT_VERSION}\n")


class RunFolder(ABC):
    """The jobs of a run folder and of the cache, for all processes that train jobs of the run.

    Args:
        folder: the run folder.
        cache: the cache; see `open_cache`.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache

    @abstractmethod
    def record_event(self, event: str, **details: Any) -> None:
        """Record an event in the journal, which only the process that holds the run writes."""

    def job_folder(self, job_hash: str) -> Path:
        """The folder of a job in the run, by the hash of the job."""
        return self.folder / "jobs" / job_hash

    def fetch_job(self, job_hash: str) -> bool:
        """Whether the job is finished in this run; a job that another run finished is linked from the cache first."""
        here, there = self.job_folder(job_hash), self.cache / "jobs" / job_hash
        if (here / "job.json").exists():
            return True
        if not (there / "job.json").exists():
            return False
        _link_tree(there, here)
        return True

    def publish_job(self, job_hash: str) -> None:
        """Link a finished job into the cache, where other runs find it."""
        if not (self.cache / "jobs" / job_hash / "job.json").exists():
            _link_tree(self.job_folder(job_hash), self.cache / "jobs" / job_hash)

    def teacher_outputs_folder(self, job_hash: str, views: str) -> Path:
        """The folder in the cache for the outputs of a job's network.

        Args:
            job_hash: hash of the job.
            views: hash of the clips and of their augmentation.
        """
        return self.cache / "teachers" / job_hash / views


class Run(RunFolder):
    """A run folder that this process has locked. A context manager: the lock is released at the end.

    Args:
        folder: created when missing; an existing folder must be empty or the folder of a run.
        recipe: the resolved recipe as YAML; written to ``recipe.yaml``.

    Raises:
        UsageError: The folder has other content or another layout, or is not writable.
        UserError: Another process has locked the folder, or the cache has another layout.
    """

    def __init__(self, folder: Path, recipe: str) -> None:
        super().__init__(folder, open_cache())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            others = any(path.name not in {".lock", LAYOUT_FILE} for path in folder.iterdir())
        except OSError as error:
            raise UsageError(
                f"cannot use {folder} as the run folder: {error.strerror}; choose another folder with --out"
            ) from None
        if others and not (folder / JOURNAL_FILE).exists():
            raise UsageError(f"{folder} is not empty and is not a run of skd-edge; choose a new folder with --out")
        check_run_layout(folder)
        self._lock = self._acquire_lock()
        _write_layout_version(folder)
        # The journal marks the folder as a run. It comes first, so that a run that is killed here can be continued.
        _repair_journal(folder / JOURNAL_FILE)
        write_atomic(folder / "recipe.yaml", recipe)

    def _acquire_lock(self) -> int:
        try:
            handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = (self.folder / ".lock").read_text() or "unknown"
            raise UserError(
                f"another process (pid {holder}) is using {self.folder}; wait for it, or choose another folder with "
                "--out"
            ) from None
        except OSError as error:
            message = f"cannot write in {self.folder}: {error.strerror}; choose another folder with --out"
            raise UsageError(message) from None
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        return handle

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with suppress(OSError):  # for example a full disk: the error that stopped the run is the one to report
                self.record_event("stopped", reason=str(error) or type(error).__name__)
        os.close(self._lock)

    def record_event(self, event: str, **details: Any) -> None:
        """Append an event to the journal and flush it to the disk.

        Args:
            event: name of the event.
            details: further values, as JSON.
        """
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **details})
        with (self.folder / JOURNAL_FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def check_run_layout(folder: Path) -> None:
    """Check that this version can read a run folder.

    Raises:
        UsageError: The folder has another layout; the message says what to delete.
    """
    if (found := _find_other_layout(folder)) is not None:
        raise UsageError(
            f"the run folder {folder} has {found}, but this skd-edge needs version {LAYOUT_VERSION}; delete the "
            "folder, or choose another folder with --out"
        )


def _repair_journal(journal: Path) -> None:
    """Create the journal if it is missing; end an incomplete last line, so that the next event starts on a new line."""
    with journal.open("a+b") as file:
        if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            file.write(b"\n")


def _link_tree(source: Path, target: Path) -> None:
    """Hard-link the files of a folder to a new folder, atomically; copy them where links are not possible."""
    part = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    part.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and not file.name.startswith("."):
            try:
                os.link(file, part / file.name)
            except OSError:
                shutil.copy2(file, part / file.name)
    shutil.rmtree(target, ignore_errors=True)
    try:
        part.rename(target)
    except OSError:  # another process has made it in the meantime
        shutil.rmtree(part, ignore_errors=True)


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """The events of the journal, oldest first; incomplete lines are skipped.

    Args:
        folder: the run folder.
    """
    events = []
    for line in (folder / JOURNAL_FILE).read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events
