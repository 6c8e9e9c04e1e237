"""The state of a job on disk: whole or not there, loaded without running anybody's code."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from skd_bench.files import write_atomic


class Checkpoint:
    """Saves at most every ``interval_seconds`` seconds, so that short epochs do not spend their time on the disk."""

    def __init__(self, path: Path, interval_seconds: float = 15.0) -> None:
        self.path, self.interval_seconds, self.last_saved = path, interval_seconds, time.monotonic()

    def save(self, get_state: Callable[[], dict[str, Any]], *, last: bool, now: bool = False) -> None:
        """Write the state if it is time, or ``now``; never after the last epoch, whose result is written elsewhere."""
        if last or (not now and time.monotonic() - self.last_saved < self.interval_seconds):
            return
        buffer = io.BytesIO()
        torch.save(get_state(), buffer)
        write_atomic(self.path, buffer.getvalue())
        self.last_saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state, or None where there is none or it cannot be read (then the job begins anew)."""
        try:
            state: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        except Exception:  # a broken file makes the reader fail in many ways
            return None
        return state
