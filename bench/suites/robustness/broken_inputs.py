"""Ways to break a file: its bytes, or what its format says (values of JSON, cells, lines of YAML)."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

# Values that a device, a colleague or a stranger could send, and that code does not expect.
HOSTILE_JSON = (
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "1e308",
    "9" * 19,
    "9" * 5000,
    '""',
    '"x"',
    "[]",
    "{}",
    "[[]]",
    '{"a": 1}',
    "[" * 50 + "]" * 50,
    "[" * 3000 + "]" * 3000,
    '{"a":' * 3000 + "1" + "}" * 3000,
    '"\\ud800"',
    '"\\u0000"',
    '"\\u001b[2K\\r"',
    f'"{"x" * 5000}"',
    '"../../etc/passwd"',
    "[1, 2]",
    '["x", null]',
)
HOSTILE_TEXT = (
    "",
    "\0",
    "\x1b[2K\r",
    "\u202e",
    "=1+1",
    '"',
    '""',
    "'",
    ",",
    ";",
    "\t",
    "\n",
    "\r",
    "|",
    "null",
    "~",
    "-1",
    "1e999",
    "nan",
    "9" * 400,
    "x" * 5000,
    "x" * 200_000,
    "../../etc/passwd",
    "/dev/zero",
    "\ufeff",
    "\udcff",
    "{",
    "[",
    "- ",
    ": ",
    "&a [*a]",
    "*a",
    "!!python/object:os.system",
    "<<: {",
    "%YAML 9",
    "--- ",
    "? ",
    "|+",
    "${HOME}",
    "${",
    "  ",
    "true",
)


def break_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, cut, repeat or insert bytes."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at, kind = rng.randrange(len(out) + 1), rng.randrange(7)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + rng.choice([1, 2, 4, 8])] = rng.choice([b"\xff" * 8, b"\0" * 8, b"\x7f\xff\xff\xff", b"\x80"])
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            del out[at : at + rng.choice([1, 4, 64, 1024])]
        elif kind == 4:
            out[at:at] = rng.randbytes(rng.choice([1, 4, 64, 1024]))
        elif kind == 5:
            out[at:at] = out[at : at + rng.choice([4, 64, 1024])]
        else:
            for _ in range(rng.choice([4, 64])):
                if out:
                    out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def break_json(data: bytes, rng: random.Random) -> bytes:
    """Replace, remove or rename values anywhere in the tree; or break the text."""
    if rng.random() < 0.2:
        return break_bytes(data, rng)
    tree = json.loads(data)
    marks: dict[str, str] = {}
    for _ in range(rng.choice([1, 1, 1, 3])):
        places = list(_iter_places(tree))
        if not places:
            break
        collection, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind == 0:
            del collection[key]
        elif kind == 1 and isinstance(collection, dict):
            collection[rng.choice(["", "x", "x" * 5000, "\x1b[2K", "schema", "kind"])] = collection.pop(key)
        elif kind == 2:
            other, place = rng.choice(places)
            collection[key] = json.loads(json.dumps(other[place])) if place in _keys(other) else None
        else:
            mark = f"@{len(marks)}@"
            marks[f'"{mark}"'] = rng.choice(HOSTILE_JSON)
            collection[key] = mark
    text = json.dumps(tree)
    for mark, value in marks.items():
        text = text.replace(mark, value)
    return text.encode("utf-8", "surrogatepass")


def _keys(collection: Any) -> Any:
    return collection if isinstance(collection, dict) else range(len(collection))


def _iter_places(value: Any) -> Any:
    """(collection, key or index) of every value in a tree."""
    for key in list(_keys(value)) if isinstance(value, dict | list) else []:
        yield value, key
        yield from _iter_places(value[key])


def break_text(data: bytes, rng: random.Random) -> bytes:
    """Replace, insert or remove words and lines; or break the bytes."""
    if rng.random() < 0.3:
        return break_bytes(data, rng)
    lines = data.decode().split("\n")
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, hostile = rng.randrange(len(lines)), rng.choice(HOSTILE_TEXT)
        kind, line = rng.randrange(6), lines[at]
        cut = rng.randrange(len(line) + 1)
        if kind == 0:
            lines[at] = line[:cut] + hostile + line[cut:]
        elif kind == 1:
            lines[at] = line[:cut] + hostile
        elif kind == 2:
            lines.insert(at, hostile)
        elif kind == 3:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif kind == 4 and len(lines) > 1:
            del lines[at]
        else:
            lines[at] = rng.choice(["  ", "    ", "\t", "- "]) + line
    return "\n".join(lines).encode("utf-8", "surrogatepass")


Break = Callable[[bytes, random.Random], bytes]
