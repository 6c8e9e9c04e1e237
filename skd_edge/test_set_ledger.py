"""How often a test set has been looked at: a ledger outside the run, keyed by the test set's hash.

A test set that is looked at again and again becomes a validation set; the report says how often it was.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path


def ledger_path() -> Path:
    """``SKD_EDGE_LEDGER``, or ``~/.local/state/skd-edge/test-looks.jsonl``."""
    given = os.environ.get("SKD_EDGE_LEDGER")
    state = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state"))
    return Path(given) if given else state / "skd-edge" / "test-looks.jsonl"


def record_test_access(test_hash: str, *, run: Path, artefact: str) -> int:
    """Note that a file (``artefact``, its hash) is scored on a test set; how many different files were so far.

    Scoring the very same file again tells nothing new and does not count as another look.
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
        end = "" if before.endswith(b"\n") or not before else "\n"  # a line that a full disk or a kill cut short
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{end}{json.dumps(row)}\n")
    return len(scored_artefacts | {artefact})


def _parse_ledger_row(line: bytes) -> dict[str, str]:
    """One look; empty where the line is none."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) and "artefact" in row else {}
