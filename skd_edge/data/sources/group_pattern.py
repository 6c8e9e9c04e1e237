"""The groups of clips, by a recipe's regular expression: matched in a process of its own, which a time limit ends.

Python's `re` goes back and tries again: on the name `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.mp4`, `(a+)+b` takes hours, and
holds the interpreter's lock meanwhile, so that no other thread can stop it. A process can be ended; nothing of the
syntax needs to be forbidden, and no further package is needed.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import weakref
from collections.abc import Callable

from skd_bench.errors import UsageError

LIMIT_S = 10.0  # for one name; a good pattern takes microseconds
_MATCHER = """
import json, re, sys
find = re.compile(json.loads(sys.stdin.readline())).search
for line in sys.stdin:
    found = find(json.loads(line))
    print(json.dumps(None if found is None else found[1] if found.re.groups else found[0]), flush=True)
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
        self._pattern = pattern
        command = [sys.executable, "-I", "-S", "-c", _MATCHER]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._stop = weakref.finalize(self, _end_process, self._process)
        self._send(pattern)

    def find_group(self, name: str) -> str:
        self._send(name)
        output = self._process.stdout
        if output is None or not select.select([output], [], [], LIMIT_S)[0]:
            self._stop()
            raise UsageError(
                f"data.group: {self._pattern!r} takes more than {LIMIT_S:g} s on the name {name[:80]!r}; write "
                "it without a repetition inside a repetition, such as (a+)+"
            )
        group: str | None = json.loads(output.readline())
        return group or name

    def _send(self, text: str) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(text) + "\n")
            self._process.stdin.flush()


def _end_process(process: subprocess.Popen[str]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()
