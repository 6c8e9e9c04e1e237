"""Traced graphs on disk, shared between processes and runs: one file for each graph.

A file's name is a hash of everything that the graph depends on: the architecture's key, the versions of torch and of
the ONNX packages, and the source code of the network's classes (a pickled network names its classes but does not
contain their code).
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
from skd_bench.integrity.checked_files import DamagedFileError, read_checked, report_damage, write_checked

_CACHE_VERSION = 1  # raise it when the graphs that `graph_template` writes change


def graph_file(cache: Path | None, key: str, network: nn.Module) -> Path | None:
    """The file of an architecture's graph in a cache.

    Args:
        cache: The folder of graphs, or None.
        key: The architecture's key, see `skd_export.graph.graph_template.architecture_key`.
        network: A network of that architecture; the source code of its classes is part of the file's name.

    Returns:
        The path, whether or not the file exists. None without a cache, and for a network whose classes have no source
        file (for example, typed into a shell).
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
    """Read a graph that `write_graph` wrote; None if the file is missing or damaged."""
    try:
        data = read_checked(path)
    except DamagedFileError as error:
        report_damage(error, "the network is traced again")
        return None
    except (FileNotFoundError, UserError):  # a cache that cannot be read only costs time
        return None
    graph = onnx.ModelProto()
    graph.ParseFromString(data)
    return graph


def write_graph(path: Path, graph: onnx.ModelProto) -> None:
    """Write a graph atomically. A cache that cannot be written is ignored: it only saves time."""
    data: bytes = graph.SerializeToString(deterministic=True)
    with contextlib.suppress(UserError):
        write_checked(path, data)


def _find_source_folder(module: str) -> str | None:
    """The folder of a module's source; empty for torch, whose version identifies it; None if there is no file."""
    if module.partition(".")[0] == "torch":
        return ""
    file = getattr(sys.modules.get(module), "__file__", None)
    return str(Path(file).parent) if file else None


@lru_cache
def _hash_source_folder(folder: str) -> str:
    """A hash of every Python file in a class's folder: the code that its forward calls is usually there."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.py")):
        digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
