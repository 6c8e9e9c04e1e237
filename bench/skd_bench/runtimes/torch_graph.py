"""An ONNX file as a PyTorch module: the same graph and weights, so that PyTorch's row in a table is of the same file.

BatchNorm was folded by the export, weights lie channels-last, activations behind a convolution work in place: PyTorch
at its best. Nothing of the file is executed: its operators select functions from a fixed table.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.errors import UserError
from skd_bench.runtimes.base import TensorSpec, first_line

_QUANTISED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger"}
_DTYPES = {1: "float32", 2: "uint8", 10: "float16"}  # onnx.TensorProto's numbers
_FRESH = {"Conv", "Gemm", "MatMul", "Add", "Mul"}  # their result is a new tensor: it may be overwritten


class _Node:
    """One operator while it is translated: its inputs as fx nodes or constants, and its attributes."""

    def __init__(
        self, proto: Any, attributes: dict[str, Any], values: dict[str, Any], constants: dict[str, Any]
    ) -> None:
        self.proto, self._attributes, self._values, self._constants = proto, attributes, values, constants

    def get(self, name: str, default: Any = None) -> Any:
        return self._attributes.get(name, default)

    def tensor(self, index: int) -> Any:
        return self._values[self.proto.input[index]]

    def has(self, index: int) -> bool:
        return len(self.proto.input) > index and bool(self.proto.input[index])

    def constant(self, index: int) -> Any:
        name = self.proto.input[index]
        if name not in self._constants:
            raise UserError(f"its {self.proto.op_type} takes {name!r}, which is computed; PyTorch's row needs it fixed")
        return self._constants[name]


def torch_module(path: Path) -> tuple[Any, TensorSpec, TensorSpec]:
    """The network of a file as a `torch.fx.GraphModule`, its input and its output.

    Raises:
        UserError: It is no ONNX file with one input and one output, or holds an operator that is not translated.
    """
    onnx = importlib.import_module("onnx")
    try:
        graph = onnx.load_model_from_string(path.read_bytes()).graph
    except Exception as error:  # protobuf's own
        raise UserError(f"PyTorch cannot take {path}: it is no ONNX file ({first_line(error)})") from error
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    clip, logits = _only(path, "input", inputs), _only(path, "output", list(graph.output))
    try:
        return _translate(onnx, graph, constants, clip.name, logits.name), clip, logits
    except UserError as error:
        raise UserError(f"PyTorch cannot take {path}: {error}") from error
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"PyTorch cannot take {path}: its graph is malformed ({first_line(error)})") from error


def _translate(onnx: Any, graph: Any, constants: dict[str, Any], clip: str, logits: str) -> Any:
    torch = importlib.import_module("torch")
    root, traced = torch.nn.Module(), torch.fx.Graph()
    values = _Values(torch, root, traced, constants)
    values[clip] = traced.placeholder("clip")
    uses = Counter(name for node in graph.node for name in node.input)
    fresh: set[str] = set()
    for proto in graph.node:
        kind = proto.op_type
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        if kind == "Constant":
            constants[proto.output[0]] = onnx.numpy_helper.to_array(attributes["value"])
            continue
        if kind not in OPERATORS:
            why = "it is quantised; PyTorch's rows are FP32" if kind in _QUANTISED else "it is not translated"
            raise UserError(f"it holds the operator {kind}: {why}")
        node = _Node(proto, attributes, values, constants)
        in_place = proto.input[0] in fresh and uses[proto.input[0]] == 1
        result = OPERATORS[kind](_Maker(torch, traced, root, in_place), node)
        values[proto.output[0]] = result
        fresh |= {proto.output[0]} if kind in _FRESH else set()
    traced.output(values[logits])
    return torch.fx.GraphModule(root, traced).eval()


class _Values(dict[str, Any]):
    """What each name stands for; a constant becomes a buffer when it is first asked for."""

    def __init__(self, torch: Any, root: Any, traced: Any, constants: dict[str, Any]) -> None:
        super().__init__()
        self._torch, self._root, self._traced, self._constants = torch, root, traced, constants

    def __missing__(self, name: str) -> Any:
        if name not in self._constants:
            raise UserError(f"its graph uses {name!r}, which nothing gives")
        maker = _Maker(self._torch, self._traced, self._root, False)
        self[name] = maker.weight(self._constants[name])
        return self[name]


class _Maker:
    """Writes calls into the traced graph."""

    def __init__(self, torch: Any, traced: Any, root: Any, in_place: bool) -> None:
        self.torch, self.functional, self.in_place = torch, torch.nn.functional, in_place
        self._traced, self._root = traced, root

    def call(self, function: Any, *arguments: Any, **named: Any) -> Any:
        return self._traced.call_function(function, arguments, named)

    def weight(self, array: Any) -> Any:
        name = f"w{len(list(self._root.buffers()))}"
        tensor = self.torch.from_numpy(np.array(array))  # a copy: onnx gives views of its message
        layout = {4: self.torch.channels_last, 5: self.torch.channels_last_3d}.get(tensor.ndim)
        self._root.register_buffer(name, tensor if layout is None else tensor.contiguous(memory_format=layout))
        return self._traced.get_attr(name)


Operator = Callable[[_Maker, _Node], Any]


def _conv(make: _Maker, node: _Node) -> Any:
    kernel = np.asarray(node.constant(1))
    spatial = kernel.ndim - 2
    pads = [int(p) for p in node.get("pads", [0] * 2 * spatial)]
    x, before, after = node.tensor(0), pads[:spatial], pads[spatial:]
    if node.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise UserError("its Conv pads automatically; export it with explicit pads")
    if before != after:
        x = make.call(make.functional.pad, x, _torch_pads(pads))
        before = [0] * spatial
    bias = node.tensor(2) if node.has(2) else None
    strides, dilations = (tuple(int(v) for v in node.get(k, [1] * spatial)) for k in ("strides", "dilations"))
    function = getattr(make.functional, f"conv{spatial}d")
    return make.call(function, x, node.tensor(1), bias, strides, tuple(before), dilations, int(node.get("group", 1)))


def _torch_pads(pads: list[int]) -> list[int]:
    """ONNX names the begins of all axes, then the ends; PyTorch goes axis by axis from the last."""
    half = len(pads) // 2
    return [p for axis in reversed(range(half)) for p in (pads[axis], pads[half + axis])]


def _gemm(make: _Maker, node: _Node) -> Any:
    if node.get("transA", 0) or node.get("alpha", 1.0) != 1 or node.get("beta", 1.0) != 1:
        raise UserError("its Gemm is more than a linear layer")
    weight = np.asarray(node.constant(1))
    weight = weight if node.get("transB", 0) else np.ascontiguousarray(weight.T)
    bias = node.tensor(2) if node.has(2) else None
    return make.call(make.functional.linear, node.tensor(0), make.weight(weight), bias)


def _reshape(make: _Maker, node: _Node) -> Any:
    shape = [int(n) for n in node.constant(1)]
    x = node.tensor(0)
    if not node.get("allowzero", 0):
        shape = [make.call(make.torch.Tensor.size, x, axis) if n == 0 else n for axis, n in enumerate(shape)]
    return make.call(make.torch.reshape, x, tuple(shape))


def _flatten(make: _Maker, node: _Node) -> Any:
    if node.get("axis", 1) != 1:
        raise UserError("its Flatten does not keep the batch")
    return make.call(make.torch.flatten, node.tensor(0), 1)


def _clip(make: _Maker, node: _Node) -> Any:
    low, high = (float(node.constant(i)) if node.has(i) else None for i in (1, 2))
    return make.call(make.torch.clamp_ if make.in_place else make.torch.clamp, node.tensor(0), low, high)


def _mean(make: _Maker, node: _Node) -> Any:
    axes = node.constant(1) if node.has(1) else node.get("axes", [])
    axes = tuple(int(a) for a in axes)
    return make.call(make.torch.mean, node.tensor(0), axes, bool(node.get("keepdims", 1)))


def _global_mean(make: _Maker, node: _Node) -> Any:
    return make.call(make.functional.adaptive_avg_pool2d, node.tensor(0), 1)


def _pool(kind: str) -> Operator:
    def pool(make: _Maker, node: _Node) -> Any:
        kernel = tuple(int(k) for k in node.get("kernel_shape"))
        pads = [int(p) for p in node.get("pads", [0] * 2 * len(kernel))]
        if pads[: len(kernel)] != pads[len(kernel) :] or node.get("ceil_mode", 0):
            raise UserError(f"its {node.proto.op_type} pads unevenly")
        if kind == "avg" and any(pads) and not node.get("count_include_pad", 0):
            raise UserError("its AveragePool leaves padding out of the mean")
        strides = tuple(int(s) for s in node.get("strides", [1] * len(kernel)))
        function = getattr(make.functional, f"{kind}_pool{len(kernel)}d")
        return make.call(function, node.tensor(0), kernel, strides, tuple(pads[: len(kernel)]))

    return pool


def _activation(name: str) -> Operator:
    def activation(make: _Maker, node: _Node) -> Any:
        return make.call(getattr(make.functional, name), node.tensor(0), inplace=make.in_place)

    return activation


def _elementwise(name: str) -> Operator:
    def elementwise(make: _Maker, node: _Node) -> Any:
        return make.call(getattr(make.torch, name), node.tensor(0), node.tensor(1))

    return elementwise


def _sigmoid(make: _Maker, node: _Node) -> Any:
    return make.call(make.torch.sigmoid, node.tensor(0))


def _transpose(make: _Maker, node: _Node) -> Any:
    return make.call(make.torch.permute, node.tensor(0), tuple(int(p) for p in node.get("perm")))


def _concat(make: _Maker, node: _Node) -> Any:
    return make.call(make.torch.cat, [node.tensor(i) for i in range(len(node.proto.input))], int(node.get("axis")))


def _identity(make: _Maker, node: _Node) -> Any:
    return node.tensor(0)


def _cast(make: _Maker, node: _Node) -> Any:
    if node.get("to") != 1:
        raise UserError("it casts to something that is not float32")
    return make.call(make.torch.Tensor.to, node.tensor(0), make.torch.float32)


OPERATORS: dict[str, Operator] = {
    "Conv": _conv, "Gemm": _gemm, "MatMul": _elementwise("matmul"), "Reshape": _reshape, "Flatten": _flatten,
    "Transpose": _transpose, "Concat": _concat, "Identity": _identity, "Dropout": _identity, "Cast": _cast,
    "Relu": _activation("relu"), "HardSwish": _activation("hardswish"), "Sigmoid": _sigmoid, "Clip": _clip,
    "Add": _elementwise("add"), "Sub": _elementwise("sub"), "Mul": _elementwise("mul"), "Div": _elementwise("div"),
    "ReduceMean": _mean, "GlobalAveragePool": _global_mean, "MaxPool": _pool("max"), "AveragePool": _pool("avg"),
}  # fmt: skip


def _only(path: Path, what: str, values: list[Any]) -> TensorSpec:
    if len(values) != 1:
        raise UserError(f"{path} has {len(values)} {what}s; a clip network has one")
    kind = values[0].type.tensor_type
    if kind.elem_type not in _DTYPES:
        raise UserError(f"the {what} {values[0].name!r} of {path} is of an odd type; known are float32 and uint8")
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return TensorSpec(values[0].name, shape, _DTYPES[kind.elem_type])
