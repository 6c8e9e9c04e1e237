"""Fingerprints of stored clips: a hash of the pixels, a perceptual hash, and small grey pictures.

The perceptual hash is dHash (whether a field is lighter than its left neighbour, in a grid of 8 rows and 9 columns) of
four frames. It proposes pairs of similar clips quickly; the small pictures decide (``copies.py``).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skd_bench.integrity.checked_files import DamagedFileError, read_checked, report_damage, write_checked

_ROWS, _COLUMNS, _FIELDS = 8, 9, 16
_PICTURES, _HASHED = 8, 4  # frames of a clip, evenly spread: small pictures, and those whose hash is taken
HASH_BITS = _HASHED * _ROWS * (_COLUMNS - 1)
_LEVELS = 2.0  # grey levels by which a neighbour must be lighter: noise in flat areas then sets no bit
FINGERPRINT_FILE = "fingerprints.bin"  # of a store; arrays in NumPy's zip format, behind their SHA-256
_BLOCK_BYTES = 4 << 20  # small blocks stay in the CPU cache


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of N clips.

    Attributes:
        exact: ``(N, 16)`` uint8, half of the SHA-256 of the pixels: equal for equal pixels only.
        perceptual: ``(N, HASH_BITS / 8)`` uint8; similar clips differ in few bits.
        pictures: ``(N, 8, 16, 16)`` float16: mean grey of each field of eight frames, 0..255.
    """

    exact: NDArray[np.uint8]
    perceptual: NDArray[np.uint8]
    pictures: NDArray[np.float16]


def compute_fingerprints(clips: NDArray[np.uint8]) -> Fingerprints:
    """Compute the fingerprints of clips ``(N, T, H, W, 3)`` uint8."""
    exact = np.empty((len(clips), 16), np.uint8)
    for row, clip in enumerate(clips):
        digest = hashlib.sha256(np.ascontiguousarray(clip).data).digest()
        exact[row] = np.frombuffer(digest[:16], np.uint8)
    frames = clips[:, np.linspace(0, clips.shape[1] - 1, _PICTURES).round().astype(int)]
    grid = _shrink_frames(frames[:, :: _PICTURES // _HASHED], _ROWS, _COLUMNS)
    bits = grid[..., 1:] - grid[..., :-1] > _LEVELS
    perceptual = np.packbits(bits.reshape(len(clips), HASH_BITS), axis=1)
    return Fingerprints(exact, perceptual, _shrink_frames(frames, _FIELDS, _FIELDS).astype(np.float16))


def _shrink_frames(clips: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.float32]:
    """The mean grey of each field of a grid: clips ``(N, T, H, W, 3)`` become ``(N, T, rows, columns)`` float32."""
    count, frames, height, width, channels = clips.shape
    lines = clips.reshape(-1, width * channels).astype(np.float32)
    pool_columns = _make_pooling(np.repeat(np.arange(width) * columns // width, channels), columns)
    pool_rows = _make_pooling(np.arange(height) * rows // height, rows)
    narrow = (lines @ pool_columns.T).reshape(count, frames, height, columns)
    return np.asarray(pool_rows @ narrow, np.float32)


def _make_pooling(field_of: NDArray[np.int64], fields: int) -> NDArray[np.float32]:
    """A matrix ``(fields, length)`` whose product with a line is the mean of each field; an empty field gives 0."""
    member = (field_of == np.arange(fields)[:, np.newaxis]).astype(np.float32)
    return np.asarray(member / member.sum(axis=1, keepdims=True).clip(1), np.float32)


def load_fingerprints(
    folder: Path, pixel_hash: str, progress: Callable[[int, int], None] | None = None
) -> Fingerprints:
    """The fingerprints of a complete store, in the order of its clips; they are computed once and stored beside it.

    What is stored for other pixels, or is damaged, is computed again.

    Args:
        folder: folder of the store.
        pixel_hash: the hash of its pixels (``StoreInfo``).
        progress: called with (done, total) clips.

    Raises:
        UserError: They cannot be read or written.
    """
    file = folder / FINGERPRINT_FILE
    try:
        if (stored := _read_fingerprints(file, pixel_hash)) is not None:
            return stored
    except DamagedFileError as error:
        report_damage(error, "the clips are compared again")
    clips = np.load(folder / "clips.npy", mmap_mode="r")
    rows = max(_BLOCK_BYTES // max(int(np.prod(clips.shape[1:])), 1), 1)
    blocks = []
    for first in range(0, max(len(clips), 1), rows):
        blocks.append(compute_fingerprints(clips[first : first + rows]))
        if progress:
            progress(min(first + rows, len(clips)), len(clips))
    joined = Fingerprints(
        np.concatenate([block.exact for block in blocks]),
        np.concatenate([block.perceptual for block in blocks]),
        np.concatenate([block.pictures for block in blocks]),
    )
    content = io.BytesIO()
    stored_hash = np.array(pixel_hash)
    np.savez(
        content, pixel_hash=stored_hash, exact=joined.exact, perceptual=joined.perceptual, pictures=joined.pictures
    )
    write_checked(file, content.getvalue())
    return joined


def _read_fingerprints(file: Path, pixel_hash: str) -> Fingerprints | None:
    """The stored fingerprints; None if there are none of these pixels.

    Raises:
        DamagedFileError: The file is damaged.
        UserError: It cannot be read.
    """
    try:
        content = io.BytesIO(read_checked(file))
    except FileNotFoundError:
        return None
    with np.load(content, allow_pickle=False) as stored:
        if str(stored["pixel_hash"]) != pixel_hash:
            return None
        return Fingerprints(stored["exact"], stored["perceptual"], stored["pictures"])
