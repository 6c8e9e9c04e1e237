"""Several sessions of one file that run at the same time, each in a thread and, on a GPU, on a stream of its own."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.runtimes import InferenceSession


class ConcurrentSessions:
    """Divides the clips of a query between sessions; each runs its clips one by one, without waiting for the others.

    Args:
        sessions: At least one; all of one file.
    """

    def __init__(self, sessions: Sequence[InferenceSession]) -> None:
        self._sessions = list(sessions)
        self.input, self.output = self._sessions[0].input, self._sessions[0].output
        self.runtime_info = self._sessions[0].runtime_info
        self._pool = ThreadPoolExecutor(len(self._sessions))

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The logits of all clips, in their order: see `InferenceSession.run`."""
        parts = np.array_split(np.arange(len(x)), len(self._sessions))
        waiting = [
            self._pool.submit(_run_one_by_one, session, x[part[0] : part[-1] + 1])
            for session, part in zip(self._sessions, parts, strict=True)
            if len(part)
        ]
        return np.concatenate([future.result() for future in waiting])

    def close(self) -> None:
        """Close every session."""
        self._pool.shutdown()
        for session in self._sessions:
            session.close()


def _run_one_by_one(session: InferenceSession, clips: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.concatenate([session.run(clips[i : i + 1]) for i in range(len(clips))])
