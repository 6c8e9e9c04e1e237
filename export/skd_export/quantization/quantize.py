"""Converts an FP32 file to INT8, FP8, FP16 or BF16, and counts the operators that ONNX Runtime executes.

The FP16 file is for TensorRT, whose networks are strongly typed: it computes in the types that the file states. On
CPUs, ONNX Runtime converts FP16 convolutions to FP32: there the file shows the rounding error, but not the speed.

There are two INT8 files. ONNX Runtime's CPU kernels take asymmetric uint8 activations, int8 weights (one scale for each
channel) and Q/DQ nodes around every operator that has an integer kernel. TensorRT's parser accepts neither zero points
nor int32 biases, and its networks are strongly typed: its file has symmetric int8 inputs and weights of convolutions
and matrix products only, and FP16 for the rest. The FP8 file is also for TensorRT, the BF16 file for TensorRT and
OpenVINO.
"""

from __future__ import annotations

import platform
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.quantization import QuantType

from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_bench.runtimes.ort import CPU_PROVIDER, DISABLED_OPTIMISERS
from skd_export.analysis.operator_profile import OperatorProfile
from skd_export.graph.onnx_export import load_onnx
from skd_export.quantization.bfloat16 import convert_model_to_bfloat16
from skd_export.quantization.calibration import CalibrationRanges, LogFunction
from skd_export.quantization.half import convert_model_to_half

Floats = npt.NDArray[np.float32]
_VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "avxvnni"})
_INTEGER_CONVOLUTIONS = frozenset({"QLinearConv", "ConvInteger"})
_X86 = frozenset({"x86_64", "amd64", "i386", "i686", "x86"})


class LayerSensitivity(TypedDict):
    """How quantising only this layer changes the logits.

    Attributes:
        layer: The node's name.
        op: The node's operator.
        error: Mean absolute difference of the logits from FP32, over their standard deviation.
        flips: Share of clips whose top class changes, in 0..1.
    """

    layer: str
    op: str
    error: float
    flips: float


class FileMetadata(TypedDict, total=False):
    """How a file was made and what it executes, as it is written beside the file.

    Which keys there are depends on the precision.

    Attributes:
        operators: How often each operator occurs, most frequent first (see `count_executed_operators`; for FP16: in the
            file).
        fates: The operator profiles; in the metadata that `skd_export.exporter.make_artefacts` writes.
        io: Type of input and logits (FP16, BF16).
        onnx: Version of the converter (BF16).
        converter: Name and version of the converters (LiteRT).
        batch: The fixed batch size, 1 (LiteRT).
        onnxruntime: Version of the converter (FP16, FP8, INT8).
        weights: Type of the weights.
        calibration: Method of the calibration.
        calibration_clips: Number of clips that determined the ranges.
        per_channel: Whether each output channel of a weight has its own scale.
        reduce_range: Whether weights have 7 bits.
        excluded: Names of the nodes that stay in FP32.
        activations: Type of the activations.
        rest: Type of what is not quantised (``int8-trt``, ``fp8``).
        unsupported: Names of the nodes that stay in FP16 because FP8 has no kernels for them (``fp8``).
        vnni: Whether the CPU that made the file has VNNI; None if it is unknown (``int8``).
        convolutions: Number of convolutions.
        convolutions_fused: How many of them run as integer kernels (``int8``).
        sensitivity: Sensitivity of each layer, the most sensitive first; empty if the first file was within its bounds.
        tried: The reason for each file that was outside its bounds.
    """

    operators: dict[str, int]
    fates: list[OperatorProfile]
    io: str
    onnx: str
    converter: str
    batch: int
    onnxruntime: str
    weights: str
    calibration: str
    calibration_clips: int
    per_channel: bool
    reduce_range: bool
    excluded: list[str]
    activations: str
    rest: str
    unsupported: list[str]
    vnni: bool | None
    convolutions: int
    convolutions_fused: int
    sensitivity: list[LayerSensitivity]
    tried: list[str]


def isa_has_vnni(cpuinfo: Path | str = "/proc/cpuinfo") -> bool | None:
    """Whether this CPU multiplies 8-bit numbers without saturating at 16 bits (x86's VNNI).

    Returns:
        None if it is unknown: the machine is not x86, or the file cannot be read.
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
    """Whether 8-bit weights can saturate on this machine: x86 where VNNI is missing or unknown."""
    return platform.machine().lower() in _X86 and not isa_has_vnni()


def quantize_for_ort(
    fp32: Path | str | CalibrationRanges,
    int8_path: Path | str,
    calibration: Iterable[Floats] = (),
    *,
    per_channel: bool = True,
    reduce_range: bool | None = None,
    exclude: Sequence[str] = (),
    only: Sequence[str] = (),
    log: LogFunction = lambda line: None,
) -> FileMetadata:
    """Quantise an FP32 file to INT8 for ONNX Runtime on CPUs.

    Args:
        fp32: A file that `export_onnx` wrote, or ranges that were calibrated before.
        int8_path: Where the INT8 file goes; written atomically.
        calibration: Batches of normalised clips, float32 ``(b, 3, T, H, W)``; read once, in chunks. Unused with ranges.
        per_channel: One scale for each output channel of a weight; otherwise one for the whole weight.
        reduce_range: Weights have 7 bits. Without VNNI, sums of uint8 times int8 products can saturate, and the logits
            are wrong without any error; 7 bits prevent that at no cost in speed. None: whatever this machine needs. Set
            it explicitly if the file will run on another machine.
        exclude: Names of nodes that stay in FP32.
        only: Names of the nodes to quantise; empty: all nodes that can be quantised.
        log: Called with a line that states how much memory the calibration needs.

    Raises:
        UserError: The file is not an ONNX file, there are no calibration clips, or a batch has the wrong shape or
            contains NaN.
    """
    reduced = needs_reduced_range() if reduce_range is None else reduce_range
    ranges = fp32 if isinstance(fp32, CalibrationRanges) else CalibrationRanges(fp32, calibration, log=log)
    ranges.write_int8(
        int8_path,
        activations=QuantType.QUInt8,
        reduce_range=reduced,
        per_channel=per_channel,
        exclude=exclude,
        only=only,
    )
    operators = count_executed_operators(int8_path)
    metadata: FileMetadata = {
        "activations": "uint8",
        "vnni": isa_has_vnni(),
        "operators": operators,
        "convolutions": sum(op == "Conv" for _, op in ranges.layers),
        "convolutions_fused": sum(n for op, n in operators.items() if op in _INTEGER_CONVOLUTIONS),
    }
    return _quantization_metadata(ranges, reduced, per_channel, exclude) | metadata


def quantize_for_tensorrt(
    fp32: Path | str | CalibrationRanges,
    int8_path: Path | str,
    calibration: Iterable[Floats] = (),
    *,
    exclude: Sequence[str] = (),
    only: Sequence[str] = (),
    log: LogFunction = lambda line: None,
) -> FileMetadata:
    """Quantise an FP32 file to INT8 for TensorRT: symmetric int8 inputs and weights of layers, FP16 for the rest.

    ONNX Runtime can run this file too, with the same rounding but fewer integer kernels. Parity is therefore checked on
    ONNX Runtime; latency must not be.

    Arguments and errors are those of `quantize_for_ort`. Weights always have 8 bits, because GPUs do not saturate.

    Returns:
        Metadata as in `quantize_for_ort`, without ``vnni`` and ``convolutions_fused``.
    """
    ranges = fp32 if isinstance(fp32, CalibrationRanges) else CalibrationRanges(fp32, calibration, log=log)
    ranges.write_int8_for_tensorrt(int8_path, exclude=exclude, only=only)
    metadata: FileMetadata = {
        "activations": "int8, symmetric",
        "rest": "fp16",
        "operators": count_executed_operators(int8_path),
        "convolutions": sum(op == "Conv" for _, op in ranges.layers),
    }
    return _quantization_metadata(ranges, False, True, exclude) | metadata


def quantize_to_fp8(
    fp32: Path | str | CalibrationRanges,
    fp8_path: Path | str,
    calibration: Iterable[Floats] = (),
    *,
    exclude: Sequence[str] = (),
    only: Sequence[str] = (),
    log: LogFunction = lambda line: None,
) -> FileMetadata:
    """Quantise an FP32 file to FP8 (E4M3) for TensorRT: inputs and weights of layers; FP16 for the rest.

    ONNX Runtime can run this file too: it computes with the rounded numbers in FP32. Parity is therefore checked on
    ONNX Runtime; latency must not be.

    Arguments and errors are those of `quantize_for_ort`.

    Returns:
        Metadata as in `quantize_for_tensorrt`, with ``unsupported``.
    """
    ranges = fp32 if isinstance(fp32, CalibrationRanges) else CalibrationRanges(fp32, calibration, log=log)
    unsupported = ranges.write_fp8(fp8_path, exclude=exclude, only=only)
    metadata: FileMetadata = {
        "weights": "fp8 (E4M3)",
        "activations": "fp8 (E4M3)",
        "rest": "fp16",
        "unsupported": unsupported,
        "operators": count_executed_operators(fp8_path),
        "convolutions": sum(op == "Conv" for _, op in ranges.layers),
    }
    return _quantization_metadata(ranges, False, True, exclude) | metadata


def _quantization_metadata(
    ranges: CalibrationRanges, reduced: bool, per_channel: bool, exclude: Sequence[str]
) -> FileMetadata:
    return {
        "weights": "int8",
        "calibration": "minmax",
        "calibration_clips": ranges.clip_count,
        "per_channel": per_channel,
        "reduce_range": reduced,
        "excluded": list(exclude),
        "onnxruntime": ort.__version__,
    }


def convert_fp16(fp32_path: Path | str, fp16_path: Path | str) -> FileMetadata:
    """Convert an FP32 file to FP16: weights and operators in half precision, input and logits in float32.

    Args:
        fp32_path: A file that `export_onnx` wrote.
        fp16_path: Where the FP16 file goes; written atomically.

    Raises:
        UserError: The file is not an ONNX file or is quantised, or a weight is larger than FP16 can hold (65504) or
            NaN.
    """
    model = load_onnx(fp32_path)
    properties = {p.key: p.value for p in model.metadata_props}
    fp16_model = convert_model_to_half(model, fp32_path)
    onnx.helper.set_model_props(fp16_model, properties)
    write_atomic(fp16_path, fp16_model.SerializeToString(deterministic=True))
    return {"io": "float32", "operators": _count_operators(fp16_model), "onnxruntime": ort.__version__}


def convert_bf16(fp32_path: Path | str, bf16_path: Path | str) -> FileMetadata:
    """Convert an FP32 file to BF16: weights and operators in bfloat16 (opset 22), input and logits in float32.

    Args:
        fp32_path: A file that `export_onnx` wrote.
        bf16_path: Where the BF16 file goes; written atomically.

    Raises:
        UserError: The file is not an ONNX file, is quantised, or contains an operator that has no bfloat16 form.
    """
    model = load_onnx(fp32_path)
    properties = {p.key: p.value for p in model.metadata_props}
    bf16_model = convert_model_to_bfloat16(model, fp32_path)
    onnx.helper.set_model_props(bf16_model, properties)
    write_atomic(bf16_path, bf16_model.SerializeToString(deterministic=True))
    return {"io": "float32", "operators": _count_operators(bf16_model), "onnx": onnx.__version__}


def _count_operators(model: onnx.ModelProto) -> dict[str, int]:
    """How often each operator occurs in a file, most frequent first."""
    counts = Counter(node.op_type for node in model.graph.node)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def count_executed_operators(path: Path | str) -> dict[str, int]:
    """Count the operators that ONNX Runtime executes: those of the graph after its optimisations for this CPU.

    This shows whether an INT8 file computes in integers: a convolution that did not fuse with its Q/DQ nodes is still a
    ``Conv``.

    Returns:
        How often each operator occurs, most frequent first.

    Raises:
        UserError: ONNX Runtime cannot load the file.
    """
    with tempfile.TemporaryDirectory(prefix="skd-operators-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(optimised)
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            ort.InferenceSession(str(path), options, providers=[CPU_PROVIDER], disabled_optimizers=DISABLED_OPTIMISERS)
        except Exception as error:  # onnxruntime's error classes have no other common base class
            raise UserError(f"ONNX Runtime cannot load {path}: {str(error).splitlines()[0]}") from error
        return _count_operators(onnx.load(str(optimised)))
