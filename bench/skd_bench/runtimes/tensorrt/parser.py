"""Parses an ONNX file with TensorRT, reports parser errors as one sentence, and finds the clip and the logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skd_bench.errors import UserError
from skd_bench.runtimes.tensorrt.library import TensorRTLibrary, first_error, strip_source_location

_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})


def parse_onnx(lib: TensorRTLibrary, network: Any, onnx: Path) -> None:
    """Parse an ONNX file into a network.

    The parser gets the bytes and not the path, so that a file cannot refer to other files of this machine.

    Args:
        lib: The TensorRT library.
        network: The empty network to fill.
        onnx: The file.

    Raises:
        UserError: The file cannot be read, is not an ONNX file, or contains an operator that TensorRT does not support;
            the message contains the first such operator and its node.
    """
    try:
        data = onnx.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {onnx}: {error.strerror or error}") from error
    parser = lib.trt.OnnxParser(network, lib.log)
    if parser.parse(data) and network.num_layers:
        return
    if not parser.num_errors:
        raise UserError(f"{onnx} is not an ONNX file: {first_error(lib.log, 'it contains no network')}")
    problem = parser.get_error(0)
    more = f" (the first of {parser.num_errors} problems)" if parser.num_errors > 1 else ""
    operator, node = problem.node_operator(), problem.node_name()
    if not operator:
        reason = strip_source_location(_find_reason_line(problem.desc(), node))
        raise UserError(f"{onnx} is not an ONNX file that {lib.title} can read: {reason}")
    hint = ""
    if operator in _QDQ:
        hint = (
            "; it supports symmetric INT8 without quantised biases, and this file was quantised for another runtime: "
            "build from the FP32 or FP16 file"
        )
    raise UserError(
        f"{lib.title} does not support the operator {operator} at the node {node!r} of {onnx}{more}: "
        f"{strip_source_location(_find_reason_line(problem.desc(), node))}{hint}"
    )


def _find_reason_line(description: str, node: str) -> str:
    """The line of a description that contains the reason, without the node's name, which the caller reports."""
    lines = [line for line in description.splitlines() if line.strip()] or ["no reason given"]
    reason_line = next((line for line in lines if "Error Code" in line), lines[0])
    return reason_line.replace(f"{node}: ", "") if node else reason_line


def find_precision(lib: TensorRTLibrary, network: Any) -> str:
    """The narrowest type that a strongly typed network computes in: "int8", "fp8", "bf16", "fp16" or "fp32"."""
    trt = lib.trt
    found = set()
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        found |= {layer.get_output_type(i) for i in range(layer.num_outputs)}
    for name, precision in (("INT8", "int8"), ("FP8", "fp8"), ("BF16", "bf16"), ("HALF", "fp16")):
        if getattr(trt.DataType, name, None) in found:
            return precision
    return "fp32"


def find_clip_and_logits(lib: TensorRTLibrary, network: Any, onnx: Path) -> tuple[Any, Any]:
    """The tensors of the clip and of the logits of a network.

    Args:
        lib: The TensorRT library.
        network: The parsed network.
        onnx: Its file, for messages.

    Raises:
        UserError: The network does not have one input (B, 3, T, H, W), of which only the batch may be dynamic, and one
            float32 output (B, classes).
    """
    if (network.num_inputs, network.num_outputs) != (1, 1):
        raise UserError(
            f"{onnx} has {network.num_inputs} inputs and {network.num_outputs} outputs, "
            "but a video classifier must have one of each"
        )
    clip, logits = network.get_input(0), network.get_output(0)
    shapes = f"{onnx} maps {tuple(clip.shape)} to {tuple(logits.shape)}"
    if len(clip.shape) != 5 or min(list(clip.shape)[1:]) < 1:
        raise UserError(f"{shapes}; only the batch of a clip (B, 3, T, H, W) may be dynamic")
    if logits.dtype != lib.trt.float32 or len(logits.shape) != 2 or logits.shape[1] < 1:
        raise UserError(f"{shapes} as {logits.dtype}, but logits must be float32 (batch, classes)")
    return clip, logits
