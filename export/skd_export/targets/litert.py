"""Exports a trained network to a LiteRT (.tflite) file with Google's converter, for boards where LiteRT is fastest.

The converter (litert-torch) reads the PyTorch module directly. It installs about sixty packages and takes a minute or
two. One of these packages needs a version of typing_extensions that pydantic 2.12 does not support, so skd-edge has no
extra for it; docs/precision.md has the command that installs it. To run the file, `ai-edge-litert` is enough.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import logging
import tempfile
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_bench.runtimes.litert import LiteRtRuntime

_INSTALL_HINT = "a plain pip install conflicts with pydantic; docs/precision.md (LiteRT) has the command that works"


def explain_missing_converter() -> str | None:
    """The reason why .tflite files cannot be written here, or None if they can. Imports nothing."""
    if importlib.util.find_spec("litert_torch") is None:
        return f"litert-torch is not installed; {_INSTALL_HINT}"
    return LiteRtRuntime().why_unavailable()


class TfliteMetadata(TypedDict):
    """How a .tflite file was made.

    Attributes:
        batch: The fixed batch size, always 1.
        converter: Name and version of the converter.
    """

    batch: int
    converter: str


def export_litert(network: nn.Module, path: Path | str, *, clip_shape: tuple[int, int, int]) -> TfliteMetadata:
    """Write a network as one .tflite file: ``clip`` float32 ``(1, 3, T, H, W)`` in, logits float32 ``(1, C)`` out.

    The batch is fixed at one clip: the network folds frames into the batch, and the converter writes fixed shapes.

    Args:
        network: A plain module in eval mode, ``forward(clip) -> logits``, on the CPU.
        path: Where the file goes; written atomically.
        clip_shape: ``(T, H, W)``.

    Raises:
        UserError: The converter is missing, the network is in train mode, or the converter cannot convert it.
    """
    if reason := explain_missing_converter():
        raise UserError(f"a .tflite file cannot be written: {reason}")
    if any(module.training for module in network.modules()):
        raise UserError("the network is in train mode: call network.eval() before exporting it")
    with tempfile.TemporaryDirectory(prefix="skd-litert-") as folder:
        tflite_file = Path(folder) / "network.tflite"
        with _silence_converter():
            converter = importlib.import_module("litert_torch")
            try:
                converter.convert(network, (torch.zeros(1, 3, *clip_shape),)).export(str(tflite_file))
            except Exception as error:  # errors of torch.export, jax and the converter have no other base class
                first = (str(error).strip().splitlines() or [""])[0]
                raise UserError(f"litert-torch cannot convert the network: {type(error).__name__}: {first}") from error
        write_atomic(path, tflite_file.read_bytes())
    return {"batch": 1, "converter": f"litert-torch {importlib.metadata.version('litert-torch')}"}


@contextlib.contextmanager
def _silence_converter() -> Any:
    """Hide the converter's progress and warnings, and restore the root logger's handlers and level afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
