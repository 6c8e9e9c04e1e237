"""JSON from strangers: bounded in size, depth and numbers, so that nothing that reads the result can fail on these.

Python's own reader takes NaN, numbers beyond the range of floats and nesting until the interpreter's recursion limit;
then the code that works on the result fails, somewhere. Here such a text is refused as a whole.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from skd_bench.files import read_regular_file

MAX_DEPTH = 64  # a report of skd-edge has about 10
_MAX_INT = 2**63  # sizes, counts and nanoseconds fit


def read_json(path: Path | str, *, max_bytes: int) -> Any:
    """Read a file of JSON.

    Args:
        path: The file, UTF-8.
        max_bytes: The largest size of the file.

    Returns:
        The value.

    Raises:
        OSError: See `skd_bench.files.read_regular_file`.
        ValueError: See `parse_json`.
    """
    return parse_json(read_regular_file(path, max_bytes))


def parse_json(content: bytes | str) -> Any:
    """Parse JSON.

    Args:
        content: The text, or its UTF-8 bytes, with or without a byte order mark.

    Raises:
        ValueError: It is not JSON, is nested more than `MAX_DEPTH` levels deep, or has a number that is not finite or
            is a whole number of 64 bits or more. The message says which.
    """
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_parse_float, parse_int=_parse_int)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        collections = [item for item in level if isinstance(item, dict | list)]
        level = [child for c in collections for child in (c.values() if isinstance(c, dict) else c)]
        depth += 1


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _parse_int(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) >= _MAX_INT:
        raise ValueError(f"{text[:20]} is too large a whole number")
    return value
