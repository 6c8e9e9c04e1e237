"""Checks a complete clip store before it is used, and prepares a damaged one to be built again.

Every clip has a CRC-32 in ``clips.crc32``, and all clips are compared when the store is opened: then damage is found
before anything is trained on it, and it can be repaired. CRC-32 because it is several times as fast as reading from a
disk or computing a SHA-256; it finds accidents, and who could forge it could also replace the whole store. The reading
itself is not wasted: the pages that it brings into memory are those that the training reads next.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skd_bench.files import write_atomic
from skd_bench.integrity.checked_files import DamagedFileError, read_checked, read_checked_json, report_damage
from skd_edge.data.store.builder import (
    BUILD_STATE,
    CHECKSUM_FILE,
    GOOD,
    PARTIAL_PIXEL_FILE,
    PIXEL_FILE,
    STATE_FILE,
    STORE_FILE,
    TODO,
    StoreInfo,
    find_changed_rows,
    lock_store,
)
from skd_edge.data.store.fingerprints import FINGERPRINT_FILE

_MAX_NAMED_ROWS = 3  # in messages


def read_intact_store(folder: Path) -> StoreInfo | None:
    """The content of ``store.json`` if the store is complete and none of its files is damaged, else None.

    A damaged store is changed into an unfinished build, which `build_store` finishes: damaged clips are decoded again,
    or all clips where some could not be read or a file was cut.

    Raises:
        UserError: A file cannot be read.
        OSError: The folder cannot be written.
    """
    try:
        return _check_store(folder)
    except FileNotFoundError:
        return None
    except DamagedFileError:
        with lock_store(folder):
            return _check_and_reopen(folder)


def _check_and_reopen(folder: Path) -> StoreInfo | None:
    """Check again, under the lock: another process may have repaired the store in the meantime."""
    try:
        return _check_store(folder)
    except FileNotFoundError:
        return None
    except _DamagedClipsError as error:
        report_damage(error, "these clips are decoded again")
        _reopen_build(folder, error)
    except DamagedFileError as error:
        report_damage(error, "the clips are decoded again")
        _discard_store(folder)
    return None


class _DamagedClipsError(DamagedFileError):
    """Some clips of a store are damaged, and its other files are not."""

    def __init__(self, path: Path, rows: list[int], checksums: NDArray[np.uint32], *, has_gaps: bool) -> None:
        named = ", ".join(map(str, rows[:_MAX_NAMED_ROWS])) + (", ..." if len(rows) > _MAX_NAMED_ROWS else "")
        super().__init__(path, f"the CRC-32 of {len(checksums)} clips", f"another one in {len(rows)} (rows {named})")
        self.rows, self.checksums, self.has_gaps = rows, checksums, has_gaps


def _check_store(folder: Path) -> StoreInfo:
    """Read ``store.json`` and compare all clips.

    Raises:
        FileNotFoundError: There is no ``store.json``.
        DamagedFileError: A file is damaged.
    """
    content = read_checked_json(folder / STORE_FILE)
    info = StoreInfo(
        hash=content["hash"], clips=content["clips"], bad=content["bad"], quarantined=content["quarantined"]
    )
    pixel_file = folder / PIXEL_FILE
    try:
        checksums = np.frombuffer(read_checked(folder / CHECKSUM_FILE), np.uint32)
        pixels: NDArray[np.uint8] = np.load(pixel_file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DamagedFileError(Path(error.filename), "the file", "no file") from None
    except (ValueError, EOFError) as error:
        raise DamagedFileError(pixel_file, "an array of clips", str(error).splitlines()[0][:200]) from None
    if list(pixels.shape) != content["shape"] or pixels.dtype != np.uint8 or len(checksums) != info["clips"]:
        raise DamagedFileError(pixel_file, f"an array of shape {content['shape']}", f"{list(pixels.shape)}")
    if rows := find_changed_rows(pixels, range(len(checksums)), checksums):
        raise _DamagedClipsError(pixel_file, rows, checksums, has_gaps=bool(info["bad"]))
    return info


def _reopen_build(folder: Path, damaged: _DamagedClipsError) -> None:
    """Make a complete store an unfinished build in which only the damaged clips are missing.

    A build that left unreadable clips out starts anew: other rows would have to move, under the eyes of other processes
    that may use the store.
    """
    if damaged.has_gaps:
        _discard_store(folder)
        return
    for name in (STORE_FILE, FINGERPRINT_FILE):
        (folder / name).unlink(missing_ok=True)
    (folder / PIXEL_FILE).replace(folder / PARTIAL_PIXEL_FILE)
    state = np.zeros(len(damaged.checksums), BUILD_STATE)
    state["crc32"], state["state"] = damaged.checksums, GOOD
    state["state"][damaged.rows] = TODO
    write_atomic(folder / STATE_FILE, state.tobytes())


def _discard_store(folder: Path) -> None:
    for name in (STORE_FILE, FINGERPRINT_FILE, CHECKSUM_FILE, PIXEL_FILE):
        (folder / name).unlink(missing_ok=True)
