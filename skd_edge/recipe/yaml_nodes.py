"""YAML text into a tree of nodes that remember where they stand; hostile text ends in one ``UsageError``.

The dialect is the safe part of YAML 1.2: mappings with text keys, lists, and plain values. ``yes``, ``no``, ``on`` and
``off`` are text (they are class names somewhere), ``1e-3`` is a number. Tags, aliases, repeated keys and a second
document are refused: each of them is either a mistake in a recipe or a bomb.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from skd_bench.errors import UsageError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 10_000
MAX_DIGITS = 40

Scalar = str | int | float | bool | None

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True)
class Place:
    """Where a value was written: a file and its line, or an option of the command line.

    Attributes:
        source: the file as the user named it, or the option (``--set a=b``).
        line: line in the file, from 1; None for an option.
        base: the folder that relative paths written here start from.
    """

    source: str
    line: int | None
    base: Path

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"

    def at(self, line: int) -> Place:
        """The same source at another line; an option stays as it is."""
        return self if self.line is None else Place(self.source, line, self.base)


@dataclass
class Node:
    """One value of a recipe with its place; ``raw`` is the text of a scalar as written."""

    value: Scalar | dict[str, Node] | list[Node]
    place: Place
    raw: str | None = None

    def child(self, part: str | int) -> Node | None:
        """The entry under a key or an index; None where there is none."""
        if isinstance(self.value, dict):
            return self.value.get(str(part))
        if isinstance(self.value, list) and isinstance(part, int) and 0 <= part < len(self.value):
            return self.value[part]
        return None


def read_bytes(path: Path, shown: str) -> bytes:
    """A file's bytes, at most ``MAX_BYTES``.

    Raises:
        UsageError: the file cannot be read, or is too large to be a recipe.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{shown}: this recipe cannot be read: {reason}; give a readable YAML file") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"{shown}: larger than {MAX_BYTES // 1024} KiB, which no recipe is; is this the right file?")
    return data


def decode(data: bytes, shown: str) -> str:
    """UTF-8 bytes, with or without a byte order mark, as text.

    Raises:
        UsageError: the bytes are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise UsageError(f"{shown}:{line}: byte 0x{byte:02x} is not UTF-8 text; save the recipe as UTF-8") from None


def parse(text: str, place: Place) -> Node | None:
    """The tree of one YAML document, or None where there is nothing but comments.

    Args:
        text: the document.
        place: source and base of every node; its line is replaced by each node's own.

    Raises:
        UsageError: no YAML, or YAML that a recipe has no use for (see the module's first lines).
    """
    builder = _Builder(place)
    try:
        for event in _events(text):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = place.at(mark.line + 1) if mark else place
        raise UsageError(f"{where}: {_readable(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        raise UsageError(f"{place.at(line)}: a control character, which YAML does not allow; remove it") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # e.g. "\UFFFFFFFF", which is beyond Unicode
        where = place.at(builder.line)
        raise UsageError(f"{where}: this is not YAML that can be read: {_one_line(str(error))}") from None
    return builder.root


def _events(text: str) -> Iterator[Any]:
    # The pure-Python parser keeps its own stack and is lazy: deep nesting is refused here before it can hurt.
    yield from yaml.parse(text, Loader=yaml.SafeLoader)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _readable(error: yaml.MarkedYAMLError) -> str:
    problem = _one_line(error.problem or str(error))
    if "'\\t'" in problem:
        return "a tab where YAML wants spaces; indent with spaces"
    context = f" {_one_line(error.context)}" if error.context else ""
    return f"not valid YAML: {problem}{context}; check indentation, colons and quotes here"


def plain(raw: str) -> Scalar:
    """An unquoted scalar's value: null, true or false, a number, or text.

    Raises:
        ValueError: a whole number of more than ``MAX_DIGITS`` digits.
    """
    if raw in _NULL:
        return None
    if raw in _BOOL:
        return _BOOL[raw]
    if _INT.fullmatch(raw):
        if len(raw) > MAX_DIGITS:
            raise ValueError(f"a whole number of {len(raw)} digits; no setting is that large")
        return int(raw)
    if _FLOAT.fullmatch(raw):
        return float(raw)
    if special := _SPECIAL.fullmatch(raw):
        return float("nan") if special[3] else float(f"{special[1]}inf")
    return raw


@dataclass
class _Open:
    """A mapping or list that is being read; ``key`` is the mapping's key that waits for its value."""

    node: Node
    key: tuple[str, Place] | None = None


@dataclass
class _Builder:
    """Takes parser events one by one and keeps its own stack, so that no input reaches Python's recursion limit."""

    place: Place
    root: Node | None = None
    line: int = 1
    nodes: int = 0
    documents: int = 0
    stack: list[_Open] = field(default_factory=list)

    def take(self, event: Any) -> None:
        if event.start_mark is not None:
            self.line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self.refuse("a second document ('---'); a recipe is one document")
        elif isinstance(event, yaml.AliasEvent):
            self.refuse("an alias (*name), which recipes do not take; write the value out, or share it with 'extends'")
        elif isinstance(event, yaml.ScalarEvent):
            self.check(event)
            self.add(self.scalar(event))
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self.check(event)
            self.open({} if isinstance(event, yaml.MappingStartEvent) else [])
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self.stack.pop()

    def refuse(self, problem: str) -> None:
        raise UsageError(f"{self.place.at(self.line)}: {problem}")

    def check(self, event: Any) -> None:
        self.nodes += 1
        if event.tag is not None:
            self.refuse(f"the tag {event.tag[:60]!r}; recipes take plain values only, remove the tag")
        if self.nodes > MAX_NODES:
            self.refuse(f"more than {MAX_NODES} values, which no recipe has; is this the right file?")

    def scalar(self, event: Any) -> Node:
        raw: str = event.value
        if "\0" in raw or any("\ud800" <= c <= "\udfff" for c in raw):
            self.refuse("text with a NUL or half a surrogate pair; remove the escape")
        value = plain(raw) if event.style is None else raw
        return Node(value, self.place.at(self.line), raw)

    def open(self, value: dict[str, Node] | list[Node]) -> None:
        if len(self.stack) >= MAX_DEPTH:
            self.refuse(f"nested deeper than {MAX_DEPTH} levels, which no recipe is")
        if self.stack and isinstance(self.stack[-1].node.value, dict) and self.stack[-1].key is None:
            self.refuse("a mapping or list where a key is expected; keys are plain text (quote braces and brackets)")
        node = Node(value, self.place.at(self.line))
        self.add(node)
        self.stack.append(_Open(node))

    def add(self, node: Node) -> None:
        if not self.stack:
            self.root = node
            return
        top = self.stack[-1]
        if isinstance(top.node.value, list):
            top.node.value.append(node)
        elif isinstance(top.node.value, dict):
            if top.key is None:
                self.start_key(top, node)
            else:
                key, node.place = top.key
                top.node.value[key] = node
                top.key = None

    def start_key(self, top: _Open, node: Node) -> None:
        key = node.raw or ""
        assert isinstance(top.node.value, dict)
        if key in top.node.value:
            self.refuse(f"{key[:60]!r} is given twice (first at {top.node.value[key].place}); keep one")
        top.key = (key, node.place)
