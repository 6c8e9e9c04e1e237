"""Builds a clip store: every clip is decoded once, in parallel, into its row of one file.

An interrupted build continues later. For this, ``state.part`` holds one byte for each clip (to do, decoded or
unreadable) and the CRC-32 of the pixels of a decoded one, and ``bad.part.jsonl`` one line with the reason for each
unreadable clip. A byte is written only after the pixels or the reason are on the disk.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from skd_bench.device.child_process import require_child_processes
from skd_bench.errors import UserError
from skd_bench.integrity.checked_files import DamagedFileError, report_damage, write_checked, write_checked_json
from skd_bench.video.types import ClipSpan, Preprocessing, Sampling
from skd_edge.data.sources.listing import ClipEntry
from skd_edge.data.store.decode_task import DecoderName, count_row_bytes, make_clip_decoder
from skd_edge.data.store.fingerprints import FINGERPRINT_FILE
from skd_edge.data.store.torchcodec import require_torchcodec
from skd_edge.data.store.worker_pool import WorkerPool

Progress = Callable[[int, int], None]
CLIP_TIMEOUT_S = 60.0  # time limit for a clip, plus one second for every _BYTES_PER_EXTRA_SECOND of its file
_BYTES_PER_EXTRA_SECOND = 4 << 20
_SYNC_INTERVAL_S = 10.0  # at most so much decoding is lost by a power failure
STORE_FILE, PIXEL_FILE, CHECKSUM_FILE = "store.json", "clips.npy", "clips.crc32"
PARTIAL_PIXEL_FILE, STATE_FILE, _REASONS_FILE = "clips.part.npy", "state.part", "bad.part.jsonl"
TODO, GOOD, BAD = 0, 1, 2  # the states of clips in state.part
BUILD_STATE = np.dtype([("state", "u1"), ("crc32", "<u4")])  # of a clip in state.part
_HASH_BLOCK_BYTES = 64 << 20  # bytes that are hashed at a time


@dataclass(frozen=True)
class Decoding:
    """How clips are decoded; none of it but the first three changes a pixel.

    Attributes:
        sampling: which frames of a clip are decoded.
        preprocess: size in pixels, and how frames are fitted to it.
        decoder: the library that decodes.
        processes: number of decoding processes; None: one for each core.
        timeout: seconds that a clip may take; large files get more time.
        progress: called with (done, total).
    """

    sampling: Sampling
    preprocess: Preprocessing
    decoder: DecoderName = "pyav"
    processes: int | None = None
    timeout: float = CLIP_TIMEOUT_S
    progress: Progress | None = None


class QuarantinedClip(TypedDict):
    """An unreadable clip: its path relative to the data's root, and the reason."""

    path: str
    reason: str


class StoreInfo(TypedDict):
    """Content of ``store.json``.

    Attributes:
        hash: SHA-256 of the pixels.
        clips: Number of readable clips.
        bad: Positions of the unreadable clips among the entries.
        quarantined: The unreadable clips, in the order of ``bad``.
    """

    hash: str
    clips: int
    bad: list[int]
    quarantined: list[QuarantinedClip]


def build_store(folder: Path, entries: Sequence[ClipEntry], decoding: Decoding) -> None:
    """Build the store of some clips in a folder, or finish an interrupted build; a complete store is left unchanged.

    Writes ``clips.npy``, the readable clips ``(N, T, H, W, 3)`` uint8 in the order of their entries, their CRC-32 in
    ``clips.crc32``, and then ``store.json``: the hash of the pixels, and the unreadable clips with reasons.

    Args:
        folder: folder of the store; created if it does not exist.
        entries: the clips.
        decoding: how they are decoded.

    Raises:
        UserError: The disk is full, the folder cannot be written, the decoder is not installed, or this process may
            not start others.
    """
    if decoding.decoder == "torchcodec":
        require_torchcodec()
    size_mb = count_row_bytes(decoding.sampling, decoding.preprocess) * len(entries) / 1e6
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock_store(folder, len(entries), decoding.progress):
            if not (folder / STORE_FILE).exists():
                require_child_processes(f"the clip store {folder}")
                _StoreBuilder(folder, entries, decoding).run()
    except OSError as error:
        raise UserError(
            f"cannot build the clip store {folder}: {error.strerror or error}; the store needs "
            f"{size_mb:.0f} MB; free some space, or set SKD_EDGE_CACHE to another folder",
            exit_code=75 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 1,  # 75: paused, continues with more space
        ) from error


class _StoreBuilder:
    """A store while it is built; continues from the files of an interrupted build."""

    def __init__(self, folder: Path, entries: Sequence[ClipEntry], decoding: Decoding) -> None:
        self.folder, self.entries, self.decoding = folder, entries, decoding
        self.sampling, self.preprocess, self.decoder = decoding.sampling, decoding.preprocess, decoding.decoder
        self.partial_file, self.reasons_file = folder / PARTIAL_PIXEL_FILE, folder / _REASONS_FILE
        state_file, state_bytes = folder / STATE_FILE, len(entries) * BUILD_STATE.itemsize
        shape = (len(entries), self.sampling.frames, self.preprocess.height, self.preprocess.width, 3)
        if not (_has_shape(self.partial_file, shape) and _count_bytes(state_file) == state_bytes):
            state_file.unlink(missing_ok=True)
            self.reasons_file.unlink(missing_ok=True)
            np.lib.format.open_memmap(self.partial_file, mode="w+", dtype=np.uint8, shape=shape)  # creates the file
            _reserve_disk_space(self.partial_file)
            state_file.write_bytes(bytes(state_bytes))
        clip_states = np.memmap(state_file, BUILD_STATE, "r+", shape=(len(entries),))
        self.state: NDArray[np.uint8] = clip_states["state"]
        self.checksums: NDArray[np.uint32] = clip_states["crc32"]
        self.clip_states = clip_states
        self.reasons = _read_reasons(self.reasons_file)
        self._forget_damaged_clips()

    def _forget_damaged_clips(self) -> None:
        """Mark clips of an interrupted build as to do where pixels, reason or state are not what was written."""
        pixels = np.load(self.partial_file, mmap_mode="r")
        good = np.flatnonzero(self.state == GOOD)
        if changed := find_changed_rows(pixels, good.tolist(), self.checksums[good]):
            found = f"another one in {len(changed)}"
            error = DamagedFileError(self.partial_file, f"the CRC-32 of {len(good)} clips", found)
            report_damage(error, "these clips are decoded again")
            self.state[changed] = TODO
        # Without a reason: its line was cut by a kill.
        without_reason = [i for i in np.flatnonzero(self.state == BAD).tolist() if i not in self.reasons]
        self.state[without_reason] = TODO
        self.state[self.state > BAD] = TODO

    def run(self) -> None:
        """Decode the remaining clips, then finish the store."""
        todo = np.flatnonzero(self.state == TODO)
        if len(todo):
            self._decode_clips(todo)
        self._finish_store()

    def _decode_clips(self, todo: NDArray[np.int64]) -> None:
        progress, timeout = self.decoding.progress, self.decoding.timeout
        done, total = len(self.state) - len(todo), len(self.state)
        tasks = ((i, (str(self.entries[i].path), self.entries[i].span)) for i in todo.tolist())
        pool = WorkerPool(
            make_clip_decoder,
            (self.partial_file, self.sampling, self.preprocess, self.decoder),
            processes=self.decoding.processes or _choose_process_count(len(todo)),
            task_timeout=lambda task: limit_decoding_time(timeout, *task),
        )
        unsynced: dict[int, int] = {}  # states of clips that are decoded since the last sync
        synced = time.monotonic()
        with self.reasons_file.open("a", encoding="utf-8") as log:
            try:
                for done, (i, reason) in enumerate(pool.run(tasks), done + 1):  # noqa: B020
                    unsynced[i] = GOOD
                    if reason is not None:
                        unsynced[i], self.reasons[i] = BAD, reason
                        log.write(json.dumps({"entry": i, "reason": reason}) + "\n")
                    if progress:
                        progress(done, total)
                    if time.monotonic() - synced > _SYNC_INTERVAL_S:
                        self._sync_to_disk(unsynced, log)
                        synced = time.monotonic()
            finally:
                self._sync_to_disk(unsynced, log)

    def _sync_to_disk(self, unsynced: dict[int, int], log: Any) -> None:
        """Flush pixels and reasons, and only then set the states of these clips; empties ``unsynced``."""
        with self.partial_file.open("rb") as file:
            os.fsync(file.fileno())
        log.flush()
        os.fsync(log.fileno())
        pixels, rows = np.load(self.partial_file, mmap_mode="r"), list(unsynced)
        # 0 for an unreadable clip: if its state were changed to good by accident, its pixels would not fit.
        self.checksums[rows] = [zlib.crc32(pixels[row].data) if unsynced[row] == GOOD else 0 for row in rows]
        self.state[rows] = list(unsynced.values())
        self.clip_states.flush()
        unsynced.clear()

    def _finish_store(self) -> None:
        """Move the readable clips together, hash the pixels, and write ``store.json``, which completes the store."""
        good, bad = np.flatnonzero(self.state == GOOD), np.flatnonzero(self.state == BAD).tolist()
        pixels = np.lib.format.open_memmap(self.partial_file, mode="r+")
        checksums = self.checksums[good].astype("<u4")
        if bad:
            (self.folder / STATE_FILE).unlink()  # rows move now: a build killed here starts anew
            for row in range(bad[0], len(good)):
                pixels[row] = pixels[good[row]]
            pixels.flush()
        digest = hashlib.sha256()
        rows = max(_HASH_BLOCK_BYTES // max(count_row_bytes(self.sampling, self.preprocess), 1), 1)
        for first in range(0, len(good), rows):
            digest.update(np.ascontiguousarray(pixels[first : min(first + rows, len(good))]).data)
        (self.folder / FINGERPRINT_FILE).unlink(missing_ok=True)
        self.partial_file.replace(self.folder / PIXEL_FILE)
        write_checked(self.folder / CHECKSUM_FILE, checksums.tobytes())
        quarantined: list[QuarantinedClip] = [{"path": self.entries[i].name, "reason": self.reasons[i]} for i in bad]
        store_info: StoreInfo = {"hash": digest.hexdigest(), "clips": len(good), "bad": bad, "quarantined": quarantined}
        write_checked_json(self.folder / STORE_FILE, {**store_info, "shape": list(pixels.shape)})
        for name in (STATE_FILE, _REASONS_FILE):
            (self.folder / name).unlink(missing_ok=True)


def find_changed_rows(pixels: NDArray[np.uint8], rows: Sequence[int], checksums: NDArray[np.uint32]) -> list[int]:
    """The rows whose CRC-32 is not the given one.

    Args:
        pixels: ``(N, T, H, W, 3)``.
        rows: R rows to check.
        checksums: ``(R,)``, the CRC-32 that each of these rows should have.
    """
    expected = zip(rows, checksums.tolist(), strict=True)
    return [row for row, checksum in expected if zlib.crc32(pixels[row].data) != checksum]


def _has_shape(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether a file is a complete array of this shape, uint8."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return bool(array.shape == shape and array.dtype == np.uint8)


def _count_bytes(path: Path) -> int:
    """Size of a file; -1 if there is none."""
    return path.stat().st_size if path.exists() else -1


def _choose_process_count(tasks: int) -> int:
    """One process for each core, but only one for every 16 clips, because starting a process takes time."""
    return min(len(os.sched_getaffinity(0)), max(tasks // 16, 1))


def limit_decoding_time(timeout: float, path: str, span: ClipSpan) -> float:
    """The seconds that decoding a clip may take: ``timeout``, and more for a large file."""
    return timeout + _count_source_bytes(path, span) / _BYTES_PER_EXTRA_SECOND


def _count_source_bytes(path: str, span: ClipSpan) -> int:
    """Size of a clip's video in bytes; 0 if it is unknown."""
    with suppress(OSError, ValueError):
        return span.size or os.stat(path).st_size
    return 0


def _reserve_disk_space(path: Path) -> None:
    """Allocate the file's blocks now, so that a full disk is an error before hours of decoding, not after.

    Raises:
        OSError: The disk is full; the file is removed.
    """
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                path.unlink()
                raise


def _read_reasons(path: Path) -> dict[int, str]:
    """Reasons of an interrupted build by the clip's position."""
    reasons: dict[int, str] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # cut by a kill, or damaged
                row = json.loads(line)
                reasons[row["entry"]] = row["reason"]
    return reasons


@contextmanager
def lock_store(folder: Path, total: int = 0, progress: Progress | None = None) -> Iterator[None]:
    """Lock a store while it is built; a second process that needs it waits and shows the progress of the first."""
    with (folder / "lock").open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with suppress(OSError, ValueError):
                    clip_states = np.fromfile(folder / STATE_FILE, BUILD_STATE)
                    if progress:
                        progress(int(np.count_nonzero(clip_states["state"])), total)
                time.sleep(0.5)
            else:
                break
        yield
