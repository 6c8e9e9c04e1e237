"""The run folder: one ``compress``, its journal, its lock, and the cache of jobs that runs share."""

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
# Raised when files of a cache or a run folder change their place or their form: older ones are refused, not read wrongly.
LAYOUT_VERSION = 2
LAYOUT_FILE = "layout_version"


def open_cache() -> Path:
    """The folder of decoded clips, jobs and teacher outputs that runs share (``SKD_EDGE_CACHE``), made when missing.

    Raises:
        UserError: It holds the files of another version; says what to delete.
    """
    given = os.environ.get("SKD_EDGE_CACHE")
    cache = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "skd-edge"
    if (found := _find_other_layout(cache)) is not None:
        raise UserError(
            f"the cache {cache} has {found}, this skd-edge needs version {LAYOUT_VERSION}; delete the folder (it holds "
            "nothing that cannot be made again), or name another one with SKD_EDGE_CACHE"
        )
    with suppress(OSError):  # whoever writes into the cache reports it
        _write_layout_version(cache)
    return cache


def _find_other_layout(folder: Path) -> str | None:
    """The layout of a folder that this version cannot use, in words; None where the folder is new, or fits."""
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
    """A run folder as everybody sees it who trains for it, and the cache that runs share.

    Args:
        folder: the run folder.
        cache: see `open_cache`.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache

    @abstractmethod
    def record_event(self, event: str, **details: Any) -> None:
        """Note one event; the journal itself has one writer, the process that holds the run."""

    def job_folder(self, job_hash: str) -> Path:
        """The folder of the job with this hash, in the run."""
        return self.folder / "jobs" / job_hash

    def fetch_job(self, job_hash: str) -> bool:
        """Whether the job is finished here, after linking it from the cache where another run finished it."""
        here, there = self.job_folder(job_hash), self.cache / "jobs" / job_hash
        if (here / "job.json").exists():
            return True
        if not (there / "job.json").exists():
            return False
        _link_tree(there, here)
        return True

    def publish_job(self, job_hash: str) -> None:
        """Offer a finished job to other runs."""
        if not (self.cache / "jobs" / job_hash / "job.json").exists():
            _link_tree(self.job_folder(job_hash), self.cache / "jobs" / job_hash)

    def teacher_outputs_folder(self, job_hash: str, views: str) -> Path:
        """Where the answers of a job's network to these views are kept."""
        return self.cache / "teachers" / job_hash / views


class Run(RunFolder):
    """A run folder that this process holds.

    Use as a context manager: the lock is let go at the end.

    Args:
        folder: made when missing; an existing folder must be empty or a run of ours.
        recipe: the resolved recipe's YAML, kept as ``recipe.yaml``.

    Raises:
        UsageError: The folder holds something else, or cannot be written.
        UserError: Another process works in it.
    """

    def __init__(self, folder: Path, recipe: str) -> None:
        super().__init__(folder, open_cache())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            others = any(path.name not in {".lock", LAYOUT_FILE} for path in folder.iterdir())
        except OSError as error:
            raise UsageError(
                f"cannot use {folder} as the run folder: {error.strerror}; choose another with --out"
            ) from None
        if others and not (folder / JOURNAL_FILE).exists():
            raise UsageError(f"{folder} is not empty and is not a run of skd-edge; choose a new folder with --out")
        check_run_layout(folder)
        self._lock = self._acquire_lock()
        _write_layout_version(folder)
        _repair_journal(
            folder / JOURNAL_FILE
        )  # before anything else is written: a run that is killed here is still ours
        write_atomic(folder / "recipe.yaml", recipe)

    def _acquire_lock(self) -> int:
        try:
            handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = (self.folder / ".lock").read_text() or "unknown"
            raise UserError(
                f"another process (pid {holder}) works in {self.folder}; wait for it, or choose another with --out"
            ) from None
        except OSError as error:
            raise UsageError(f"cannot write in {self.folder}: {error.strerror}; choose another with --out") from None
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        return handle

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with suppress(OSError):  # a full disk, say: what stopped the run stays what is told
                self.record_event("stopped", reason=str(error) or type(error).__name__)
        os.close(self._lock)

    def record_event(self, event: str, **details: Any) -> None:
        """Append one line to the journal and make it last."""
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **details})
        with (self.folder / JOURNAL_FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def check_run_layout(folder: Path) -> None:
    """Refuse a run folder whose files another version wrote.

    Raises:
        UsageError: Its layout is not this version's; says what to delete.
    """
    if (found := _find_other_layout(folder)) is not None:
        raise UsageError(
            f"the run folder {folder} has {found}, this skd-edge needs version {LAYOUT_VERSION}; delete the folder, or "
            "choose another with --out"
        )


def _repair_journal(journal: Path) -> None:
    """Make the journal when missing, and end a line that a killed run left half-written, so that it spoils no other."""
    with journal.open("a+b") as file:
        if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            file.write(b"\n")


def _link_tree(source: Path, target: Path) -> None:
    """Hard-link a finished folder (copy where the file system cannot link), whole or not at all."""
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
    except OSError:  # another run was faster
        shutil.rmtree(part, ignore_errors=True)


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """The journal's events, oldest first; a last line that was cut off is left out."""
    events = []
    for line in (folder / JOURNAL_FILE).read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events
