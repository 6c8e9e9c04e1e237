"""What TensorRT's ONNX parser makes of a file, and its complaints as one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skd_bench.errors import UserError
from skd_bench.runtimes.tensorrt.library import TensorRTLibrary, first_error, strip_source_location

_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})


def parse_onnx(lib: TensorRTLibrary, network: Any, onnx: Path) -> None:
    """Fill a network from a file's bytes: the parser gets no path, so that a file cannot name further files.

    Raises:
        UserError: The file cannot be read or is no ONNX file, or names the first operator and node that are not taken.
    """
    try:
        data = onnx.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {onnx}: {error.strerror or error}") from error
    parser = lib.trt.OnnxParser(network, lib.log)
    if parser.parse(data) and network.num_layers:
        return
    if not parser.num_errors:
        raise UserError(f"{onnx} is no ONNX file: {first_error(lib.log, 'it holds no network')}")
    problem = parser.get_error(0)
    more = f" (the first of {parser.num_errors} problems)" if parser.num_errors > 1 else ""
    operator, node = problem.node_operator(), problem.node_name()
    if not operator:
        reason = strip_source_location(_find_reason_line(problem.desc(), node))
        raise UserError(f"{onnx} is no ONNX file that {lib.title} can read: {reason}")
    hint = ""
    if operator in _QDQ:
        hint = (
            "; it takes symmetric INT8 without quantised biases, and this file was quantised for another runtime: "
            "build from the FP32 or FP16 file"
        )
    raise UserError(
        f"{lib.title} does not take the operator {operator} at the node {node!r} of {onnx}{more}: "
        f"{strip_source_location(_find_reason_line(problem.desc(), node))}{hint}"
    )


def _find_reason_line(description: str, node: str) -> str:
    """The line of a parser's description that says why, without the node's name that stands there already."""
    lines = [line for line in description.splitlines() if line.strip()] or ["no reason given"]
    reason_line = next((line for line in lines if "Error Code" in line), lines[0])
    return reason_line.replace(f"{node}: ", "") if node else reason_line


def find_clip_and_logits(lib: TensorRTLibrary, network: Any, onnx: Path) -> tuple[Any, Any]:
    """The clip's and the logits' tensor of a network that has the one and the other, and no more.

    Raises:
        UserError: It has others, or of other shapes: (B, 3, T, H, W) in, of which only the batch may be dynamic, and
            float32 (B, classes) out.
    """
    if (network.num_inputs, network.num_outputs) != (1, 1):
        raise UserError(
            f"{onnx} has {network.num_inputs} inputs and {network.num_outputs} outputs; a clip network has one of each"
        )
    clip, logits = network.get_input(0), network.get_output(0)
    shapes = f"{onnx} maps {tuple(clip.shape)} to {tuple(logits.shape)}"
    if len(clip.shape) != 5 or min(list(clip.shape)[1:]) < 1:
        raise UserError(f"{shapes}; only the batch of a clip (B, 3, T, H, W) may be dynamic")
    if logits.dtype != lib.trt.float32 or len(logits.shape) != 2 or logits.shape[1] < 1:
        raise UserError(f"{shapes} as {logits.dtype}; logits are float32 (batch, classes)")
    return clip, logits
