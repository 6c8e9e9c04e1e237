"""An ONNX file as a teacher: ONNX Runtime gives its logits, and the named tensors inside it end the substages.

A file is data: its graph is checked (``onnx.checker``), operators that are neither ONNX's nor ONNX Runtime's own are
refused, and tensors kept beside it must lie in its folder.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.external_data_helper import uses_external_data
from torch import Tensor, nn

from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_edge.models.external.adapter_spec import AdapterSpec, ExternalNetwork, InputLayout
from skd_edge.recipe.networks import SingleTeacher

_KNOWN_DOMAINS = {
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "com.microsoft",
}  # the last: ONNX Runtime's own, of its quantiser and fuser
_FLOAT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_CLASS_NAMES_KEY = "skd_edge.classes"  # where files that skd-edge exported keep their class names
_MAX_GRAPH_BYTES = 2 << 30  # bytes that a graph may have in memory


class OnnxNetwork(nn.Module):
    """An ONNX file as a module: clips in, logits out; it never learns.

    Args:
        path: the file; one input (float32 or float16), its logits the first output.
        tensor_names: names of tensors inside the graph, each seen by the module ``taps.<place>`` as it passes.

    Attributes:
        input_shape: of its input; None where an axis is free.

    Raises:
        UserError: See ``read_onnx``; a name is no tensor of the graph, or ONNX Runtime cannot run it.
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
                f"teacher.onnx {path} takes ({input_types}); a teacher takes one tensor of floats, the clips"
            )
        self.input_name, self.dtype = inputs[0].name, _FLOAT_TYPES[inputs[0].type]
        self.input_shape = tuple(side if isinstance(side, int) else None for side in inputs[0].shape)
        self.taps = nn.ModuleList(nn.Identity() for _ in tensor_names)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, C)`` of what the file's input takes; outputs are on the input's device."""
        if torch.compiler.is_exporting():
            raise UserError(f"teacher.onnx {self.path} is an ONNX file already and is not exported again")
        pixels = x.detach().cpu().numpy().astype(self.dtype)
        outputs = [np.concatenate(each)[: len(x)] for each in zip(*self._run_in_batches(pixels), strict=True)]
        logits, *inner = (torch.from_numpy(part.astype(np.float32)).to(x.device) for part in outputs)
        for tap, tensor in zip(self.taps, inner, strict=True):
            tap(tensor)
        return logits

    def _run_in_batches(self, pixels: np.ndarray[Any, Any]) -> Iterator[list[np.ndarray[Any, Any]]]:
        """What it says of each run of as many clips as its batch has; the last run is filled up."""
        size = (self.input_shape[0] if self.input_shape else None) or len(pixels)
        for first in range(0, len(pixels), size):
            part = pixels[first : first + size]
            part = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
            yield self.session.run([self.logits_name, *self.tensor_names], {self.input_name: part})

    def __deepcopy__(self, memo: dict[int, object]) -> OnnxNetwork:
        return OnnxNetwork(self.path, self.tensor_names)  # a session cannot be copied


def load_onnx_network(teacher: SingleTeacher) -> ExternalNetwork:
    """The network of a teacher with ``onnx``.

    Raises:
        UserError: See ``OnnxNetwork``.
    """
    assert teacher.onnx is not None
    network = OnnxNetwork(teacher.onnx, teacher.substages)
    input_layout: InputLayout = "frames" if len(network.input_shape) == 4 else "clip"
    if len(network.input_shape) == 5 and network.input_shape[1] != 3 and network.input_shape[2] == 3:
        input_layout = "frames-first"
    taps = tuple(f"taps.{place}" for place in range(len(teacher.substages)))
    return ExternalNetwork(network, AdapterSpec(taps, input_layout), _read_class_names(teacher.onnx))


def _read_class_names(path: Path) -> tuple[str, ...]:
    """The class names that a file of skd-edge carries."""
    text = {p.key: p.value for p in read_onnx(path).metadata_props}.get(_CLASS_NAMES_KEY, "[]")
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"teacher.onnx {path}: its class names ({_CLASS_NAMES_KEY}) are no list of names: {text[:80]}")
    return tuple(names)


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file, its tensors included; not to be changed, it is read once.

    Raises:
        UserError: It is no ONNX file, is not well formed, uses operators of others, or is too large.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"teacher.onnx {path} cannot be read: {error.strerror or error}") from error
    return _read_and_check(path, changed)


@functools.lru_cache(maxsize=2)
def _read_and_check(path: Path, changed: int) -> onnx.ModelProto:
    try:
        bare = onnx.load(str(path), load_external_data=False)
        _check_operator_domains(bare, path)
        onnx.checker.check_model(str(path))  # by name: it also looks at what lies beside the file
        model = onnx.load(str(path))
        size = model.ByteSize()
    except UserError:
        raise
    except Exception as error:  # protobuf's and the checker's own
        raise UserError(
            f"teacher.onnx {path} is no ONNX file that can be used: {str(error).splitlines()[0]}"
        ) from error
    if not model.graph.output or size > _MAX_GRAPH_BYTES:
        raise UserError(f"teacher.onnx {path} has no output, or more than 2 GiB; give a smaller file")
    return model


def onnx_fingerprint(path: Path) -> str:
    """Names an ONNX file and the files of tensors beside it, byte by byte.

    Raises:
        UserError: See ``read_onnx``.
    """
    read_onnx(path)  # has refused tensors outside the folder
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
            f"teacher.onnx {path} needs operators that are neither ONNX's nor ONNX Runtime's ({names}); "
            "no library of custom operators is loaded: export it without them"
        )


def _iter_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _iter_nodes(inner)


def _add_graph_outputs(model: onnx.ModelProto, inner: tuple[str, ...], path: Path) -> None:
    """Make tensors inside the graph outputs of it."""
    known = [name for node in model.graph.node for name in node.output if name]
    outputs = {output.name for output in model.graph.output}
    for name in inner:
        if name not in known:
            near = difflib.get_close_matches(name, known, 8, 0.0)
            raise UserError(
                f"teacher.substages names {name!r}, which is no tensor of {path}; there are: "
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
    except Exception as error:  # onnxruntime's own classes
        raise UserError(f"teacher.onnx {path}: ONNX Runtime cannot run it: {str(error).splitlines()[0]}") from error
