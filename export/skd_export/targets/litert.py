"""A trained network as a LiteRT (.tflite) file, through Google's converter, for boards that run nothing else as fast.

The converter (litert-torch) reads the PyTorch module itself, brings some sixty packages and takes a minute or two. One
of them asks for a typing_extensions that pydantic 2.12 cannot live with, so it is no extra of ours: docs/precision.md
has the line that installs it. Running the file needs `ai-edge-litert` alone.
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
from typing import Any

import torch
from torch import nn

from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_bench.runtimes.litert import LiteRtRuntime

_INSTALL_HINT = "its packages do not fit ours as they stand; docs/precision.md (LiteRT) has the line that installs it"


def explain_missing_converter() -> str | None:
    """Why no .tflite file can be written here, or None. Imports nothing."""
    if importlib.util.find_spec("litert_torch") is None:
        return f"litert-torch is not installed; {_INSTALL_HINT}"
    return LiteRtRuntime().why_unavailable()


def export_litert(network: nn.Module, path: Path | str, *, clip_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Write a network as one .tflite file: ``clip`` float32 ``(1, 3, T, H, W)`` in, logits float32 ``(1, C)`` out.

    The batch is fixed at one clip: frames are folded into it, and the converter writes shapes as numbers.

    Args:
        network: A plain module in eval mode, ``forward(clip) -> logits``, on the CPU.
        path: Where the file goes; written atomically.
        clip_shape: ``(T, H, W)``.

    Returns:
        What was done: ``batch`` and the converter's version.

    Raises:
        UserError: The converter is missing, the network is in train mode, or the converter does not take it.
    """
    if reason := explain_missing_converter():
        raise UserError(f"no .tflite file can be written: {reason}")
    if any(module.training for module in network.modules()):
        raise UserError("the network is in train mode: call network.eval() before exporting it")
    with tempfile.TemporaryDirectory(prefix="skd-litert-") as folder:
        tflite_file = Path(folder) / "network.tflite"
        with _silence_converter():
            converter = importlib.import_module("litert_torch")
            try:
                converter.convert(network, (torch.zeros(1, 3, *clip_shape),)).export(str(tflite_file))
            except Exception as error:  # torch.export's, jax's and the converter's own classes have nothing in common
                first = (str(error).strip().splitlines() or [""])[0]
                raise UserError(f"litert-torch does not take the network: {type(error).__name__}: {first}") from error
        write_atomic(path, tflite_file.read_bytes())
    return {"batch": 1, "converter": f"litert-torch {importlib.metadata.version('litert-torch')}"}


@contextlib.contextmanager
def _silence_converter() -> Any:
    """Keep the converter's progress and warnings off the screen, and its handlers out of the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
