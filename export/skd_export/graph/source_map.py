"""From a node of an exported graph back to the line of the network's source that it comes from.

The exporter writes stack traces into the graph's metadata. They never leave the house (`export_onnx` strips them), but
an operator that a runtime lacks is named with its line.
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
_TORCH_FOLDER = str(Path(torch.__file__).parent)


def find_node_sources(model: onnx.ModelProto) -> dict[str, str]:
    """The place ``file:line: code`` of every node whose metadata holds a stack trace, by the node's name."""
    traces = {n.name: p.value for n in model.graph.node for p in n.metadata_props if p.key == _STACK_TRACE_KEY}
    return {name: place for name, trace in traces.items() if (place := find_source_line(trace))}


def find_source_line(text: str) -> str | None:
    """The innermost place ``file:line: code`` in a stack trace that is not torch's own; None where there is none."""
    places = [m for m in _STACK_FRAME_PATTERN.finditer(text) if not m["file"].startswith(_TORCH_FOLDER)]
    return None if not places else "{file}:{line}: {code}".format(**places[-1].groupdict())


def find_operator_source(network: nn.Module, clip_shape: tuple[int, int, int], message: str) -> str | None:
    """Where a network calls the operator (``aten.name``) that a message of the exporter names; None where unknown."""
    named = re.search(r"op='(?P<op>[\w.]+)'", message)
    if not named:
        return None
    with contextlib.suppress(Exception):  # a hint for an error that is told anyway
        program = torch.export.export(network, (torch.zeros(2, 3, *clip_shape),), strict=False)
        for node in program.graph.nodes:
            if node.op == "call_function" and str(node.target).startswith(named["op"]):
                return find_source_line(str(node.meta.get("stack_trace", "")))
    return None


def append_source_line(message: str, sources: Mapping[str, str]) -> str:
    """A runtime's complaint, with the source line of the node that it names, where it names one."""
    named = [name for name in sources if re.search(rf"\b{re.escape(name)}\b", message)]
    if not named:
        return message
    return f"{message} (the network's source: {sources[max(named, key=len)]})"
