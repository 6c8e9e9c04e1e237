"""A time limit on queries of ONNX Runtime: a file may contain a loop that never ends (`Loop`), also a damaged one.

One thread per session looks every few seconds whether a query is overdue, and tells ONNX Runtime to end it. A query
itself costs two assignments more, so that measurements do not change.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Any

QUERY_LIMIT_S = 300.0  # students take milliseconds, and the largest teachers seconds
_LOOK_EVERY_S = 5.0


class QueryLimit:
    """The time limit of one session's queries.

    Args:
        limit_s: Seconds that a query may take; None: `QUERY_LIMIT_S`.

    Attributes:
        options: The `onnxruntime.RunOptions` to run every query with.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        import onnxruntime as ort

        self.options: Any = ort.RunOptions()
        self._limit_s = QUERY_LIMIT_S if limit_s is None else limit_s
        self._began: float | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Note that a query begins; the thread starts with the first one."""
        if self._thread is None:
            look_every = min(_LOOK_EVERY_S, self._limit_s / 4)
            self._thread = threading.Thread(
                target=_watch, args=(weakref.ref(self), self._closed, look_every), daemon=True
            )
            self._thread.start()
        self._began = time.monotonic()

    def end(self) -> None:
        """Note that the query ended."""
        self._began = None

    def end_overdue_query(self) -> None:
        """Tell ONNX Runtime to end a query that takes longer than the limit."""
        began, options = self._began, self.options
        if began is not None and time.monotonic() - began > self._limit_s:
            options.terminate = True

    def explain(self, reason: str) -> str:
        """The reason why a query failed: the limit, or what ONNX Runtime says."""
        if self.options.terminate:
            return f"it did not answer within {self._limit_s:g} s and was stopped; it may contain a loop without end"
        return reason

    def close(self) -> None:
        """End the thread."""
        self._closed.set()


def _watch(limit: weakref.ref[QueryLimit], closed: threading.Event, look_every: float) -> None:
    """Look from time to time until the session is closed or forgotten."""
    while not closed.wait(look_every):
        watched = limit()
        if watched is None:
            return
        watched.end_overdue_query()
        del watched
