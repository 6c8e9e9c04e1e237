"""Which layers INT8 costs the most, and leaving out as few of them as bring the file back within its bounds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from skd_export.quantization.calibration import CalibrationRanges

Floats = npt.NDArray[np.float32]
QuantizeFunction = Callable[..., dict[str, Any]]
_BATCH = 16


@dataclass(frozen=True)
class LayerSensitivity:
    """What quantising one layer alone does to the answers.

    Attributes:
        layer: The node's name.
        op: Its kind.
        error: Mean absolute difference of the logits from FP32, over their standard deviation.
        flips: Share of clips whose top class changes, in 0..1.
    """

    layer: str
    op: str
    error: float
    flips: float


def measure_layer_sensitivities(
    fp32: Path, ranges: CalibrationRanges, quantize: QuantizeFunction
) -> list[LayerSensitivity]:
    """Quantise each layer alone and compare answers on calibration clips; the costliest first.

    Args:
        fp32: The file that ``ranges`` were taken from.
        ranges: Calibrated; the clips it kept are those compared on.
        quantize: ``quantise_ort`` or ``quantise_trt``: called as ``quantize(ranges, path, exclude=names)``.
    """
    reference = compute_onnx_logits(fp32, ranges.sample_clips)
    scale = float(reference.std()) or 1.0
    results = []
    with tempfile.TemporaryDirectory(prefix="skd-layers-") as folder:
        for name, op in ranges.layers:
            single_layer_file = Path(folder) / "alone.onnx"
            quantize(ranges, single_layer_file, only=[name])
            quantized_logits = compute_onnx_logits(single_layer_file, ranges.sample_clips)
            flips = float((quantized_logits.argmax(1) != reference.argmax(1)).mean())
            results.append(
                LayerSensitivity(name, op, float(np.abs(quantized_logits - reference).mean()) / scale, flips)
            )
    return sorted(results, key=lambda s: (-s.error, s.layer))


def quantize_within_bounds(
    fp32: Path,
    int8: Path,
    ranges: CalibrationRanges,
    quantize: QuantizeFunction,
    find_violation: Callable[[Path], str | None],
) -> dict[str, Any]:
    """Write an INT8 file; where it is refused, leave the costliest layers in FP32, one more at a time.

    At most half of the layers are left out: beyond that little of INT8 is left. Where that is not enough either, all
    layers are quantised again, and the file stays refused.

    Args:
        fp32: The FP32 file.
        int8: Where the INT8 file goes.
        ranges: Of the FP32 file.
        quantize: See `sensitivities`.
        find_violation: Why a file is outside its bounds, or None.

    Returns:
        What ``quantize`` returned for the file that is there, with ``sensitivity`` (`Sensitivity` of each layer, costliest
        first; empty where all layers were within bounds at once) and ``tried`` (the reason each attempt was refused).
    """
    metadata = quantize(ranges, int8)
    if (reason := find_violation(int8)) is None:
        return metadata | {"sensitivity": [], "tried": []}
    order, tried = measure_layer_sensitivities(fp32, ranges, quantize), [reason]
    rows = [asdict(s) for s in order]
    for count in range(1, len(order) // 2 + 1):
        metadata = quantize(ranges, int8, exclude=[s.layer for s in order[:count]])
        if (reason := find_violation(int8)) is None:
            return metadata | {"sensitivity": rows, "tried": tried}
        tried.append(reason)
    return quantize(ranges, int8) | {"sensitivity": rows, "tried": tried}


def compute_onnx_logits(path: Path, clips: Floats) -> Floats:
    """Answers of a file to clips, ``(n, C)``, by ONNX Runtime on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    [model_input] = session.get_inputs()
    parts = (clips[i : i + _BATCH] for i in range(0, len(clips), _BATCH))
    return np.concatenate([session.run(None, {model_input.name: part})[0] for part in parts])
