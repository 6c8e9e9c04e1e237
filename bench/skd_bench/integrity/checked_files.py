"""Files with a checksum: what a cache or a run folder stores is checked before it is used.

A reader gets what was written, or `DamagedFileError`; the caller then makes the content anew, after `report_damage`.
There are three forms, for three kinds of content:

- `write_checked`: any bytes, behind the SHA-256 of them. The file is in no other format.
- `write_checked_json`: a JSON object whose last key, ``sha256``, is the hash of all others.
- `describe_files`: files that other programs also read (weights, arrays) stay as they are. Their hashes are in a
  checked JSON file beside them, which is written last: only then is the folder complete.

The checksums find accidents: bad disks, broken copies, files that were cut or edited. They do not stop an attacker who
can write the files, because who can change a file can also change its checksum.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from skd_bench.errors import UserError
from skd_bench.files import open_regular_file, read_regular_file, sha256_of_open_file, write_atomic, write_json
from skd_bench.untrusted.text import escape_name

_DIGEST_LENGTH = 64  # hexadecimal digits of a SHA-256
_MAX_JSON_BYTES = 256 << 20  # the list of a million files has half of it
_FILES_KEY, _DIGEST_KEY = "files", "sha256"
_logger = logging.getLogger(__name__)


class DamagedFileError(UserError):
    """A stored file is not what was written.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, expected: str, found: str) -> None:
        super().__init__(f"{path} is damaged: expected {expected}, found {found}")
        self.path = path


def report_damage(error: DamagedFileError, remedy: str) -> None:
    """Tell the user that a file is damaged, and what is done about it (a warning in the log, by default on stderr).

    Args:
        error: which file, what was expected and what was found.
        remedy: what happens now, such as "it is computed again".
    """
    _logger.warning("warning: %s; %s", escape_name(error), remedy)


def write_checked(path: Path, content: bytes) -> Path:
    """Write a file atomically: the SHA-256 of the content as 64 hexadecimal digits, then the content.

    Raises:
        UserError: The file cannot be written.
    """
    return write_atomic(path, hashlib.sha256(content).hexdigest().encode() + content)


def read_checked(path: Path) -> bytes:
    """Read the content of a file that `write_checked` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFileError: The content is not what was written.
        UserError: The file cannot be read.
    """
    stored = _read_bytes(path)
    digest, content = stored[:_DIGEST_LENGTH], stored[_DIGEST_LENGTH:]
    found = hashlib.sha256(content).hexdigest()
    if found.encode() != digest:
        raise DamagedFileError(path, f"SHA-256 {digest.decode('ascii', 'replace')!r}", found)
    return content


def write_checked_json(path: Path, content: Mapping[str, object]) -> Path:
    """Write a JSON object atomically, with a last key ``sha256`` that is a hash of all others.

    Args:
        path: The file.
        content: Has no key ``sha256``.

    Raises:
        UserError: The file cannot be written.
        ValueError: A number is NaN or infinite.
    """
    return write_json(path, {**content, _DIGEST_KEY: _hash_json(content)})


def read_checked_json(path: Path) -> dict[str, Any]:
    """Read an object that `write_checked_json` wrote; without the key ``sha256``.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFileError: The content is not what was written.
        UserError: The file cannot be read, is a pipe or a device, or is larger than 256 MiB.
    """
    stored = _read_bytes(path, _MAX_JSON_BYTES)
    try:
        content = json.loads(stored.decode("utf-8"))
        digest = content.pop(_DIGEST_KEY)
        found = _hash_json(content)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise DamagedFileError(
            path, "a JSON object with the hash of its content", f"{len(stored)} other bytes"
        ) from None
    if digest != found:
        raise DamagedFileError(path, f"SHA-256 {str(digest)[:_DIGEST_LENGTH]!r}", found)
    checked: dict[str, Any] = content
    return checked


def describe_files(folder: Path, names: Iterable[str]) -> dict[str, dict[str, str | int]]:
    """Size and SHA-256 of files of a folder; store it under ``files`` in a checked JSON file of that folder.

    Raises:
        OSError: A file cannot be read, or is a pipe or a device.
    """
    described: dict[str, dict[str, str | int]] = {}
    for name in names:
        with open_regular_file(folder / name) as file:
            described[name] = {
                "bytes": os.fstat(file.fileno()).st_size,
                _DIGEST_KEY: sha256_of_open_file(file),
            }
    return described


def read_and_check_files(manifest: Path) -> dict[str, Any]:
    """Check all files that a checked JSON file lists under ``files``; returns the content of the JSON file.

    Raises:
        FileNotFoundError: There is no such JSON file: the folder is not complete.
        DamagedFileError: The JSON file or a listed file is not what was written, or a listed file is missing.
        UserError: A file cannot be read.
    """
    content = read_checked_json(manifest)
    for error in iter_damaged_files(manifest.parent, content[_FILES_KEY]):
        raise error
    return content


def iter_damaged_files(folder: Path, described: Mapping[str, Mapping[str, str | int]]) -> Iterator[DamagedFileError]:
    """Compare the files of a folder with their description.

    Args:
        folder: The folder.
        described: What `describe_files` returned.

    Yields:
        An error for each file that is damaged or missing.

    Raises:
        UserError: A file cannot be read.
    """
    for name, expected in described.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:  # a stranger's description could lead elsewhere
            yield DamagedFileError(path, "the path of a file inside the folder", "another path")
            continue
        try:
            found = describe_files(folder, [name])[name]
        except FileNotFoundError:
            yield DamagedFileError(path, _format_file(expected), "no file")
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        else:
            if found != expected:
                yield DamagedFileError(path, _format_file(expected), _format_file(found))


def _format_file(described: Mapping[str, str | int]) -> str:
    return f"{described['bytes']} bytes with SHA-256 {str(described[_DIGEST_KEY])[:16]}..."


def _hash_json(content: Mapping[str, object]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_bytes(path: Path, max_bytes: int | None = None) -> bytes:
    try:
        if max_bytes is not None:
            return read_regular_file(path, max_bytes)
        with open_regular_file(path) as file:
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
