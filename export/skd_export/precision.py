"""Lower precision: an FP32 file in, an INT8 or FP16 file out, and the proof of what became of its operators.

The FP16 file is for TensorRT, whose networks are strongly typed: what the file says is what runs. ONNX Runtime widens
FP16 convolutions to FP32 on CPUs: there the file shows what rounding costs, and nothing of its speed.

The INT8 file is for ONNX Runtime's CPU kernels: uint8 activations (asymmetric), int8 weights (one scale a channel),
Q/DQ nodes around every operator that has an integer kernel. Ranges come from the minimum and maximum of each tensor,
reduced inside the graph: memory does not grow with the number of clips (measured on 128 clips of 8x32x32: about one
second; the percentile calibrator took 3 to 15 s and 1 GiB for the same accuracy).
"""

from __future__ import annotations

import contextlib
import logging
import platform
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_export.onnx import load_onnx

Floats = npt.NDArray[np.float32]
_CHUNK = 8
_FP16_MAX = 65504.0
_VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "avxvnni"})
_INTEGER_CONVOLUTIONS = frozenset({"QLinearConv", "ConvInteger"})
_X86 = frozenset({"x86_64", "amd64", "i386", "i686", "x86"})


def isa_has_vnni(cpuinfo: Path | str = "/proc/cpuinfo") -> bool | None:
    """Whether this CPU multiplies 8-bit numbers without saturating at 16 bits (x86's VNNI).

    Returns:
        None where it cannot be told: not x86, or no such file.
    """
    if platform.machine().lower() not in _X86:
        return None
    try:
        text = Path(cpuinfo).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    flags = next((line.partition(":")[2] for line in text.splitlines() if line.startswith("flags")), "")
    return bool(_VNNI_FLAGS & set(flags.split()))


def needs_reduced_range() -> bool:
    """Whether 8-bit weights can saturate on this machine: x86 without VNNI, or x86 that does not tell."""
    return platform.machine().lower() in _X86 and not isa_has_vnni()


def quantise_ort(
    fp32_path: Path | str,
    int8_path: Path | str,
    calibration: Iterable[Floats],
    *,
    per_channel: bool = True,
    reduce_range: bool | None = None,
) -> dict[str, Any]:
    """Write the INT8 twin of an FP32 file, for ONNX Runtime on CPUs.

    Args:
        fp32_path: As `export_onnx` wrote it.
        int8_path: Where the INT8 file goes; written atomically.
        calibration: Batches of normalised clips, float32 ``(b, 3, T, H, W)``; read once, in pieces of 8 clips.
        per_channel: One scale for each output channel of a weight, else one for the whole weight.
        reduce_range: Weights of 7 bits. Without VNNI, products of uint8 and int8 saturate and answers are silently
            wrong; 7 bits cure that at no cost in speed. None: what this machine needs. Ask for it explicitly when the
            file will run on another machine.

    Returns:
        What was done: ``calibration_clips``, ``reduce_range``, ``vnni``, ``operators`` (`operator_fate` of the file),
        ``convolutions`` and how many of them are ``convolutions_fused`` into integer kernels, and the versions.

    Raises:
        UserError: The file is no ONNX file, there are no calibration clips, or a batch has the wrong shape or NaN.
    """
    reduced = needs_reduced_range() if reduce_range is None else reduce_range
    model = onnx.shape_inference.infer_shapes(load_onnx(fp32_path), strict_mode=True, data_prop=True)
    properties = {p.key: p.value for p in model.metadata_props}
    add_pre_process_metadata(model)  # the exporter folded batch norms and constants already; measured: nothing to add
    clips = _Clips(calibration, model.graph.input[0])
    with tempfile.TemporaryDirectory(prefix="skd-int8-") as folder, _quiet_root_logger():
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantize_static(
            source,
            target,
            clips,
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
            reduce_range=reduced,
            # Not with CalibMaxIntermediateOutputs: onnxruntime 1.32 throws away what was collected when it is
            # reached (no data left at a multiple of it). What is kept is two numbers a tensor and chunk.
            calibrate_method=CalibrationMethod.MinMax,
        )
        quantised = onnx.load(str(target))
    del quantised.metadata_props[:]
    onnx.helper.set_model_props(quantised, properties)
    write_atomic(int8_path, quantised.SerializeToString(deterministic=True))
    operators = operator_fate(int8_path)
    return {
        "activations": "uint8",
        "weights": "int8",
        "calibration": "minmax",
        "calibration_clips": clips.count,
        "per_channel": per_channel,
        "reduce_range": reduced,
        "vnni": isa_has_vnni(),
        "operators": operators,
        "convolutions": sum(node.op_type == "Conv" for node in model.graph.node),
        "convolutions_fused": sum(n for op, n in operators.items() if op in _INTEGER_CONVOLUTIONS),
        "onnxruntime": ort.__version__,
    }


def convert_fp16(fp32_path: Path | str, fp16_path: Path | str) -> dict[str, Any]:
    """Write the FP16 twin of an FP32 file: weights and operators in half precision, the clip and the logits in float32.

    Args:
        fp32_path: As `export_onnx` wrote it.
        fp16_path: Where the FP16 file goes; written atomically.

    Returns:
        What was done: ``io`` (float32), ``operators`` (the file's own, most first), and the version of the converter.

    Raises:
        UserError: The file is no ONNX file, or a weight is too large for FP16 (65504).
    """
    import onnx_ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = load_onnx(fp32_path)
    properties = {p.key: p.value for p in model.metadata_props}
    weights = [onnx.numpy_helper.to_array(w) for w in model.graph.initializer]
    floats = [w for w in weights if w.dtype == np.float32 and w.size]
    largest = max((float(np.abs(w).max()) for w in floats), default=0.0)
    if not largest <= _FP16_MAX:
        raise UserError(f"{fp32_path} has a weight of {largest:g}, beyond what FP16 can hold (65504); keep it in FP32")
    graph = onnx_ir.from_proto(convert_float_to_float16(model, keep_io_types=True))
    graph.graph.sort()  # the converter puts the casts of input and output behind everything else
    half = onnx_ir.to_proto(graph)
    del half.metadata_props[:]
    onnx.helper.set_model_props(half, properties)
    onnx.checker.check_model(half, full_check=True)
    write_atomic(fp16_path, half.SerializeToString(deterministic=True))
    counts = Counter(node.op_type for node in half.graph.node)
    return {
        "io": "float32",
        "operators": dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        "onnxruntime": ort.__version__,
    }


def operator_fate(path: Path | str) -> dict[str, int]:
    """What ONNX Runtime really runs: operators of the graph after all its optimisations on this CPU, most first.

    This tells whether "INT8" is INT8: a convolution between Q/DQ nodes that did not fuse is still a ``Conv``.

    Raises:
        UserError: ONNX Runtime cannot load the file.
    """
    with tempfile.TemporaryDirectory(prefix="skd-fate-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(optimised)
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own for each status, with Exception in common
            raise UserError(f"ONNX Runtime cannot load {path}: {str(error).splitlines()[0]}") from error
        counts = Counter(node.op_type for node in onnx.load(str(optimised)).graph.node)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


@contextlib.contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """The quantiser warns through the root logger, which also installs a handler there: neither is a library's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


class _Clips(CalibrationDataReader):  # type: ignore[misc]
    """Calibration batches in the quantiser's hands, a few clips at a time, checked on the way."""

    def __init__(self, batches: Iterable[Floats], wanted: onnx.ValueInfoProto) -> None:
        self.name = wanted.name
        self.shape = tuple(d.dim_value for d in wanted.type.tensor_type.shape.dim[1:])
        self.count = 0
        self.chunks = self._chunks(batches)

    def get_next(self) -> dict[str, Floats] | None:
        chunk = next(self.chunks, None)
        return None if chunk is None else {self.name: chunk}

    def _chunks(self, batches: Iterable[Floats]) -> Iterator[Floats]:
        for batch in batches:
            if batch.dtype != np.float32 or batch.shape[1:] != self.shape:
                raise UserError(
                    f"calibration clips must be float32 (b, {', '.join(map(str, self.shape))}), "
                    f"not {batch.dtype} {batch.shape}; normalise them as the manifest says"
                )
            if not np.isfinite(batch).all():
                raise UserError("a calibration clip holds NaN or an infinity; check the preprocessing's mean and std")
            for start in range(0, len(batch), _CHUNK):
                chunk = np.ascontiguousarray(batch[start : start + _CHUNK])
                self.count += len(chunk)
                yield chunk
        if self.count == 0:
            raise UserError("INT8 needs calibration clips and got none: set export.calibration_clips above 0")
