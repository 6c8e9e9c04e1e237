"""The journal of a run: one line of JSON for each event, with a checksum of the line.

A line is incomplete after a kill, and may be damaged later. Both are left out by `read_journal`. The next start of the
run removes them, and says so where a line was damaged; `check_journal` is for commands that cannot do without.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skd_bench.files import write_atomic
from skd_bench.integrity.checked_files import DamagedFileError, report_damage

JOURNAL_FILE = "journal.jsonl"
_CHECKED_LINE = re.compile(rb'(.*), "crc32": "([0-9a-f]{8})"\}')


def append_event(folder: Path, event: str, details: Mapping[str, Any]) -> None:
    """Append an event to a journal and flush it to the disk.

    Args:
        folder: the run folder.
        event: name of the event.
        details: further values, as JSON.

    Raises:
        OSError: The journal cannot be written, or is a link.
    """
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    text = json.dumps({"time": time, "event": event, **details})
    line = f'{text[:-1]}, "crc32": "{zlib.crc32(text.encode()):08x}"}}\n'.encode()
    handle = _open_journal(folder, os.O_WRONLY | os.O_APPEND)
    with open(handle, "ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """The events of a journal, oldest first; incomplete and damaged lines are left out.

    Args:
        folder: the run folder.
    """
    return [event for line in _read_lines(folder) if (event := _parse_line(line)) is not None]


def check_journal(folder: Path) -> None:
    """Check that every line of a journal is what was written; only the end of the last one may be missing.

    Raises:
        DamagedFileError: A line is not.
    """
    if error := _find_damage(folder, _read_lines(folder)):
        raise error


def repair_journal(folder: Path) -> None:
    """Create the journal if it is missing; remove damaged lines and an incomplete last line.

    Raises:
        OSError: The journal cannot be read, or is a link.
        UserError: The journal cannot be written.
    """
    os.close(_open_journal(folder, os.O_WRONLY))
    lines = _read_lines(folder)
    if error := _find_damage(folder, lines):
        report_damage(error, "the line is removed, and what it recorded is found out again")
    intact = [line for line in lines if _parse_line(line) is not None]
    if len(intact) < len(lines):
        write_atomic(folder / JOURNAL_FILE, b"".join(intact))


def _open_journal(folder: Path, mode: int) -> int:
    return os.open(folder / JOURNAL_FILE, mode | os.O_CREAT | os.O_NOFOLLOW, 0o644)


def _read_lines(folder: Path) -> list[bytes]:
    return (folder / JOURNAL_FILE).read_bytes().splitlines(keepends=True)


def _find_damage(folder: Path, lines: list[bytes]) -> DamagedFileError | None:
    for number, line in enumerate(lines, 1):
        is_cut = number == len(lines) and not line.endswith(b"\n")  # by a kill or a full disk
        if not is_cut and _parse_line(line) is None:
            return DamagedFileError(folder / JOURNAL_FILE, "an event with its checksum", f"another line {number}")
    return None


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """The event of a line without its checksum; None if the line is not what was written."""
    found = _CHECKED_LINE.fullmatch(line.removesuffix(b"\n"))
    if found is None or not line.endswith(b"\n") or zlib.crc32(found[1] + b"}") != int(found[2], 16):
        return None
    event: dict[str, Any] = json.loads(found[1] + b"}")
    return event
