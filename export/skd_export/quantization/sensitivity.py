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

from skd_export.quantization.calibration import Calibrated

Floats = npt.NDArray[np.float32]
Write = Callable[..., dict[str, Any]]
_BATCH = 16


@dataclass(frozen=True)
class Sensitivity:
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


def sensitivities(fp32: Path, ranges: Calibrated, write: Write) -> list[Sensitivity]:
    """Quantise each layer alone and compare answers on calibration clips; the costliest first.

    Args:
        fp32: The file that ``ranges`` were taken from.
        ranges: Calibrated; the clips it kept are those compared on.
        write: ``quantise_ort`` or ``quantise_trt``: called as ``write(ranges, path, exclude=names)``.
    """
    reference = logits(fp32, ranges.kept)
    scale = float(reference.std()) or 1.0
    found = []
    with tempfile.TemporaryDirectory(prefix="skd-layers-") as folder:
        for name, op in ranges.layers:
            alone = Path(folder) / "alone.onnx"
            write(ranges, alone, only=[name])
            said = logits(alone, ranges.kept)
            flips = float((said.argmax(1) != reference.argmax(1)).mean())
            found.append(Sensitivity(name, op, float(np.abs(said - reference).mean()) / scale, flips))
    return sorted(found, key=lambda s: (-s.error, s.layer))


def within_bounds(
    fp32: Path, int8: Path, ranges: Calibrated, write: Write, refuse: Callable[[Path], str | None]
) -> dict[str, Any]:
    """Write an INT8 file; where it is refused, leave the costliest layers in FP32, one more at a time.

    At most half of the layers are left out: beyond that little of INT8 is left. Where that is not enough either, all
    layers are quantised again, and the file stays refused.

    Args:
        fp32: The FP32 file.
        int8: Where the INT8 file goes.
        ranges: Of the FP32 file.
        write: See `sensitivities`.
        refuse: Why a file is outside its bounds, or None.

    Returns:
        What ``write`` returned for the file that is there, with ``sensitivity`` (`Sensitivity` of each layer, costliest
        first; empty where all layers were within bounds at once) and ``tried`` (the reason each attempt was refused).
    """
    made = write(ranges, int8)
    if (reason := refuse(int8)) is None:
        return made | {"sensitivity": [], "tried": []}
    order, tried = sensitivities(fp32, ranges, write), [reason]
    rows = [asdict(s) for s in order]
    for count in range(1, len(order) // 2 + 1):
        made = write(ranges, int8, exclude=[s.layer for s in order[:count]])
        if (reason := refuse(int8)) is None:
            return made | {"sensitivity": rows, "tried": tried}
        tried.append(reason)
    return write(ranges, int8) | {"sensitivity": rows, "tried": tried}


def logits(path: Path, clips: Floats) -> Floats:
    """Answers of a file to clips, ``(n, C)``, by ONNX Runtime on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    parts = (clips[i : i + _BATCH] for i in range(0, len(clips), _BATCH))
    return np.concatenate([session.run(None, {given.name: part})[0] for part in parts])
