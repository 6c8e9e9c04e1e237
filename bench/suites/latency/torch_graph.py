"""Translates an ONNX file into a PyTorch module with the same graph and weights, so that both are comparable.

The module is set up for speed: the export folded BatchNorm, weights are channels-last, and activations after a
convolution work in place. The file contains no code that is executed: its operators select functions from a fixed
table.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.errors import UserError
from skd_bench.runtimes.base import TensorSpec, first_error_line

_QUANTISED_OPERATORS = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger"}
_DTYPES = {1: "float32", 2: "uint8", 10: "float16"}  # onnx.TensorProto's numbers
_NEW_TENSOR_OPERATORS = {
    "Conv",
    "Gemm",
    "MatMul",
    "Add",
    "Mul",
}  # their result is a new tensor, which may be overwritten


class _OnnxNode:
    """One operator during translation: its inputs as fx nodes or constants, and its attributes."""

    def __init__(
        self, proto: Any, attributes: dict[str, Any], values: dict[str, Any], constants: dict[str, Any]
    ) -> None:
        self.proto, self._attributes, self._values, self._constants = proto, attributes, values, constants

    def get_attribute(self, name: str, default: Any = None) -> Any:
        return self._attributes.get(name, default)

    def input_tensor(self, index: int) -> Any:
        return self._values[self.proto.input[index]]

    def has_input(self, index: int) -> bool:
        return len(self.proto.input) > index and bool(self.proto.input[index])

    def input_constant(self, index: int) -> Any:
        name = self.proto.input[index]
        if name not in self._constants:
            raise UserError(
                f"its {self.proto.op_type} has the input {name!r}, which is computed; it must be a constant"
            )
        return self._constants[name]


def build_torch_module(path: Path) -> tuple[Any, TensorSpec, TensorSpec]:
    """Translate the network of an ONNX file.

    Returns:
        A `torch.fx.GraphModule` in eval mode, and the specifications of its input and its output.

    Raises:
        UserError: The file is not an ONNX file with one input and one output, or it contains an operator that is not
            translated.
    """
    onnx = importlib.import_module("onnx")
    try:
        graph = onnx.load_model_from_string(path.read_bytes()).graph
    except Exception as error:  # protobuf's own
        raise UserError(f"PyTorch cannot load {path}: it is not an ONNX file ({first_error_line(error)})") from error
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    clip, logits = _read_single_tensor(path, "input", inputs), _read_single_tensor(path, "output", list(graph.output))
    try:
        return _translate_graph(onnx, graph, constants, clip.name, logits.name), clip, logits
    except UserError as error:
        raise UserError(f"PyTorch cannot load {path}: {error}") from error
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"PyTorch cannot load {path}: its graph is malformed ({first_error_line(error)})") from error


def _translate_graph(onnx: Any, graph: Any, constants: dict[str, Any], clip: str, logits: str) -> Any:
    torch = importlib.import_module("torch")
    root, traced = torch.nn.Module(), torch.fx.Graph()
    values = _GraphValues(torch, root, traced, constants)
    values[clip] = traced.placeholder("clip")
    uses = Counter(name for node in graph.node for name in node.input)
    fresh: set[str] = set()
    for proto in graph.node:
        kind = proto.op_type
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        if kind == "Constant":
            constants[proto.output[0]] = onnx.numpy_helper.to_array(attributes["value"])
            continue
        if kind not in OPERATOR_TRANSLATIONS:
            quantised = kind in _QUANTISED_OPERATORS
            reason = "it is quantised; PyTorch's rows are FP32" if quantised else "it is not translated to PyTorch"
            raise UserError(f"it holds the operator {kind}: {reason}")
        node = _OnnxNode(proto, attributes, values, constants)
        in_place = proto.input[0] in fresh and uses[proto.input[0]] == 1
        result = OPERATOR_TRANSLATIONS[kind](_GraphBuilder(torch, traced, root, in_place), node)
        values[proto.output[0]] = result
        fresh |= {proto.output[0]} if kind in _NEW_TENSOR_OPERATORS else set()
    traced.output(values[logits])
    return torch.fx.GraphModule(root, traced).eval()


class _GraphValues(dict[str, Any]):
    """The fx node of each name; a constant is registered as a buffer when it is first used."""

    def __init__(self, torch: Any, root: Any, traced: Any, constants: dict[str, Any]) -> None:
        super().__init__()
        self._torch, self._root, self._traced, self._constants = torch, root, traced, constants

    def __missing__(self, name: str) -> Any:
        if name not in self._constants:
            raise UserError(f"its graph uses {name!r}, which no node or constant defines")
        builder = _GraphBuilder(self._torch, self._traced, self._root, False)
        self[name] = builder.add_weight(self._constants[name])
        return self[name]


class _GraphBuilder:
    """Adds calls and weights to the traced graph."""

    def __init__(self, torch: Any, traced: Any, root: Any, in_place: bool) -> None:
        self.torch, self.functional, self.in_place = torch, torch.nn.functional, in_place
        self._traced, self._root = traced, root

    def add_call(self, function: Any, *arguments: Any, **named: Any) -> Any:
        return self._traced.call_function(function, arguments, named)

    def add_weight(self, array: Any) -> Any:
        name = f"w{len(list(self._root.buffers()))}"
        tensor = self.torch.from_numpy(np.array(array))  # a copy, because onnx returns views of its message
        layout = {4: self.torch.channels_last, 5: self.torch.channels_last_3d}.get(tensor.ndim)
        self._root.register_buffer(name, tensor if layout is None else tensor.contiguous(memory_format=layout))
        return self._traced.get_attr(name)


OperatorTranslation = Callable[[_GraphBuilder, _OnnxNode], Any]


def _translate_conv(builder: _GraphBuilder, node: _OnnxNode) -> Any:
    kernel = np.asarray(node.input_constant(1))
    spatial = kernel.ndim - 2
    pads = [int(p) for p in node.get_attribute("pads", [0] * 2 * spatial)]
    x, before, after = node.input_tensor(0), pads[:spatial], pads[spatial:]
    if node.get_attribute("auto_pad", b"NOTSET") != b"NOTSET":
        raise UserError("its Conv uses auto_pad; export it with explicit pads")
    if before != after:
        x = builder.add_call(builder.functional.pad, x, _to_torch_pads(pads))
        before = [0] * spatial
    bias = node.input_tensor(2) if node.has_input(2) else None
    strides, dilations = (tuple(int(v) for v in node.get_attribute(k, [1] * spatial)) for k in ("strides", "dilations"))
    function = getattr(builder.functional, f"conv{spatial}d")
    return builder.add_call(
        function, x, node.input_tensor(1), bias, strides, tuple(before), dilations, int(node.get_attribute("group", 1))
    )


def _to_torch_pads(pads: list[int]) -> list[int]:
    """Reorder pads: ONNX lists the starts of all axes, then the ends; PyTorch lists axis by axis from the last one."""
    half = len(pads) // 2
    return [p for axis in reversed(range(half)) for p in (pads[axis], pads[half + axis])]


def _translate_gemm(builder: _GraphBuilder, node: _OnnxNode) -> Any:
    if node.get_attribute("transA", 0) or node.get_attribute("alpha", 1.0) != 1 or node.get_attribute("beta", 1.0) != 1:
        raise UserError("its Gemm has transA, alpha or beta, so it is not a plain linear layer")
    weight = np.asarray(node.input_constant(1))
    weight = weight if node.get_attribute("transB", 0) else np.ascontiguousarray(weight.T)
    bias = node.input_tensor(2) if node.has_input(2) else None
    return builder.add_call(builder.functional.linear, node.input_tensor(0), builder.add_weight(weight), bias)


def _translate_reshape(builder: _GraphBuilder, node: _OnnxNode) -> Any:
    shape = [int(n) for n in node.input_constant(1)]
    x = node.input_tensor(0)
    if not node.get_attribute("allowzero", 0):
        shape = [builder.add_call(builder.torch.Tensor.size, x, axis) if n == 0 else n for axis, n in enumerate(shape)]
    return builder.add_call(builder.torch.reshape, x, tuple(shape))


def _translate_flatten(builder: _GraphBuilder, node: _OnnxNode) -> Any:
    if node.get_attribute("axis", 1) != 1:
        raise UserError("its Flatten merges the batch with other axes; export it with axis=1")
    return builder.add_call(builder.torch.flatten, node.input_tensor(0), 1)


def _translate_clip(builder: _GraphBuilder, node: _OnnxNode) -> Any:
    low, high = (float(node.input_constant(i)) if node.has_input(i) else None for i in (1, 2))
    return builder.add_call(
        builder.torch.clamp_ if builder.in_place else builder.torch.clamp, node.input_tensor(0), low, high
    )


def _translate_reduce_mean(builder: _GraphBuilder, node: _OnnxNode) -> Any:
    axes = node.input_constant(1) if node.has_input(1) else node.get_attribute("axes", [])
    axes = tuple(int(a) for a in axes)
    return builder.add_call(builder.torch.mean, node.input_tensor(0), axes, bool(node.get_attribute("keepdims", 1)))


def _translate_global_average_pool(builder: _GraphBuilder, node: _OnnxNode) -> Any:
    return builder.add_call(builder.functional.adaptive_avg_pool2d, node.input_tensor(0), 1)


def _make_pool_translation(kind: str) -> OperatorTranslation:
    def translate_pool(builder: _GraphBuilder, node: _OnnxNode) -> Any:
        kernel = tuple(int(k) for k in node.get_attribute("kernel_shape"))
        pads = [int(p) for p in node.get_attribute("pads", [0] * 2 * len(kernel))]
        if pads[: len(kernel)] != pads[len(kernel) :] or node.get_attribute("ceil_mode", 0):
            raise UserError(f"its {node.proto.op_type} has uneven padding or ceil_mode, which is not translated")
        if kind == "avg" and any(pads) and not node.get_attribute("count_include_pad", 0):
            raise UserError("its AveragePool does not count padding in the mean, which is not translated")
        strides = tuple(int(s) for s in node.get_attribute("strides", [1] * len(kernel)))
        function = getattr(builder.functional, f"{kind}_pool{len(kernel)}d")
        return builder.add_call(function, node.input_tensor(0), kernel, strides, tuple(pads[: len(kernel)]))

    return translate_pool


def _make_activation_translation(name: str) -> OperatorTranslation:
    def translate_activation(builder: _GraphBuilder, node: _OnnxNode) -> Any:
        return builder.add_call(getattr(builder.functional, name), node.input_tensor(0), inplace=builder.in_place)

    return translate_activation


def _make_elementwise_translation(name: str) -> OperatorTranslation:
    def translate_elementwise(builder: _GraphBuilder, node: _OnnxNode) -> Any:
        return builder.add_call(getattr(builder.torch, name), node.input_tensor(0), node.input_tensor(1))

    return translate_elementwise


def _translate_sigmoid(builder: _GraphBuilder, node: _OnnxNode) -> Any:
    return builder.add_call(builder.torch.sigmoid, node.input_tensor(0))


def _translate_transpose(builder: _GraphBuilder, node: _OnnxNode) -> Any:
    return builder.add_call(
        builder.torch.permute, node.input_tensor(0), tuple(int(p) for p in node.get_attribute("perm"))
    )


def _translate_concat(builder: _GraphBuilder, node: _OnnxNode) -> Any:
    return builder.add_call(
        builder.torch.cat, [node.input_tensor(i) for i in range(len(node.proto.input))], int(node.get_attribute("axis"))
    )


def _translate_identity(builder: _GraphBuilder, node: _OnnxNode) -> Any:
    return node.input_tensor(0)


def _translate_cast(builder: _GraphBuilder, node: _OnnxNode) -> Any:
    if node.get_attribute("to") != 1:
        raise UserError("it has a Cast to a type other than float32, which is not translated")
    return builder.add_call(builder.torch.Tensor.to, node.input_tensor(0), builder.torch.float32)


OPERATOR_TRANSLATIONS: dict[str, OperatorTranslation] = {
    "Conv": _translate_conv,
    "Gemm": _translate_gemm,
    "MatMul": _make_elementwise_translation("matmul"),
    "Reshape": _translate_reshape,
    "Flatten": _translate_flatten,
    "Transpose": _translate_transpose,
    "Concat": _translate_concat,
    "Identity": _translate_identity,
    "Dropout": _translate_identity,
    "Cast": _translate_cast,
    "Relu": _make_activation_translation("relu"),
    "HardSwish": _make_activation_translation("hardswish"),
    "Sigmoid": _translate_sigmoid,
    "Clip": _translate_clip,
    "Add": _make_elementwise_translation("add"),
    "Sub": _make_elementwise_translation("sub"),
    "Mul": _make_elementwise_translation("mul"),
    "Div": _make_elementwise_translation("div"),
    "ReduceMean": _translate_reduce_mean,
    "GlobalAveragePool": _translate_global_average_pool,
    "MaxPool": _make_pool_translation("max"),
    "AveragePool": _make_pool_translation("avg"),
}


def _read_single_tensor(path: Path, role: str, values: list[Any]) -> TensorSpec:
    if len(values) != 1:
        raise UserError(f"{path} has {len(values)} {role}s; a network for clips has exactly one")
    kind = values[0].type.tensor_type
    if kind.elem_type not in _DTYPES:
        types = ", ".join(_DTYPES.values())
        raise UserError(f"the type of the {role} {values[0].name!r} of {path} is not supported; supported are {types}")
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return TensorSpec(values[0].name, shape, _DTYPES[kind.elem_type])
