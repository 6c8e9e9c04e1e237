"""The state of a leg on disk: whole or not there, loaded without running anybody's code."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from skd_bench.files import write_atomic


class Checkpoint:
    """Saves at most every ``every`` seconds, so that short epochs do not spend their time on the disk."""

    def __init__(self, path: Path, every: float = 15.0) -> None:
        self.path, self.every, self.saved = path, every, time.monotonic()

    def save(self, state: Callable[[], dict[str, Any]], *, last: bool, now: bool = False) -> None:
        """Write the state if it is time, or ``now``; never after the last epoch, whose result is written elsewhere."""
        if last or (not now and time.monotonic() - self.saved < self.every):
            return
        memory = io.BytesIO()
        torch.save(state(), memory)
        write_atomic(self.path, memory.getvalue())
        self.saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state, or None where there is none or it cannot be read (then the leg begins anew)."""
        try:
            state: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        except Exception:  # a broken file makes the reader fail in many ways
            return None
        return state
