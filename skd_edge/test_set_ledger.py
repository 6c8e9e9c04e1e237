"""Counts how many files were scored on a test set, in a ledger outside the run.

If many files are scored on a test set and the best is chosen, the result is too optimistic. The report therefore shows
this number.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path


def ledger_path() -> Path:
    """The ledger: ``SKD_EDGE_LEDGER``, or ``skd-edge/test-looks.jsonl`` in ``XDG_STATE_HOME`` (``~/.local/state``)."""
    given = os.environ.get("SKD_EDGE_LEDGER")
    state = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state"))
    return Path(given) if given else state / "skd-edge" / "test-looks.jsonl"


def record_test_access(test_hash: str, *, run: Path, artefact: str) -> int:
    """Record that a file is scored on a test set.

    A file that was scored before is not recorded again, because its result is already known.

    Args:
        test_hash: hash of the test set.
        run: the run folder.
        artefact: hash of the file.

    Returns:
        The number of different files scored on this test set so far, this one included.
    """
    path = ledger_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.exists() else b""
    scored_artefacts = {
        row["artefact"] for row in map(_parse_ledger_row, before.splitlines()) if row.get("test") == test_hash
    }
    if artefact not in scored_artefacts:
        row = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "test": test_hash,
            "artefact": artefact,
            "run": str(run),
        }
        end = (
            "" if before.endswith(b"\n") or not before else "\n"
        )  # ends a line that is incomplete after a full disk or a kill
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{end}{json.dumps(row)}\n")
    return len(scored_artefacts | {artefact})


def _parse_ledger_row(line: bytes) -> dict[str, str]:
    """One row of the ledger; empty if the line is not a valid row."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) and "artefact" in row else {}
