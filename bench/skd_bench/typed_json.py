"""JSON values to annotated types: a small strict parser, so that code on the device needs no pydantic."""

from __future__ import annotations

import math
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict


def parse_typed_json(kind: Any, value: Any, where: str) -> Any:
    """Convert a JSON value to an annotated type.

    Supported: dataclasses, list, tuple, dict, Literal, Optional, str, int, float, bool, Any and TypedDict. An object
    for a TypedDict is returned as it is: its keys are not checked, because another version may have stored it.

    Args:
        kind: The annotation.
        value: A result of ``json.loads``.
        where: The dotted path of the value, for messages; empty at the top.

    Returns:
        The value as `kind`. An int becomes a float where `kind` is float; nothing else is converted.

    Raises:
        ValueError: The value has another type, or an object lacks a required key or has an unknown one. The message
            gives the path.
    """
    origin, args = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _parse_fields(kind, value, where)
    if kind is Any:
        return value
    if is_typeddict(kind):
        if not isinstance(value, dict):
            raise ValueError(f"'{where}' is {shorten_repr(value)}; it must be an object")
        return value
    if origin is Literal:
        if value in args and isinstance(value, str):
            return value
        raise ValueError(f"'{where}' is {shorten_repr(value)}; it must be one of {', '.join(map(repr, args))}")
    if origin in (Union, types.UnionType):
        return None if value is None and type(None) in args else parse_typed_json(args[0], value, where)
    if origin is list and isinstance(value, list):
        return [parse_typed_json(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is tuple and isinstance(value, list) and len(value) == len(args):
        return tuple(
            parse_typed_json(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(args, value, strict=True))
        )
    if origin is dict and isinstance(value, dict):
        return {key: parse_typed_json(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and type(value) in (int, float) and abs(value) <= 1e300 and math.isfinite(value):
        return float(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise ValueError(f"'{where}' is {shorten_repr(value)}; it must be {getattr(kind, '__name__', kind)}")


def _parse_fields(kind: Any, value: Any, where: str) -> Any:
    dot = f"{where}." if where else ""
    if not isinstance(value, dict):
        raise ValueError(f"'{where}' is {shorten_repr(value)}; it must be an object")
    known_fields = {f.name: f for f in fields(kind) if f.init}
    if unknown := sorted(set(value) - set(known_fields)):
        raise ValueError(f"{shorten_repr(dot + unknown[0])} is not a known key")
    needed = (n for n, f in known_fields.items() if f.default is MISSING and f.default_factory is MISSING)
    if absent := [n for n in needed if n not in value]:
        raise ValueError(f"'{dot}{absent[0]}' is missing")
    hints = get_type_hints(kind)
    return kind(**{name: parse_typed_json(hints[name], item, dot + name) for name, item in value.items()})


def shorten_repr(value: Any) -> str:
    """A value for a message, in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
