"""The checkpoint of a job. It is written atomically, and loading it does not execute code from the file."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from skd_bench.files import write_atomic


class Checkpoint:
    """The checkpoint file of a job.

    Args:
        path: The file.
        interval_seconds: Least time between two writes, so that jobs with short epochs do not write all the time.
    """

    def __init__(self, path: Path, interval_seconds: float = 15.0) -> None:
        self.path, self.interval_seconds, self.last_saved = path, interval_seconds, time.monotonic()

    def save(self, get_state: Callable[[], dict[str, Any]], *, last: bool, now: bool = False) -> None:
        """Write the state if the last write is long enough ago.

        Args:
            get_state: Returns the state; it is called only if the state is written.
            last: Whether the last epoch is over. Then nothing is written, because the result of the job is stored
                elsewhere.
            now: Write even if the last write is recent.
        """
        if last or (not now and time.monotonic() - self.last_saved < self.interval_seconds):
            return
        buffer = io.BytesIO()
        torch.save(get_state(), buffer)
        write_atomic(self.path, buffer.getvalue())
        self.last_saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The stored state, or None if the file is missing or unreadable; the job then starts from the beginning."""
        try:
            state: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        except Exception:  # a damaged file can raise almost any error
            return None
        return state
