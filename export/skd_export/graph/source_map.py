"""Maps nodes of an exported graph to lines of the network's source code.

The exporter writes stack traces into the graph's metadata. `export_onnx` removes them from the file. Error messages use
them: if a runtime does not support an operator, the message names the source line that produced it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from torch import nn

_STACK_TRACE_KEY = "pkg.torch.onnx.stack_trace"
_STACK_FRAME_PATTERN = re.compile(
    r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)\s*\n\s*(?P<code>[^\n]+)'
)
# Where a branch depends on values, torch names the place in one line, without the start of the path.
_CAUSE_PATTERN = re.compile(r"Caused by: \((?P<file>[^():\n]+):(?P<line>\d+) in \S+\)")
_TORCH_FOLDER = str(Path(torch.__file__).parent)


def find_node_sources(model: onnx.ModelProto) -> dict[str, str]:
    """Find the source line of every node whose metadata contains a stack trace.

    Returns:
        ``file:line: code`` by the node's name.
    """
    traces = {n.name: p.value for n in model.graph.node for p in n.metadata_props if p.key == _STACK_TRACE_KEY}
    return {name: place for name, trace in traces.items() if (place := find_source_line(trace))}


def find_source_line(text: str) -> str | None:
    """The innermost line of a stack trace outside torch, as ``file:line: code``; None if there is none.

    If the text has no stack trace, but torch names the cause, it is ``file:line`` without the folder.
    """
    places = [m for m in _STACK_FRAME_PATTERN.finditer(text) if not m["file"].startswith(_TORCH_FOLDER)]
    if places:
        return "{file}:{line}: {code}".format(**places[-1].groupdict())
    cause = _CAUSE_PATTERN.search(text)
    return f"{Path(cause['file']).name}:{cause['line']}" if cause else None


def find_operator_source(network: nn.Module, clip_shape: tuple[int, int, int], message: str) -> str | None:
    """Find the source line that calls the operator named in an error message of the exporter.

    Args:
        network: The network that could not be exported.
        clip_shape: ``(T, H, W)``.
        message: Contains ``op='aten.name'`` if it names an operator.

    Returns:
        ``file:line: code``, or None if the message names no operator or the call is not found.
    """
    named = re.search(r"op='(?P<op>[\w.]+)'", message)
    if not named:
        return None
    with contextlib.suppress(Exception):  # only a hint: the original error is reported in any case
        program = torch.export.export(network, (torch.zeros(2, 3, *clip_shape),), strict=False)
        for node in program.graph.nodes:
            if node.op == "call_function" and str(node.target).startswith(named["op"]):
                return find_source_line(str(node.meta.get("stack_trace", "")))
    return None


def append_source_line(message: str, sources: Mapping[str, str]) -> str:
    """Append the source line of the node that an error message names; unchanged if it names no known node."""
    named = [name for name in sources if re.search(rf"\b{re.escape(name)}\b", message)]
    if not named:
        return message
    # The longest name is the one that is meant: "conv" also matches inside "conv.1".
    return f"{message} (the network's source: {sources[max(named, key=len)]})"
