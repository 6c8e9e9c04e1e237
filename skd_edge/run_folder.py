"""The run folder of ``skd-edge compress`` with its journal and its lock, and the cache that runs share."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from skd_bench.errors import UsageError, UserError
from skd_bench.files import find_user_cache, remove_unfinished_writes, write_atomic
from skd_bench.integrity.checked_files import DamagedFileError, read_and_check_files, report_damage
from skd_edge.run_files.journal import (
    JOURNAL_FILE as JOURNAL_FILE,  # for those who know the journal as a part of the folder
)
from skd_edge.run_files.journal import append_event, repair_journal
from skd_edge.run_files.journal import read_journal as read_journal

# Increase it when files of a cache or a run folder move or change their format, so that older ones are rejected.
LAYOUT_VERSION = 3
LAYOUT_FILE = "layout_version"
JOB_FILE = "job.json"  # the facts of a finished job and the checksums of its other files
RECIPE_FILE = "recipe.yaml"
CROSSVAL_EVENT = "crossval_started"  # in the journal of a cross-validation, whose folds are runs of their own
_RECIPE_CHECKSUM = "# sha256 of the lines above: "


def open_cache() -> Path:
    """The cache: the folder of decoded clips, jobs and teacher outputs that runs share. It is created when missing.

    Its place is that of `find_user_cache`.

    Raises:
        UserError: The cache was written by a version with another layout; the message says what to delete.
    """
    cache = find_user_cache()
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
        self._intact_jobs: set[Path] = set()  # folders of jobs whose files this process has checked or written

    @abstractmethod
    def record_event(self, event: str, **details: Any) -> None:
        """Record an event in the journal, which only the process that holds the run writes."""

    def job_folder(self, job_hash: str) -> Path:
        """The folder of a job in the run, by the hash of the job."""
        return self.folder / "jobs" / job_hash

    def fetch_job(self, job_hash: str) -> bool:
        """Whether the job is finished in this run; a job that another run finished is linked from the cache first.

        The checksums of its files are compared once in each process. A damaged job is deleted, so that it is trained
        again.
        """
        here, there = self.job_folder(job_hash), self.cache / "jobs" / job_hash
        if self._is_intact(here):
            return True
        if not self._is_intact(there):
            return False
        try:
            _link_tree(there, here)
        except FileNotFoundError:  # another process has removed the job from the cache in the meantime
            return False
        return self._is_intact(here)

    def require_job(self, job_hash: str) -> None:
        """Check that a job that was finished before has the files that were written; once in each process.

        Raises:
            UserError: The job is missing or was damaged; a damaged one is deleted, so that it is trained again.
        """
        folder = self.job_folder(job_hash)
        if not self._is_intact(folder):
            raise UserError(
                f"{folder}, a finished job, is missing or was damaged; repeat the command, which trains it again"
            )

    def publish_job(self, job_hash: str) -> None:
        """Link a finished job into the cache, where other runs find it."""
        here, there = self.job_folder(job_hash), self.cache / "jobs" / job_hash
        with suppress(OSError):
            if (here / JOB_FILE).samefile(there / JOB_FILE):
                return
        if not self._is_intact(there):
            _link_tree(here, there)

    def _is_intact(self, folder: Path) -> bool:
        """Whether a folder has a finished job with the files that were written; a damaged one is deleted."""
        if folder in self._intact_jobs and (folder / JOB_FILE).exists():
            return True
        try:
            read_and_check_files(folder / JOB_FILE)
        except FileNotFoundError:
            return False
        except DamagedFileError as error:
            report_damage(error, "the job is trained again")
            self.record_event("damaged", file=str(error.path), reason=str(error))
            shutil.rmtree(folder, ignore_errors=True)  # another process may have noticed it too
            return False
        self._intact_jobs.add(folder)
        return True

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
        recipe: the resolved recipe as YAML; written to ``recipe.yaml``, with a checksum in the last line.
        hide_values: called with the details of each event; returns what may be written into the journal.

    Raises:
        UsageError: The folder has other content or another layout, contains a link, or is not writable.
        UserError: Another process has locked the folder, or the cache has another layout.
    """

    def __init__(
        self, folder: Path, recipe: str, *, hide_values: Callable[[Any], Any] = lambda details: details
    ) -> None:
        super().__init__(folder, open_cache())
        self._hide_values = hide_values
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
        refuse_special_files(folder)
        self._lock = self._acquire_lock()
        _write_layout_version(folder)
        # The journal marks the folder as a run. It comes first, so that a run that is killed here can be continued.
        repair_journal(folder)
        write_atomic(folder / RECIPE_FILE, f"{recipe}{_RECIPE_CHECKSUM}{_hash_text(recipe)}\n")

    def _acquire_lock(self) -> int:
        try:
            handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
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
        else:  # all processes of the run have ended; some may have been killed, in this run or before
            remove_unfinished_writes(self.folder)
        os.close(self._lock)

    def record_event(self, event: str, **details: Any) -> None:
        """Append an event to the journal and flush it to the disk.

        Args:
            event: name of the event.
            details: further values, as JSON.
        """
        append_event(self.folder, event, self._hide_values(details))


def read_run_recipe(folder: Path) -> str:
    """The recipe of a run as YAML; only comments differ from what the user wrote and what was resolved.

    Raises:
        UserError: The file is missing or was changed.
    """
    path = folder / RECIPE_FILE
    remedy = "repeat the skd-edge compress command, which writes it again"
    try:
        text, _, digest = path.read_text(encoding="utf-8", errors="replace").rpartition(_RECIPE_CHECKSUM)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; {remedy}") from None
    if digest != f"{_hash_text(text)}\n":
        raise UserError(f"{path} is not what the run wrote: its checksum differs; {remedy}")
    return text


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def refuse_special_files(folder: Path) -> None:
    """Check that a run folder contains files and folders only.

    Through a link, a run would write outside its folder; a pipe or a device would stop it for ever.

    Raises:
        UsageError: It contains something else.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            with suppress(FileNotFoundError):  # a temporary file of another process
                mode = path.lstat().st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    kind = "a link" if stat.S_ISLNK(mode) else "a device, a pipe or a socket"
                    raise UsageError(
                        f"{path} is {kind}; a run reads and writes only files inside its folder: remove it, or choose "
                        "another folder with --out"
                    )


def check_run_kind(folder: Path, *, crossval: bool) -> None:
    """Check that a folder is not one of the other kind: a single run, or a cross-validation.

    Raises:
        UsageError: It is.
    """
    if not (folder / JOURNAL_FILE).is_file():
        return
    events = {e["event"] for e in read_journal(folder)}
    if crossval and events and CROSSVAL_EVENT not in events:
        raise UsageError(f"{folder} is a run of skd-edge compress; choose another folder for the folds with --out")
    if not crossval and CROSSVAL_EVENT in events:
        raise UsageError(
            f"{folder} is a cross-validation, which ships nothing; for a run with one split choose another --out (its "
            f"folds are runs of their own: {folder / 'folds'})"
        )


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


def _link_tree(source: Path, target: Path) -> None:
    """Hard-link the files of a folder to a new folder, atomically; copy them where links are not possible.

    Raises:
        FileNotFoundError: A file was removed in the meantime.
    """
    part = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    try:
        part.mkdir(parents=True)
        for file in source.iterdir():
            if file.is_file() and not file.is_symlink() and not file.name.startswith("."):
                try:
                    os.link(file, part / file.name)
                except OSError:
                    shutil.copy2(file, part / file.name)
        shutil.rmtree(target, ignore_errors=True)
        with suppress(OSError):  # another process has made it in the meantime
            part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
