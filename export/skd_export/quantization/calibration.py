"""Calibration: runs clips through an FP32 file and records the range of every tensor, from which INT8 files are made.

A range is the minimum and maximum of a tensor, reduced inside the graph, so memory does not grow with the number of
clips. On 128 clips of 8x32x32 this took about one second; the percentile calibrator took 3 to 15 s and 1 GiB for the
same accuracy.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import add_pre_process_metadata
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_export.graph.onnx_export import load_onnx
from skd_export.quantization.data_movement import simplify_pairs
from skd_export.quantization.fp8 import quantize_graph_to_fp8
from skd_export.quantization.half import HALF_QDQ_OPSET, convert_model_to_half
from skd_export.quantization.qdq_placement import place_for_tensorrt

Floats = npt.NDArray[np.float32]
LogFunction = Callable[[str], None]
CHUNK_SIZE = 8
_MAX_CHUNK_BYTES = 2**30  # of activations in a chunk; if there are more, chunks are smaller
LAYER_OPERATORS = ("Conv", "Gemm", "MatMul")
_INT8_MAX = 127


class CalibrationRanges:
    """An FP32 file and the ranges of its tensors on the calibration clips.

    Args:
        fp32_path: A file that `export_onnx` wrote.
        clips: Batches of normalised clips, float32 ``(b, 3, T, H, W)``; read once, in chunks of at most 8 clips.
        log: Called with a line that states how much memory is needed, before the first clip is read.
        sample_size: How many clips to store for measuring the sensitivity of layers.

    Attributes:
        clip_count: How many clips were read.
        sample_clips: The first of them, at most ``sample_size``, float32 ``(n, 3, T, H, W)``.
        layers: Name and operator of each layer that can be quantised.

    Raises:
        UserError: The file is not an ONNX file, there are no clips, or a batch has the wrong shape or contains NaN.
    """

    def __init__(
        self,
        fp32_path: Path | str,
        clips: Iterable[Floats],
        *,
        log: LogFunction = lambda line: None,
        sample_size: int = 128,
    ) -> None:
        model = onnx.shape_inference.infer_shapes(load_onnx(fp32_path), strict_mode=True, data_prop=True)
        self.properties = {p.key: p.value for p in model.metadata_props}
        self.layers = [(node.name, node.op_type) for node in model.graph.node if node.op_type in LAYER_OPERATORS]
        add_pre_process_metadata(model)  # the exporter has already folded batch norms and constants: skip that step
        chunk_size = choose_chunk_size(model)
        megabytes = chunk_size * estimate_clip_bytes(model) / 1e6
        log(f"calibration streams chunks of {chunk_size} clips: up to {megabytes:.0f} MB of activations")
        reader = _CalibrationClipReader(clips, model.graph.input[0], chunk_size, sample_size)
        with tempfile.TemporaryDirectory(prefix="skd-int8-") as folder, quiet_root_logger():
            source = Path(folder) / "fp32.onnx"
            onnx.save(model, source)
            # Without max_intermediate_outputs: onnxruntime 1.32 discards what was collected when that limit is reached
            # (at a multiple of it no data is left). Only two numbers are stored for each tensor and chunk.
            calibrator = create_calibrator(
                source, _OPERATORS, str(Path(folder) / "augmented.onnx"), CalibrationMethod.MinMax
            )
            calibrator.collect_data(reader)
            self._ranges = calibrator.compute_data()
        self._model, self.clip_count = model, reader.clip_count
        self.sample_clips = np.concatenate(reader.sample_clips)

    def write_int8(
        self,
        path: Path | str,
        *,
        activations: QuantType,
        reduce_range: bool,
        per_channel: bool = True,
        only: Sequence[str] = (),
        exclude: Sequence[str] = (),
        operators: Sequence[str] = (),
        **options: bool,
    ) -> None:
        """Write an INT8 file: int8 weights, and Q/DQ nodes around the quantised operators.

        Args:
            path: Where the file goes; written atomically.
            activations: Type of the activations.
            reduce_range: Weights have 7 bits.
            per_channel: One scale for each output channel of a weight; otherwise one for the whole weight.
            only: Names of the nodes to quantise; empty: all nodes that can be quantised.
            exclude: Names of nodes that stay in FP32.
            operators: Kinds of nodes to quantise; empty: all kinds that can be quantised.
            options: Extra options of ONNX Runtime's quantiser.
        """
        settings = (per_channel, reduce_range, QuantType.QInt8, activations)
        nodes = (list(only), list(exclude), list(operators) or _OPERATORS)
        quantised = self._quantise(settings, nodes, options)
        simplify_pairs(quantised.graph)
        self._write(path, quantised, exclude)

    def write_int8_for_tensorrt(
        self, path: Path | str, *, only: Sequence[str] = (), exclude: Sequence[str] = ()
    ) -> None:
        """Write a symmetric INT8 file whose other operators compute in FP16 (opset 21), with float32 input and logits.

        Q/DQ nodes stand where TensorRT needs them (`skd_export.quantization.qdq_placement`).

        Args:
            path: Where the file goes; written atomically.
            only: Names of the nodes to quantise; empty: all convolutions and matrix products.
            exclude: Names of nodes that are not quantised.

        Raises:
            UserError: A weight is larger than FP16 can hold.
        """
        options = {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(LAYER_OPERATORS),
        }
        settings = (True, False, QuantType.QInt8, QuantType.QInt8)
        quantised = self._quantise(settings, (list(only), list(exclude), list(LAYER_OPERATORS)), options)
        place_for_tensorrt(quantised.graph, LAYER_OPERATORS, self._find_symmetric_scale)
        _shield_excluded_nodes(quantised.graph, set(exclude))
        self._write(path, convert_model_to_half(version_converter.convert_version(quantised, HALF_QDQ_OPSET), path))

    def write_fp8(self, path: Path | str, *, only: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[str]:
        """Write a file that computes layers in FP8 (E4M3) and the rest in FP16 (opset 21); float32 input and logits.

        Args:
            path: Where the file goes; written atomically.
            only: Names of the nodes to quantise; empty: all convolutions and matrix products.
            exclude: Names of nodes that are not quantised.

        Returns:
            Names of the nodes that stay in FP16 because FP8 has no kernels for them (`skd_export.quantization.fp8`).

        Raises:
            UserError: A weight is larger than FP16 can hold.
        """
        model = version_converter.convert_version(self._model, HALF_QDQ_OPSET)
        layers = {name for name, _ in self.layers if not only or name in only} - {*exclude}
        skipped = quantize_graph_to_fp8(model.graph, layers, self._find_largest_value)
        _shield_excluded_nodes(model.graph, {*exclude})
        del model.graph.value_info[:]
        self._write(path, convert_model_to_half(model, path))
        return skipped

    def _quantise(
        self,
        settings: tuple[bool, bool, QuantType, QuantType],
        nodes: tuple[list[str], list[str], list[str]],
        options: Mapping[str, Any],
    ) -> onnx.ModelProto:
        """The model with Q/DQ nodes; settings and nodes are the positional arguments of ONNX Runtime's quantiser."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        with quiet_root_logger():
            # The quantiser widens ranges in place (of a ReLU's input, for example), so each call gets its own copy.
            ranges, given = copy.deepcopy(self._ranges), {k: v for k, v in options.items() if v is not None}
            quantiser = QDQQuantizer(model, *settings, ranges, *nodes, given)
            quantiser.quantize_model()
            quantiser.model.topological_sort()
        quantised: onnx.ModelProto = quantiser.model.model
        return quantised

    def _write(self, path: Path | str, quantised: onnx.ModelProto, shielded: Sequence[str] = ()) -> None:
        _shield_excluded_nodes(quantised.graph, set(shielded))
        del quantised.metadata_props[:]
        onnx.helper.set_model_props(quantised, self.properties)
        write_atomic(path, quantised.SerializeToString(deterministic=True))

    def tensor_ranges(self) -> dict[str, tuple[float, float]]:
        """The smallest and the largest value of each tensor on the calibration clips."""
        return {
            name: (float(np.squeeze(found.range_value[0])), float(np.squeeze(found.range_value[1])))
            for name, found in self._ranges.data.items()
        }

    def _find_symmetric_scale(self, tensor: str) -> float | None:
        """The scale of symmetric INT8 for a tensor of the FP32 file; None where it has no range, or is always 0."""
        largest = self._find_largest_value(tensor)
        return largest and largest / _INT8_MAX

    def _find_largest_value(self, tensor: str) -> float | None:
        """The largest absolute value of a tensor of the FP32 file; None where it has no range, or is always 0."""
        low, high = self.tensor_ranges().get(tensor, (0.0, 0.0))
        return max(abs(low), abs(high)) or None


def _shield_excluded_nodes(graph: onnx.GraphProto, excluded: set[str]) -> None:
    """Stop ONNX Runtime from quantising the excluded nodes itself.

    When it loads a file, ONNX Runtime quantises the weights of every layer between a ``DequantizeLinear`` and a
    ``QuantizeLinear``, also with a ReLU or clip before the latter (WeightBiasQuantization, seen in 1.32). Its scales
    are coarser than ours. A leaky ReLU with slope 1 after the layer prevents this: it changes no value and is fused
    into the layer.
    """
    ends, nodes = {value.name for value in graph.output}, []
    for node in graph.node:
        nodes.append(node)
        if node.name in excluded and (out := node.output[0]) not in ends:
            node.output[0] = f"{out}_held"
            nodes.append(onnx.helper.make_node("LeakyRelu", [node.output[0]], [out], f"{node.name}_held", alpha=1.0))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def estimate_clip_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all activations of one clip, as if none were freed: an upper bound of what calibration needs."""
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    shapes = ([d.dim_value or 1 for d in v.type.tensor_type.shape.dim] for v in values)
    return sum(4 * math.prod(shape) for shape in shapes)


def choose_chunk_size(model: onnx.ModelProto) -> int:
    """How many clips are calibrated at a time, 1 to 8."""
    return max(min(CHUNK_SIZE, _MAX_CHUNK_BYTES // max(estimate_clip_bytes(model), 1)), 1)


_OPERATORS = sorted({*QLinearOpsRegistry, *QDQRegistry})


@contextlib.contextmanager
def quiet_root_logger() -> Iterator[None]:
    """Hide the quantiser's warnings, and remove the handler that it installs on the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


class _CalibrationClipReader(CalibrationDataReader):  # type: ignore[misc]
    """Passes calibration batches to the quantiser in chunks, and checks them."""

    def __init__(
        self, batches: Iterable[Floats], input_info: onnx.ValueInfoProto, chunk_size: int, sample_size: int
    ) -> None:
        self.name = input_info.name
        self.shape = tuple(d.dim_value for d in input_info.type.tensor_type.shape.dim[1:])
        self.clip_count, self.chunk_size, self.sample_size = 0, chunk_size, sample_size
        self.sample_clips: list[Floats] = []
        self.chunks = self._iter_chunks(batches)

    def get_next(self) -> dict[str, Floats] | None:
        chunk = next(self.chunks, None)
        return None if chunk is None else {self.name: chunk}

    def _iter_chunks(self, batches: Iterable[Floats]) -> Iterator[Floats]:
        for batch in batches:
            if batch.dtype != np.float32 or batch.shape[1:] != self.shape:
                raise UserError(
                    f"calibration clips must be float32 (b, {', '.join(map(str, self.shape))}), "
                    f"not {batch.dtype} {batch.shape}; normalise them as the manifest describes"
                )
            if not np.isfinite(batch).all():
                raise UserError("a calibration clip contains NaN or infinity; check mean and std of the preprocessing")
            for start in range(0, len(batch), self.chunk_size):
                chunk = np.ascontiguousarray(batch[start : start + self.chunk_size])
                if self.clip_count < self.sample_size:
                    self.sample_clips.append(chunk[: self.sample_size - self.clip_count].copy())
                self.clip_count += len(chunk)
                yield chunk
        if self.clip_count == 0:
            raise UserError("INT8 needs calibration clips, but there are none; set export.calibration_clips above 0")
