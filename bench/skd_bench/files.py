"""Atomic file writes, which leave either the whole file or none; reading of regular files only; SHA-256 of files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO, TextIO
from uuid import uuid4

from skd_bench.errors import UserError

_PRIVATE_SUFFIX = ".part"
_PRIVATE_FILE = re.compile(rf"\..+\.[0-9a-f]{{12}}\{_PRIVATE_SUFFIX}", re.DOTALL)
_BLOCK_BYTES = 1 << 20
# O_NONBLOCK: without it, opening a pipe waits for somebody to write. It does not change how regular files are read.
# O_BINARY exists on Windows only, and the others do not exist there.
_READ_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_SURROGATE = re.compile("[\ud800-\udfff]")


def find_user_cache() -> Path:
    """This user's cache: ``SKD_EDGE_CACHE``, or ``skd-edge`` in ``XDG_CACHE_HOME`` (default ``~/.cache``)."""
    if given := os.environ.get("SKD_EDGE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "skd-edge"


def write_atomic(path: Path | str, data: bytes | str) -> Path:
    """Write a file atomically: a temporary file in the same folder, fsync, then a rename.

    Args:
        path: The file to write. A missing folder is created; an existing file is replaced.
        data: The content. Text is encoded as UTF-8; its newlines are not changed. A file's name that is not UTF-8, as
            Python holds it (surrogateescape), gets its own bytes back.

    Returns:
        The path that was written.

    Raises:
        UserError: The folder or the file cannot be written (permissions, full disk, a folder, link, device or pipe with
            that name). After a full disk, `exit_code` is 75.
    """
    path = Path(path)
    content = _encode_text(data) if isinstance(data, str) else data
    # Not mkstemp: it sets mode 0600, and other users must be able to read a bundle.
    temporary = path.with_name(f".{path.name[:100]}.{uuid4().hex[:12]}{_PRIVATE_SUFFIX}")
    _refuse_special_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        disk_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; choose a folder with write permission and free space",
            exit_code=75 if disk_full else 1,  # 75: the work can be resumed once there is space
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def remove_unfinished_writes(folder: Path) -> None:
    """Remove the temporary files that killed processes have left below a folder (see `write_atomic`).

    Args:
        folder: A folder that no other process is writing to.
    """
    for parent, _, names in os.walk(folder):
        for name in filter(_PRIVATE_FILE.fullmatch, names):
            with contextlib.suppress(OSError):
                Path(parent, name).unlink()


def _encode_text(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair, which only a JSON file can hold
        return text.encode("utf-8", "backslashreplace")


def _refuse_special_file(path: Path) -> None:
    """Raise UserError where something other than a file or a folder has the name: a rename would replace /dev/null."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):  # missing; other reasons are reported by the write itself
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "a device, a pipe or a socket"
        raise UserError(f"cannot write {path}: it is {kind}, which would be replaced; give the name of a file")


def _sync_folder(folder: Path) -> None:
    """Make the rename survive a power failure, on file systems that support it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path | str, obj: object) -> Path:
    """Write an object as readable JSON (two spaces, UTF-8, a final newline), atomically.

    Args:
        path: The file to write.
        obj: Anything that `json` can write. Keys stay in their order, so equal objects give equal bytes.

    Returns:
        The path that was written.

    Raises:
        UserError: The file cannot be written.
        ValueError: The object holds NaN or an infinity, which JSON cannot represent.
        TypeError: The object holds a type that JSON cannot represent.
    """
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    # Names that are not UTF-8: JSON holds them as escapes, so that reading gives the same text.
    return write_atomic(path, _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


def open_regular_file(path: Path | str) -> io.BufferedReader:
    """Open a file to read its bytes. A pipe, which may never end, and a device are refused before anything is read.

    Raises:
        OSError: The file cannot be opened or is not a regular file; `strerror` is the reason.
    """
    try:
        handle = os.open(path, _READ_FLAGS)
    except ValueError as error:  # a NUL character
        raise OSError(errno.EINVAL, "this is not a file's name", str(path)) from error
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device; give a regular file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def open_regular_text(
    path: Path | str, encoding: str = "utf-8", *, errors: str = "strict", newline: str | None = None
) -> TextIO:
    """Open a file to read its text: see `open_regular_file`."""
    return io.TextIOWrapper(open_regular_file(path), encoding, errors, newline)


def read_regular_file(path: Path | str, max_bytes: int) -> bytes:
    """Read a whole file of limited size.

    Args:
        path: The file.
        max_bytes: The largest size.

    Raises:
        OSError: See `open_regular_file`; or the file is larger.
    """
    with open_regular_file(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        limit = f"{max_bytes >> 20} MiB" if max_bytes >= 1 << 20 else f"{max_bytes >> 10} KiB"
        raise OSError(errno.EFBIG, f"it is larger than {limit}, the most that such a file may have", str(path))
    return content


def sha256_file(path: Path | str) -> str:
    """Compute the SHA-256 of a file without loading it whole.

    Args:
        path: The file.

    Returns:
        64 lower-case hexadecimal digits.

    Raises:
        UserError: The file is missing or cannot be read.
    """
    try:
        with open_regular_file(path) as file:
            return sha256_of_open_file(file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def sha256_of_open_file(file: BinaryIO) -> str:
    """The SHA-256 of an open file from its position on, 64 lower-case hexadecimal digits, without loading it whole."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK_BYTES):  # hashlib.file_digest needs Python 3.11, and a pack runs on 3.10
        digest.update(block)
    return digest.hexdigest()
