"""Building a store: every clip decoded once, in parallel, into its row of one file; interrupted, it goes on later.

Beside the pixels lies one byte a clip, done or not, and a line for each that cannot be read. Bytes are written after
the pixels that they speak of have reached the disk.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_bench.files import write_json
from skd_bench.video.types import ClipSpan, Preprocessing, Sampling
from skd_edge.data.sources.listing import ClipEntry
from skd_edge.data.store.decode_task import DecoderName, count_row_bytes, make_clip_decoder
from skd_edge.data.store.torchcodec import require_torchcodec
from skd_edge.data.store.worker_pool import WorkerPool

Progress = Callable[[int, int], None]
CLIP_TIMEOUT_S = 60.0  # seconds that a clip may take, and one more for every _PACE bytes of it
_BYTES_PER_EXTRA_SECOND = 4 << 20
_SYNC_INTERVAL_S = 10.0  # seconds between two moments that a power cut goes back to
_TODO, _GOOD, _BAD = 0, 1, 2
_HASH_BLOCK_BYTES = 64 << 20  # bytes that are hashed at a time


def build_store(
    folder: Path,
    entries: Sequence[ClipEntry],
    sampling: Sampling,
    preprocess: Preprocessing,
    *,
    decoder: DecoderName = "pyav",
    processes: int | None = None,
    timeout: float = CLIP_TIMEOUT_S,
    progress: Progress | None = None,
) -> None:
    """Fill the folder of a store; readable clips stand in ``clips.npy`` in the order of their entries.

    Args:
        folder: of the store.
        entries: its clips.
        sampling: which frames.
        preprocess: which size.
        decoder: what decodes.
        processes: how many decode; None: one for each core.
        timeout: seconds that a clip may take.
        progress: called with (done, total).

    Raises:
        UserError: The disk is full, the folder cannot be written, or what should decode is not installed.
    """
    if decoder == "torchcodec":
        require_torchcodec()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock_store(folder, len(entries), progress):
            if not (folder / "store.json").exists():
                _StoreBuilder(folder, entries, sampling, preprocess, decoder).run(processes, timeout, progress)
    except OSError as error:
        raise UserError(
            f"cannot build the clip store {folder}: {error.strerror or error}; the cache needs room for "
            f"{count_row_bytes(sampling, preprocess) * len(entries) / 1e6:.0f} MB (SKD_EDGE_CACHE puts it elsewhere)",
            exit_code=75 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 1,  # 75: paused; room is all it needs
        ) from error


class _StoreBuilder:
    """One store on its way, found as an earlier run left it."""

    def __init__(
        self,
        folder: Path,
        entries: Sequence[ClipEntry],
        sampling: Sampling,
        preprocess: Preprocessing,
        decoder: DecoderName,
    ) -> None:
        self.folder, self.entries, self.sampling, self.preprocess, self.decoder = (
            folder,
            entries,
            sampling,
            preprocess,
            decoder,
        )
        self.partial_file, self.reasons_file = folder / "clips.part.npy", folder / "bad.part.jsonl"
        state = folder / "state.part"
        shape = (len(entries), sampling.frames, preprocess.height, preprocess.width, 3)
        if not (self.partial_file.exists() and state.exists() and state.stat().st_size == len(entries)):
            state.unlink(missing_ok=True)
            self.reasons_file.unlink(missing_ok=True)
            del_me = np.lib.format.open_memmap(self.partial_file, mode="w+", dtype=np.uint8, shape=shape)
            del del_me
            _reserve_disk_space(self.partial_file)
            state.write_bytes(bytes(len(entries)))
        self.state: NDArray[np.uint8] = np.memmap(state, np.uint8, "r+", shape=(len(entries),))
        self.reasons = _read_reasons(self.reasons_file)
        lost = [i for i in np.flatnonzero(self.state == _BAD).tolist() if i not in self.reasons]
        self.state[lost] = _TODO

    def run(self, processes: int | None, timeout: float, progress: Progress | None) -> None:
        """Decode what is left, then put the file in order."""
        todo = np.flatnonzero(self.state == _TODO)
        if len(todo):
            self._decode_clips(todo, processes or _choose_process_count(len(todo)), timeout, progress)
        self._finish_store()

    def _decode_clips(self, todo: NDArray[np.int64], processes: int, timeout: float, progress: Progress | None) -> None:
        done, total = len(self.state) - len(todo), len(self.state)
        tasks = ((i, (str(self.entries[i].path), self.entries[i].span)) for i in todo.tolist())
        pool = WorkerPool(
            make_clip_decoder,
            (self.partial_file, self.sampling, self.preprocess, self.decoder),
            processes=processes,
            task_timeout=lambda task: timeout + _count_source_bytes(*task) / _BYTES_PER_EXTRA_SECOND,
        )
        fresh: dict[int, int] = {}
        synced = time.monotonic()
        with self.reasons_file.open("a", encoding="utf-8") as log:
            try:
                for done, (i, reason) in enumerate(pool.run(tasks), done + 1):  # noqa: B020
                    fresh[i] = _GOOD
                    if reason is not None:
                        fresh[i], self.reasons[i] = _BAD, reason
                        log.write(json.dumps({"entry": i, "reason": reason}) + "\n")
                    if progress:
                        progress(done, total)
                    if time.monotonic() - synced > _SYNC_INTERVAL_S:
                        self._sync_to_disk(fresh, log)
                        synced = time.monotonic()
            finally:
                self._sync_to_disk(fresh, log)

    def _sync_to_disk(self, fresh: dict[int, int], log: Any) -> None:
        """First the pixels and the reasons, then the bytes that say that they are there."""
        with self.partial_file.open("rb") as file:
            os.fsync(file.fileno())
        log.flush()
        os.fsync(log.fileno())
        self.state[list(fresh)] = list(fresh.values())
        self.state.flush()  # type: ignore[attr-defined]
        fresh.clear()

    def _finish_store(self) -> None:
        """Close the gaps that unreadable clips left, hash, and write the card that makes this a store."""
        good, bad = np.flatnonzero(self.state == _GOOD), np.flatnonzero(self.state == _BAD).tolist()
        pixels = np.lib.format.open_memmap(self.partial_file, mode="r+")
        if bad:
            (self.folder / "state.part").unlink()  # killed from here on, the store is begun anew
            for row in range(bad[0], len(good)):
                pixels[row] = pixels[good[row]]
            pixels.flush()
        digest, rows = (
            hashlib.sha256(),
            max(_HASH_BLOCK_BYTES // max(count_row_bytes(self.sampling, self.preprocess), 1), 1),
        )
        for first in range(0, len(good), rows):
            digest.update(np.ascontiguousarray(pixels[first : min(first + rows, len(good))]).data)
        self.partial_file.replace(self.folder / "clips.npy")
        quarantined = [{"path": self.entries[i].name, "reason": self.reasons[i]} for i in bad]
        store_info = {"hash": digest.hexdigest(), "clips": len(good), "bad": bad, "quarantined": quarantined}
        write_json(self.folder / "store.json", store_info)
        for name in ("state.part", "bad.part.jsonl"):
            (self.folder / name).unlink(missing_ok=True)


def _choose_process_count(tasks: int) -> int:
    """As many processes as there are cores, and enough clips to make starting them worth it."""
    return min(len(os.sched_getaffinity(0)), max(tasks // 16, 1))


def _count_source_bytes(path: str, span: ClipSpan) -> int:
    with suppress(OSError, ValueError):
        return span.size or os.stat(path).st_size
    return 0


def _reserve_disk_space(path: Path) -> None:
    """Take the room on the disk now: a full disk is said before hours of decoding, not after."""
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                path.unlink()
                raise


def _read_reasons(path: Path) -> dict[int, str]:
    reasons: dict[int, str] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # the last line of a run that was killed
                row = json.loads(line)
                reasons[row["entry"]] = row["reason"]
    return reasons


@contextmanager
def _lock_store(folder: Path, total: int, progress: Progress | None) -> Iterator[None]:
    """One run builds a store; another that wants the same one waits, and shows how far the first has come."""
    with (folder / "lock").open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with suppress(OSError, ValueError):
                    state = np.fromfile(folder / "state.part", np.uint8)
                    if progress:
                        progress(int(np.count_nonzero(state)), total)
                time.sleep(0.5)
            else:
                break
        yield
