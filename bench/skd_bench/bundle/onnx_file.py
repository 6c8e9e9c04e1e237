"""What an ONNX file would read besides itself, found without a package that parses it.

An ONNX file may keep the bytes of a tensor in another file ("external data"), whose path it names, and an operator of
ONNX Runtime may name the file of a compiled engine. A bundle's hashes and signature do not cover such files: whoever
swaps one changes the answers of a signed bundle. So a bundle's ONNX file must be all that is read.

The file is walked as protocol buffers: only messages that can hold a tensor are entered, the bytes of tensors are
skipped, and the number of fields and the depth are bounded, so that the time is linear in the size of the file.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from skd_bench.errors import UserError
from skd_bench.files import open_regular_file

_MAX_FIELDS = 2_000_000  # a network of 1000 layers has about 50,000
_MAX_DEPTH = 100  # the bound of protocol buffers themselves; a subgraph takes three levels
_MAX_TAG = 0xFFFFFFFF  # parsers cut longer ones to 32 bits, and would see another field than this check
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Message types that lead to tensors: the type of each field that is entered, by field number (onnx.proto3).
_CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_GRAPH_FIELD, _OPERATOR_FIELD, _EXTERNAL_DATA_FIELD, _DATA_LOCATION_FIELD = 7, 4, 13, 14
_LOOP_OPERATOR = b"Loop"
_ENGINE_OPERATOR = b"EPContext"  # ONNX Runtime reads the file that this operator names

_Buffer = bytes | mmap.mmap


class _Malformed(ValueError):
    """The bytes are not protocol buffers."""


def find_onnx_problem(path: Path, *, loops: bool = True) -> str | None:
    """Why an ONNX file must not be part of a bundle, or None.

    Args:
        path: The file.
        loops: Whether the file may contain loops: ONNX Runtime ends a query that takes too long
            (`skd_bench.runtimes.query_limit`), other runtimes cannot.

    Returns:
        What is wrong, to be put after the file's name: the file reads other files, is not an ONNX file, or is larger
        than the bounds of this check.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        with open_regular_file(path) as file:
            if not path.stat().st_size:
                return "is empty"
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _find_problem(content, loops)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _find_problem(content: _Buffer, loops: bool) -> str | None:
    pending = [("model", 0, len(content), 0)]
    fields, has_graph = 0, False
    try:
        while pending:
            kind, begin, end, depth = pending.pop()
            if depth > _MAX_DEPTH:
                return f"nests its graphs more than {_MAX_DEPTH} levels deep"
            for number, wire, value, stop in _iter_fields(content, begin, end):
                fields += 1
                if fields > _MAX_FIELDS:
                    return f"has more than {_MAX_FIELDS} fields, so it is not checked"
                has_graph |= kind == "model" and number == _GRAPH_FIELD and wire == _BYTES
                if wire == _BYTES and (child := _CHILDREN[kind].get(number)):
                    pending.append((child, value, stop, depth + 1))
                elif reason := _find_reference(content, kind, number, (wire, value, stop)):
                    return reason
                elif (
                    not loops and kind == "node" and number == _OPERATOR_FIELD and content[value:stop] == _LOOP_OPERATOR
                ):
                    return "contains a loop, which may never end and cannot be stopped in this runtime; use ort"
    except _Malformed:
        return "is not a complete ONNX file"
    return None if has_graph else "is not an ONNX file: it has no graph"


def _find_reference(content: _Buffer, kind: str, number: int, field: tuple[int, int, int]) -> str | None:
    """Why this field makes the file read another one, or None."""
    wire, value, stop = field
    is_location = number == _DATA_LOCATION_FIELD and wire == _VARINT and value != 0
    if kind == "tensor" and (number == _EXTERNAL_DATA_FIELD or is_location):
        return "reads its tensors from another file (external data), which no hash covers; store them inside the file"
    if kind == "node" and number == _OPERATOR_FIELD and wire == _BYTES and content[value:stop] == _ENGINE_OPERATOR:
        return f"contains the operator {_ENGINE_OPERATOR.decode()}, which reads a compiled engine from another file"
    return None


def _iter_fields(content: _Buffer, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, value or first byte, end) of each field of the message in these bytes.

    Raises:
        _Malformed: A field does not end inside the message, or has a tag or a wire type that ONNX does not use.
    """
    at = begin
    while at < end:
        tag, at = _read_varint(content, at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0 or tag > _MAX_TAG:
            raise _Malformed
        if wire == _VARINT:
            value, at = _read_varint(content, at, end)
            yield number, wire, value, at
            continue
        if wire == _BYTES:
            size, at = _read_varint(content, at, end)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise _Malformed  # groups, which protocol buffers gave up before ONNX existed
        if size > end - at:
            raise _Malformed
        yield number, wire, at, at + size
        at += size


def _read_varint(content: _Buffer, at: int, end: int) -> tuple[int, int]:
    """The number at this place, of at most ten bytes, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _Malformed
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Malformed
