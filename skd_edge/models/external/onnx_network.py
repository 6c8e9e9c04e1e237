"""ONNX files as teachers: ONNX Runtime computes the logits, and named tensors in the graph end the substages.

A file is treated as data from an unknown source: its graph is checked (``onnx.checker``), custom operators are refused,
and tensors in separate files must be in the file's folder.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.external_data_helper import uses_external_data
from torch import Tensor, nn

from skd_bench.errors import UserError
from skd_bench.files import open_regular_file, sha256_file
from skd_edge.models.external.adapter_spec import AdapterSpec, ExternalNetwork, InputLayout
from skd_edge.recipe.networks import SingleTeacher

# Operator domains of ONNX, and "com.microsoft" of ONNX Runtime, whose quantiser and graph optimiser use it.
_KNOWN_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
_FLOAT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_CLASS_NAMES_KEY = "skd_edge.classes"  # metadata key of the class names in files that skd-edge exported
_MAX_GRAPH_BYTES = 2 << 30  # largest size of a graph in memory


class OnnxNetwork(nn.Module):
    """An ONNX file as a module: clips in, logits out. It has no parameters and is never trained.

    Args:
        path: the file. It has one input (float32 or float16), and its first output is the logits.
        tensor_names: names of tensors in the graph; each is passed through the module ``taps.<index>``, so that
            forward hooks can read it.

    Attributes:
        input_shape: shape of the input; None for an axis of any length.
        external_weight_count: number of weights in the file.

    Raises:
        UserError: See ``read_onnx``; or a name is not a tensor of the graph, or ONNX Runtime cannot run the file.
    """

    def __init__(self, path: Path, tensor_names: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.path, self.tensor_names = path, tensor_names
        model = onnx.ModelProto()
        model.CopyFrom(read_onnx(path))
        self.logits_name = model.graph.output[0].name
        _add_graph_outputs(model, tensor_names, path)
        self.session = _make_session(model.SerializeToString(), path)
        if len(inputs := self.session.get_inputs()) != 1 or inputs[0].type not in _FLOAT_TYPES:
            input_types = ", ".join(f"{g.name}: {g.type}" for g in inputs)
            raise UserError(
                f"teacher.onnx {path} has the inputs ({input_types}); it must have one input of floats, the clips"
            )
        self.input_name, self.dtype = inputs[0].name, _FLOAT_TYPES[inputs[0].type]
        self.input_shape = tuple(side if isinstance(side, int) else None for side in inputs[0].shape)
        self.external_weight_count = count_onnx_weights(model)
        self.taps = nn.ModuleList(nn.Identity() for _ in tensor_names)

    def forward(self, x: Tensor) -> Tensor:
        """Run the file on inputs ``x`` of its input shape; the logits ``(B, C)`` are on the device of ``x``."""
        if torch.compiler.is_exporting():
            raise UserError(f"teacher.onnx {self.path} is already an ONNX file and is not exported again; use the file")
        pixels = x.detach().cpu().numpy().astype(self.dtype)
        outputs = [np.concatenate(each)[: len(x)] for each in zip(*self._run_in_batches(pixels), strict=True)]
        logits, *inner = (torch.from_numpy(part.astype(np.float32)).to(x.device) for part in outputs)
        for tap, tensor in zip(self.taps, inner, strict=True):
            tap(tensor)
        return logits

    def _run_in_batches(self, pixels: np.ndarray[Any, Any]) -> Iterator[list[np.ndarray[Any, Any]]]:
        """Outputs for each part of the inputs; a part has the file's batch size, and the last one is padded to it."""
        size = (self.input_shape[0] if self.input_shape else None) or len(pixels)
        for first in range(0, len(pixels), size):
            part = pixels[first : first + size]
            part = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
            yield self.session.run([self.logits_name, *self.tensor_names], {self.input_name: part})

    def __deepcopy__(self, memo: dict[int, object]) -> OnnxNetwork:
        return OnnxNetwork(self.path, self.tensor_names)  # a session of ONNX Runtime cannot be copied


def load_onnx_network(teacher: SingleTeacher) -> ExternalNetwork:
    """Load the network of a teacher with ``onnx``; its input layout is found from the shape of its input.

    Raises:
        UserError: See ``OnnxNetwork``; or the class names in the file are not valid.
    """
    assert teacher.onnx is not None
    network = OnnxNetwork(teacher.onnx, teacher.substages)
    input_layout: InputLayout = "frames" if len(network.input_shape) == 4 else "clip"
    if len(network.input_shape) == 5 and network.input_shape[1] != 3 and network.input_shape[2] == 3:
        input_layout = "frames-first"
    taps = tuple(f"taps.{index}" for index in range(len(teacher.substages)))
    return ExternalNetwork(network, AdapterSpec(taps, input_layout), _read_class_names(teacher.onnx))


def _read_class_names(path: Path) -> tuple[str, ...]:
    """The class names that skd-edge stores in exported files; empty for other files."""
    text = {p.key: p.value for p in read_onnx(path).metadata_props}.get(_CLASS_NAMES_KEY, "[]")
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"teacher.onnx {path}: its metadata {_CLASS_NAMES_KEY} must be a JSON list of class names, not: {text[:80]}"
        )
    return tuple(names)


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file with its tensors. The result is cached, so callers must not change it.

    Raises:
        UserError: The file is not an ONNX file, is malformed, uses custom operators, or is too large.
    """
    try:
        open_regular_file(path).close()
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"teacher.onnx {path} cannot be read: {error.strerror or error}") from error
    return _read_and_check(path, changed)


@functools.lru_cache(maxsize=2)
def _read_and_check(path: Path, changed: int) -> onnx.ModelProto:
    try:
        bare = onnx.load(str(path), load_external_data=False)
        _check_operator_domains(bare, path)
        onnx.checker.check_model(str(path))  # by path, so that it also checks the files of tensors
        model = onnx.load(str(path))
        size = model.ByteSize()
    except UserError:
        raise
    except Exception as error:  # protobuf and the checker raise their own classes
        raise UserError(f"teacher.onnx {path} is not a valid ONNX file: {str(error).splitlines()[0]}") from error
    if not model.graph.output or size > _MAX_GRAPH_BYTES:
        raise UserError(
            f"teacher.onnx {path} has no output, or is larger than 2 GiB; give a smaller file with the logits as output"
        )
    return model


def onnx_fingerprint(path: Path) -> str:
    """Hash of an ONNX file and of the files of tensors beside it.

    Raises:
        UserError: See ``read_onnx``.
    """
    read_onnx(path)  # refuses tensors outside the folder
    bare = onnx.load(str(path), load_external_data=False)
    beside = {
        entry.value
        for tensor in bare.graph.initializer
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    hashes = [sha256_file(path), *(sha256_file(path.parent / name) for name in sorted(beside))]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def _check_operator_domains(model: onnx.ModelProto, path: Path) -> None:
    nodes = [*_iter_nodes(model.graph), *(n for f in model.functions for n in f.node)]
    own = {(f.domain, f.name) for f in model.functions}
    strange = {(n.domain, n.op_type) for n in nodes if n.domain not in _KNOWN_DOMAINS} - own
    if strange:
        names = ", ".join(f"{domain}.{name}" for domain, name in sorted(strange)[:5])
        raise UserError(
            f"teacher.onnx {path} needs operators that are neither of ONNX nor of ONNX Runtime ({names}); libraries of "
            "custom operators are not loaded, so export the network without them"
        )


def _iter_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _iter_nodes(inner)


def count_onnx_weights(model: onnx.ModelProto) -> int:
    """Number of weights of a model: elements of its tensors of floats, or of 8-bit integers in a quantised file."""
    types = onnx.TensorProto
    weight_types = {types.FLOAT, types.FLOAT16, types.BFLOAT16, types.DOUBLE, types.INT8, types.UINT8}
    constants = (a.t for node in _iter_nodes(model.graph) if node.op_type == "Constant" for a in node.attribute)
    tensors = [*model.graph.initializer, *constants]
    return sum(math.prod(tensor.dims) for tensor in tensors if tensor.data_type in weight_types and len(tensor.dims))


def _add_graph_outputs(model: onnx.ModelProto, inner: tuple[str, ...], path: Path) -> None:
    """Add tensors inside the graph to its outputs."""
    known = [name for node in model.graph.node for name in node.output if name]
    outputs = {output.name for output in model.graph.output}
    for name in inner:
        if name not in known:
            near = difflib.get_close_matches(name, known, 8, 0.0)
            raise UserError(
                f"teacher.substages names {name!r}, which is not a tensor of {path}; choose from: "
                f"{', '.join(near)}{' ...' if len(known) > 8 else ''}"
            )
        if name not in outputs:
            model.graph.output.append(onnx.ValueInfoProto(name=name))


def _make_session(file: bytes, path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own classes
        raise UserError(f"teacher.onnx {path}: ONNX Runtime cannot load it: {str(error).splitlines()[0]}") from error
