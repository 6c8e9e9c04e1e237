"""Files that are either whole or not there: atomic writes, and hashes to know them by."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from pathlib import Path
from uuid import uuid4

from skd_bench.errors import UserError

_PRIVATE_SUFFIX = ".part"


def write_atomic(path: Path | str, data: bytes | str) -> Path:
    """Write a whole file or nothing: a temporary file beside it, fsync, then a rename over the name.

    Args:
        path: Where the file goes. Its folder is made when missing; a file already there is replaced.
        data: The content; text is written as UTF-8 with the newlines it has.

    Returns:
        The path that was written.

    Raises:
        UserError: The folder or the file cannot be written (permissions, full disk, a folder of that name).
    """
    path = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    # A name of our own instead of mkstemp: that one forces mode 0600, and a bundle is there to be shared.
    temporary = path.with_name(f".{path.name[:100]}.{uuid4().hex[:12]}{_PRIVATE_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that you may write and that has room",
            exit_code=75 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 1,  # 75: paused; more room is all it needs
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the file system offers that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path | str, obj: object) -> Path:
    """Write an object as readable JSON (two spaces, UTF-8, a final newline), atomically.

    Args:
        path: Where the file goes.
        obj: Anything `json` can write. Key order is kept, so equal objects give equal bytes.

    Returns:
        The path that was written.

    Raises:
        UserError: The file cannot be written.
        ValueError: The object holds NaN or an infinity, which JSON does not know.
        TypeError: The object holds something JSON does not know.
    """
    return write_atomic(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_file(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, read in pieces.

    Args:
        path: The file.

    Returns:
        64 lower-case hexadecimal digits.

    Raises:
        UserError: The file is missing or cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
