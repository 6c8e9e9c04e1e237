"""Measures how sensitive each layer is to INT8, and keeps the most sensitive layers in FP32.

As few layers as possible stay in FP32: just enough for the file to be within its bounds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from skd_bench.runtimes.ort import CPU_PROVIDER, DISABLED_OPTIMISERS
from skd_export.quantization.calibration import CalibrationRanges
from skd_export.quantization.quantize import FileMetadata, LayerSensitivity

Floats = npt.NDArray[np.float32]
QuantizeFunction = Callable[..., FileMetadata]
_BATCH = 16


def measure_layer_sensitivities(
    fp32: Path, ranges: CalibrationRanges, quantize: QuantizeFunction
) -> list[LayerSensitivity]:
    """Quantise each layer on its own and compare the logits on calibration clips.

    Args:
        fp32: The file that ``ranges`` were calibrated on.
        ranges: Its ``sample_clips`` are the clips that logits are compared on.
        quantize: `quantize_for_ort` or `quantize_for_tensorrt`; called as ``quantize(ranges, path, only=[name])``.

    Returns:
        One result for each layer, the most sensitive first.
    """
    reference = compute_onnx_logits(fp32, ranges.sample_clips)
    scale = float(reference.std()) or 1.0
    results: list[LayerSensitivity] = []
    with tempfile.TemporaryDirectory(prefix="skd-layers-") as folder:
        for name, op in ranges.layers:
            single_layer_file = Path(folder) / "alone.onnx"
            quantize(ranges, single_layer_file, only=[name])
            quantized_logits = compute_onnx_logits(single_layer_file, ranges.sample_clips)
            error = float(np.abs(quantized_logits - reference).mean()) / scale
            flips = float((quantized_logits.argmax(1) != reference.argmax(1)).mean())
            results.append({"layer": name, "op": op, "error": error, "flips": flips})
    return sorted(results, key=lambda s: (-s["error"], s["layer"]))


def quantize_within_bounds(
    fp32: Path,
    int8: Path,
    ranges: CalibrationRanges,
    quantize: QuantizeFunction,
    find_violation: Callable[[Path], str | None],
) -> FileMetadata:
    """Write an INT8 file that is within its bounds, with as few layers in FP32 as possible.

    First all layers are quantised. While the file is outside its bounds, the next most sensitive layer stays in FP32,
    up to half of the layers: with more, INT8 brings little. If that is not enough, the file with all layers quantised
    is written again, outside its bounds.

    Args:
        fp32: The FP32 file.
        int8: Where the INT8 file goes.
        ranges: Calibrated on the FP32 file.
        quantize: `quantize_for_ort` or `quantize_for_tensorrt`; called as ``quantize(ranges, path, exclude=names)``.
        find_violation: Returns the reason why a file is outside its bounds, or None.

    Returns:
        The metadata that ``quantize`` returned for the final file, with ``sensitivity`` and ``tried``.
    """
    metadata = quantize(ranges, int8)
    if (reason := find_violation(int8)) is None:
        return metadata | {"sensitivity": [], "tried": []}
    order, tried = measure_layer_sensitivities(fp32, ranges, quantize), [reason]
    for count in range(1, len(order) // 2 + 1):
        metadata = quantize(ranges, int8, exclude=[s["layer"] for s in order[:count]])
        if (reason := find_violation(int8)) is None:
            return metadata | {"sensitivity": order, "tried": tried}
        tried.append(reason)
    return quantize(ranges, int8) | {"sensitivity": order, "tried": tried}


def compute_onnx_logits(path: Path, clips: Floats) -> Floats:
    """Logits ``(n, C)`` of a file for clips ``(n, 3, T, H, W)``, on ONNX Runtime with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        str(path), options, providers=[CPU_PROVIDER], disabled_optimizers=DISABLED_OPTIMISERS
    )
    [model_input] = session.get_inputs()
    parts = (clips[i : i + _BATCH] for i in range(0, len(clips), _BATCH))
    return np.concatenate([session.run(None, {model_input.name: part})[0] for part in parts])
