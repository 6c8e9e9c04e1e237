"""Traced graphs on disk, shared between processes and runs: one file each, checked before it is believed.

A file's name says everything that the graph depends on: the architecture's key, the versions of torch and of the ONNX
packages, and the source of the network's classes, which a pickled outline names but does not hold. A file begins with
the SHA-256 of the rest; one that is damaged is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import onnx
import torch
from torch import nn

from skd_bench.errors import UserError
from skd_bench.files import write_atomic

_CACHE_VERSION = 1  # of tracing: raised when what `template` writes changes
_DIGEST_LENGTH = 64


def graph_file(cache: Path | None, key: str, network: nn.Module) -> Path | None:
    """Where the graph of an architecture lies in a cache.

    Args:
        cache: The folder of graphs, or None.
        key: See `template.architecture`.
        network: Of that architecture.

    Returns:
        None without a cache, and for a network whose classes have no source file (typed into a shell).
    """
    if cache is None:
        return None
    source_folders = {_find_source_folder(type(module).__module__) for module in network.modules()}
    if None in source_folders:
        return None
    versions = (_CACHE_VERSION, torch.__version__, onnx.__version__, version("onnxscript"))
    sources = sorted(_hash_source_folder(source_folder) for source_folder in source_folders if source_folder)
    return cache / f"{hashlib.sha256(repr((key, versions, sources)).encode()).hexdigest()[:32]}.graph"


def read_graph(path: Path) -> onnx.ModelProto | None:
    """The graph in a file of `write_graph`; None where it is missing or not as it was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, data = content[:_DIGEST_LENGTH], content[_DIGEST_LENGTH:]
    if hashlib.sha256(data).hexdigest().encode() != digest:
        return None
    graph = onnx.ModelProto()
    graph.ParseFromString(data)
    return graph


def write_graph(path: Path, graph: onnx.ModelProto) -> None:
    """Keep a graph, whole or not at all; a cache that cannot be written is done without."""
    data: bytes = graph.SerializeToString(deterministic=True)
    with contextlib.suppress(UserError):
        write_atomic(path, hashlib.sha256(data).hexdigest().encode() + data)


def _find_source_folder(module: str) -> str | None:
    """The folder of a module's source; empty for torch's own, which its version tells; None where there is none."""
    if module.partition(".")[0] == "torch":
        return ""
    file = getattr(sys.modules.get(module), "__file__", None)
    return str(Path(file).parent) if file else None


@lru_cache
def _hash_source_folder(folder: str) -> str:
    """A hash of every Python file beside a network's class: what its forward calls most often stands there."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.py")):
        digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
