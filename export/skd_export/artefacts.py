"""The files of one network: exported once for each precision, kept while network, classes and clips stay the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch
from torch import nn

from skd_bench.errors import UserError
from skd_bench.files import sha256_file, write_json
from skd_export.onnx import export_onnx
from skd_export.precision import Floats, needs_reduced_range, operator_fate, quantise_ort
from skd_export.template import architecture

PRECISIONS = ("fp32", "int8")
_METHOD = 2  # raised when what is written changes: files of an older method are made again


def make_artefacts(
    network: nn.Module,
    precisions: Sequence[str],
    folder: Path | str,
    *,
    clip_shape: tuple[int, int, int],
    classes: list[str],
    calibration: Callable[[], Iterable[Floats]] | None = None,
    calibration_key: str = "",
    reduce_range: bool | None = None,
    graphs: Path | None = None,
) -> dict[str, Path]:
    """Export a network to ``<folder>/<precision>.onnx`` for each precision asked.

    A file that is there, whole, and made from the same weights, architecture, classes, versions and calibration is
    kept. What is known about each file (`facts`) lies beside it as ``<precision>.json``.

    Args:
        network: A plain module in eval mode, ``forward(clip) -> logits``.
        precisions: Of ``fp32`` and ``int8``; INT8 is made from the FP32 file, which is then made too.
        folder: Made when missing.
        clip_shape: ``(T, H, W)``.
        classes: Class names in the order of the logits.
        calibration: Called when an INT8 file is really made; gives batches of normalised clips ``(b, 3, T, H, W)``.
        calibration_key: What identifies those clips (a hash of the data and of their choice).
        reduce_range: 7-bit weights in INT8 files (`quantise_ort`); None: what this machine needs.
        graphs: Where traced graphs are shared, see `export_onnx`.

    Returns:
        The path of each precision asked, in the order asked.

    Raises:
        UserError: An unknown precision, INT8 without calibration, or what `export_onnx` and `quantise_ort` raise.
    """
    if strange := [p for p in precisions if p not in PRECISIONS]:
        raise UserError(f"precision {strange[0]!r} is not known; there are: {', '.join(PRECISIONS)}")
    if "int8" in precisions and calibration is None:
        raise UserError("INT8 needs calibration clips: give them, or leave int8 out")
    paths = {precision: Path(folder) / f"{precision}.onnx" for precision in PRECISIONS}
    key = _key(network, clip_shape, classes)
    if not _is_made(paths["fp32"], key):
        export_onnx(network, paths["fp32"], clip_shape=clip_shape, classes=classes, graphs=graphs)
        _note(paths["fp32"], key, {"operators": operator_fate(paths["fp32"])})
    reduced = needs_reduced_range() if reduce_range is None else reduce_range
    int8_key = f"{key}:{sha256_file(paths['fp32'])}:{calibration_key}:{reduced}"
    if "int8" in precisions and calibration is not None and not _is_made(paths["int8"], int8_key):
        made = quantise_ort(paths["fp32"], paths["int8"], calibration(), reduce_range=reduced)
        _note(paths["int8"], int8_key, made)
    return {precision: paths[precision] for precision in precisions}


def facts(path: Path | str) -> dict[str, Any]:
    """What is known about a file of `make_artefacts`: operators as they run, and for INT8 how it was calibrated.

    Raises:
        UserError: There is no readable note beside the file.
    """
    noted = _noted(Path(path))
    if noted is None:
        raise UserError(f"nothing is noted about {path}; make the artefacts again")
    known: dict[str, Any] = noted["facts"]
    return known


def _key(network: nn.Module, clip_shape: tuple[int, int, int], classes: list[str]) -> str:
    """A hash of everything the FP32 file depends on."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    # A network that has no outline is known by its weights and its printed form.
    outline = architecture(network, clip_shape) or repr(network)
    versions = (_METHOD, torch.__version__, onnx.__version__, ort.__version__)
    digest.update(json.dumps([outline, clip_shape, classes, versions]).encode())
    return digest.hexdigest()


def _note(path: Path, key: str, known: dict[str, Any]) -> None:
    write_json(path.with_suffix(".json"), {"key": key, "sha256": sha256_file(path), "facts": known})


def _noted(path: Path) -> dict[str, Any] | None:
    try:
        noted = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return noted if isinstance(noted, dict) and {"key", "sha256", "facts"} <= set(noted) else None


def _is_made(path: Path, key: str) -> bool:
    noted = _noted(path)
    return noted is not None and noted["key"] == key and path.is_file() and sha256_file(path) == noted["sha256"]
