"""The groups of clips, by a recipe's regular expression: matched in a process of its own, which a time limit ends.

Python's `re` goes back and tries again: on the name `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.mp4`, `(a+)+b` takes hours, and
holds the interpreter's lock meanwhile, so that no other thread can stop it. A process can be ended; nothing of the
syntax needs to be forbidden, and no further package is needed.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import weakref
from collections.abc import Callable

from skd_bench.errors import UsageError

LIMIT_S = 10.0  # for one name; a good pattern takes microseconds
TOTAL_LIMIT_S = 60.0  # of computing, for all names together
_GRACE_S = 1.0  # then the process ends by itself: its parent was killed, and cannot end it

# Reads the limit and the pattern, then names; writes the group and the seconds of computing of each. Ctrl-C is sent to
# it too, and is for its parent to handle. An alarm without a handler ends it in the middle of a match.
_MATCHER = """
import json, re, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGALRM, signal.SIG_DFL)
limit, pattern = json.loads(sys.stdin.readline())
signal.setitimer(signal.ITIMER_REAL, limit)
find = re.compile(pattern).search
signal.setitimer(signal.ITIMER_REAL, 0)
for line in sys.stdin:
    name, begin = json.loads(line), time.process_time()
    signal.setitimer(signal.ITIMER_REAL, limit)
    found = find(name)
    signal.setitimer(signal.ITIMER_REAL, 0)
    group = None if found is None else found[1] if found.re.groups else found[0]
    print(json.dumps([group, time.process_time() - begin]), flush=True)
"""


def make_group_finder(pattern: str | None) -> Callable[[str], str]:
    """Return a function from a clip's name to its group.

    Args:
        pattern: a regular expression that is searched in the name. The group of the clip is the match of its first
            parenthesis, or the whole match if it has none. None: each clip is its own group.

    Returns:
        The function; it returns the name itself where the pattern does not match. It raises a ``UsageError`` where the
        pattern takes too long.
    """
    return (lambda name: name) if pattern is None else _GroupFinder(pattern).find_group


class _GroupFinder:
    """Asks a process for the group of one name after the other; the process ends with this object."""

    def __init__(self, pattern: str) -> None:
        self._pattern, self._seconds = pattern, 0.0
        command = [sys.executable, "-I", "-S", "-c", _MATCHER]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._stop = weakref.finalize(self, _end_process, self._process)
        self._send([LIMIT_S + _GRACE_S, pattern])

    def find_group(self, name: str) -> str:
        try:
            self._send(name)
            if not select.select([self._output], [], [], LIMIT_S)[0]:
                raise self._stop_with(f"takes more than {LIMIT_S:g} s on the name", name)
            line = self._output.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._stop_with("cannot be matched (the process that matches it has ended) on the name", name)
        answer: tuple[str | None, float] = json.loads(line)
        self._seconds += answer[1]
        if self._seconds > TOTAL_LIMIT_S:
            raise self._stop_with(f"has taken more than {TOTAL_LIMIT_S:g} s for the names up to", name)
        return answer[0] or name

    def _stop_with(self, problem: str, name: str) -> UsageError:
        self._stop()
        return UsageError(
            f"data.group: {self._pattern!r} {problem} {name[:80]!r}; write it without a repetition inside a "
            "repetition, such as (a+)+"
        )

    def _send(self, value: object) -> None:
        self._input.write(json.dumps(value) + "\n")
        self._input.flush()


def _end_process(process: subprocess.Popen[str]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # the process has ended without reading the last name
                pipe.close()
    process.wait()
