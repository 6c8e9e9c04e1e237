"""Parsing YAML text into a tree of nodes with their source lines; invalid or hostile text raises one ``UsageError``.

The dialect is a safe part of YAML 1.2: mappings with text keys, lists, and plain values. ``yes``, ``no``, ``on`` and
``off`` are text, because they can be class names; ``1e-3`` is a number. Tags, aliases, repeated keys and a second
document are refused, because in a recipe they are mistakes or attacks (aliases can expand to a huge tree).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from skd_bench.errors import UsageError
from skd_bench.files import open_regular_file

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 10_000
MAX_DIGITS = 40

Scalar = str | int | float | bool | None

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_SPECIAL_FLOAT = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True)
class SourceLocation:
    """Where a value was written: a file and its line, or an option of the command line.

    Attributes:
        source: the file as the user named it, or the option (``--set a=b``).
        line: line in the file, from 1; None for an option.
        base: folder for relative paths that are written here.
    """

    source: str
    line: int | None
    base: Path

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"

    def at_line(self, line: int) -> SourceLocation:
        """The same source at another line; an option has no line and is returned unchanged."""
        return self if self.line is None else SourceLocation(self.source, line, self.base)


@dataclass
class YamlNode:
    """One value of a recipe.

    Attributes:
        value: a scalar, or the nodes of a mapping or list.
        location: where it was written.
        raw: the text of a scalar as written; None for mappings and lists.
    """

    value: Scalar | dict[str, YamlNode] | list[YamlNode]
    location: SourceLocation
    raw: str | None = None

    def set_value(self, value: Scalar | dict[str, YamlNode] | list[YamlNode]) -> None:
        """Give the node another value; it stays where it was written."""
        self.value = value

    def move_to(self, location: SourceLocation) -> None:
        """Say that the node was written elsewhere: the value of a key counts as written where its key is."""
        self.location = location

    def child(self, part: str | int) -> YamlNode | None:
        """The entry with a key or an index; None if it does not exist."""
        if isinstance(self.value, dict):
            return self.value.get(str(part))
        if isinstance(self.value, list) and isinstance(part, int) and 0 <= part < len(self.value):
            return self.value[part]
        return None


def read_recipe_bytes(path: Path, display_name: str) -> bytes:
    """Read a file of at most ``MAX_BYTES``.

    Args:
        path: the file.
        display_name: its name in error messages.

    Raises:
        UsageError: The file cannot be read, or is too large.
    """
    try:
        with open_regular_file(path) as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{display_name}: this recipe cannot be read: {reason}; give a readable YAML file") from None
    if len(data) > MAX_BYTES:
        raise UsageError(
            f"{display_name}: larger than {MAX_BYTES // 1024} KiB, the limit for recipes; check that this is a recipe"
        )
    return data


def decode_utf8(data: bytes, display_name: str) -> str:
    """Decode UTF-8 bytes, with or without a byte order mark.

    Args:
        data: the contents of a file.
        display_name: the file's name in error messages.

    Raises:
        UsageError: The bytes are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise UsageError(
            f"{display_name}:{line}: byte 0x{byte:02x} is not UTF-8 text; save the recipe as UTF-8"
        ) from None


def parse_yaml(text: str, location: SourceLocation) -> YamlNode | None:
    """Parse one YAML document; None if it is empty or contains only comments.

    Args:
        text: the document.
        location: source and base of all nodes; each node gets its own line.

    Raises:
        UsageError: The text is not YAML, or uses YAML that recipes do not allow (see the module's docstring).
    """
    builder = _TreeBuilder(location)
    try:
        for event in _iter_events(text):
            builder.handle_event(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = location.at_line(mark.line + 1) if mark else location
        raise UsageError(f"{where}: {_format_yaml_error(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        raise UsageError(f"{location.at_line(line)}: a control character is not allowed in YAML; remove it") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # e.g. "\UFFFFFFFF", which is not in Unicode
        where = location.at_line(builder.line)
        raise UsageError(f"{where}: not valid YAML: {_one_line(str(error))}; correct this line") from None
    return builder.root


def _iter_events(text: str) -> Iterator[Any]:
    # The pure-Python parser is lazy and does not recurse, so _TreeBuilder can refuse deep nesting while it parses.
    yield from yaml.parse(text, Loader=yaml.SafeLoader)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _format_yaml_error(error: yaml.MarkedYAMLError) -> str:
    problem = _one_line(error.problem or str(error))
    if "'\\t'" in problem:
        return "a tab is not allowed as indentation in YAML; indent with spaces"
    context = f" {_one_line(error.context)}" if error.context else ""
    return f"not valid YAML: {problem}{context}; check indentation, colons and quotes here"


def parse_plain_scalar(raw: str) -> Scalar:
    """The value of an unquoted scalar: null, true or false, a number, or text.

    Raises:
        ValueError: A whole number has more than ``MAX_DIGITS`` digits.
    """
    if raw in _NULL:
        return None
    if raw in _BOOL:
        return _BOOL[raw]
    if _INT.fullmatch(raw):
        if len(raw) > MAX_DIGITS:
            raise ValueError(f"a whole number of {len(raw)} digits is too large for any setting")
        return int(raw)
    if _FLOAT.fullmatch(raw):
        return float(raw)
    if special := _SPECIAL_FLOAT.fullmatch(raw):
        return float("nan") if special[3] else float(f"{special[1]}inf")
    return raw


@dataclass
class _OpenCollection:
    """A mapping or list that is not complete yet; ``pending_key`` is the mapping's last key, still without a value."""

    node: YamlNode
    pending_key: tuple[str, SourceLocation] | None = None

    def begin_key(self, key: str, location: SourceLocation) -> None:
        """A key was read; its value comes next."""
        self.pending_key = (key, location)

    def take_key(self) -> tuple[str, SourceLocation] | None:
        """The key whose value was read; none is pending afterwards."""
        key, self.pending_key = self.pending_key, None
        return key


@dataclass
class _TreeBuilder:
    """Builds the tree from parser events with its own stack, so that no input can reach Python's recursion limit."""

    location: SourceLocation
    root: YamlNode | None = None
    line: int = 1
    node_count: int = 0
    document_count: int = 0
    stack: list[_OpenCollection] = field(default_factory=list)

    def handle_event(self, event: Any) -> None:
        if event.start_mark is not None:
            self.line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self.document_count += 1
            if self.document_count > 1:
                self.raise_error("a second document ('---') is not allowed; put each recipe in its own file")
        elif isinstance(event, yaml.AliasEvent):
            self.raise_error("an alias (*name) is not allowed in recipes; repeat the value, or share it with 'extends'")
        elif isinstance(event, yaml.ScalarEvent):
            self.check_event(event)
            self.add_node(self.make_scalar(event))
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self.check_event(event)
            self.open_collection({} if isinstance(event, yaml.MappingStartEvent) else [])
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self.stack.pop()

    def raise_error(self, problem: str) -> None:
        raise UsageError(f"{self.location.at_line(self.line)}: {problem}")

    def check_event(self, event: Any) -> None:
        self.node_count += 1
        if event.tag is not None:
            self.raise_error(f"the tag {event.tag[:60]!r} is not allowed in recipes; remove it")
        if self.node_count > MAX_NODES:
            self.raise_error(f"more than {MAX_NODES} values, the limit for recipes; check that this is a recipe")

    def make_scalar(self, event: Any) -> YamlNode:
        raw: str = event.value
        if "\0" in raw or any("\ud800" <= c <= "\udfff" for c in raw):
            self.raise_error("text with a NUL character or a single surrogate is not allowed; remove the escape")
        value = parse_plain_scalar(raw) if event.style is None else raw
        return YamlNode(value, self.location.at_line(self.line), raw)

    def open_collection(self, value: dict[str, YamlNode] | list[YamlNode]) -> None:
        if len(self.stack) >= MAX_DEPTH:
            self.raise_error(
                f"nested deeper than {MAX_DEPTH} levels, the limit for recipes; check that this is a recipe"
            )
        if self.stack and isinstance(self.stack[-1].node.value, dict) and self.stack[-1].pending_key is None:
            self.raise_error(
                "a key cannot be a mapping or list; write plain text, and put braces and brackets in quotes"
            )
        node = YamlNode(value, self.location.at_line(self.line))
        self.add_node(node)
        self.stack.append(_OpenCollection(node))

    def add_node(self, node: YamlNode) -> None:
        if not self.stack:
            self.root = node
            return
        top = self.stack[-1]
        if isinstance(top.node.value, list):
            top.node.value.append(node)
        elif isinstance(top.node.value, dict):
            pending = top.take_key()
            if pending is None:
                self.start_key(top, node)
            else:
                key, location = pending
                node.move_to(location)
                top.node.value[key] = node

    def start_key(self, top: _OpenCollection, node: YamlNode) -> None:
        key = node.raw or ""
        assert isinstance(top.node.value, dict)
        if key in top.node.value:
            self.raise_error(f"{key[:60]!r} is given twice (first at {top.node.value[key].location}); remove one")
        top.begin_key(key, node.location)
