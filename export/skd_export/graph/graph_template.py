"""Templates: the ONNX graph of an architecture without its weights.

A network is traced once; after that, only its weights are filled in. ``torch.onnx.export`` takes four to eight seconds
for a network of a few dozen layers, and one ``compress`` exports the same student many times: with random weights for
its latency, then once for each cascade. Before the graph is optimised, its initializers have the names of the
``state_dict``. Other weights of the same architecture can therefore be filled in by name, which takes well under a
second including the optimisation.

Two networks have the same architecture if they pickle to the same bytes without their weights: classes, attributes,
strides, frame counts and all other constants are part of the key.

Templates are stored in memory, and also on disk if the caller names a folder (`skd_export.graph.graph_cache`).
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import logging
import os
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from skd_bench.device.child_process import end_with_parent
from skd_export.graph.graph_cache import graph_file, read_graph, write_graph

OPSET = 18
_MAX_TEMPLATES = 16
_templates: OrderedDict[str, onnx.ModelProto] = OrderedDict()


class _StructurePickler(pickle.Pickler):
    """Pickles a module with each tensor of its ``state_dict`` replaced by name, shape and type."""

    def __init__(self, file: io.BytesIO, names: dict[int, str]) -> None:
        super().__init__(file, protocol=4)
        self.fast = True  # no memo: equal modules give equal bytes, whichever objects they share
        self.names = names

    def persistent_id(self, obj: object) -> tuple[str, tuple[int, ...], str] | None:
        if isinstance(obj, Tensor) and id(obj) in self.names:
            return self.names[id(obj)], tuple(obj.shape), str(obj.dtype)
        return None


def architecture_key(network: nn.Module, clip_shape: tuple[int, int, int]) -> str | None:
    """A hash of a network without its weights, and of the clip shape that it is traced with.

    Args:
        network: Any module.
        clip_shape: ``(T, H, W)``.

    Returns:
        64 hexadecimal digits, or None for a module that cannot be pickled (it holds a lambda or a cycle). Such a module
        has no template.
    """
    named = [*network.named_parameters(), *network.named_buffers()]
    persistent = network.state_dict().keys()
    names = {id(tensor): name for name, tensor in named if name in persistent}
    structure = io.BytesIO()
    try:
        _StructurePickler(structure, names).dump(network)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError, RecursionError):
        return None
    return hashlib.sha256(structure.getvalue() + repr((clip_shape, OPSET, torch.__version__)).encode()).hexdigest()


def build_onnx_graph(
    network: nn.Module, clip_shape: tuple[int, int, int], cache: Path | None = None
) -> onnx.ModelProto:
    """Build the ONNX graph of a network with its weights, not yet optimised.

    Args:
        network: In eval mode; its forward takes ``clip (B, 3, T, H, W)`` and returns ``logits (B, C)``.
        clip_shape: ``(T, H, W)``; the batch stays dynamic.
        cache: Folder of graphs that processes share; None: graphs are stored in this process only.

    Raises:
        torch.onnx.errors.OnnxExporterError: The network cannot be traced.
    """
    key = architecture_key(network, clip_shape)
    if key is not None and (template := _find_template(key, network, cache)) is not None:
        return _fill_weights(template, network)
    plain = copy.deepcopy(network).cpu().float().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    model = _trace_network(_disable_inplace(plain), clip_shape)
    if key is not None and _has_no_baked_weights(model, network):
        template = _remove_weights(model, network)
        _store_template(key, template)
        if file := graph_file(cache, key, network):
            write_graph(file, template)
    return model


def trace_ahead(networks: Sequence[nn.Module], clip_shape: tuple[int, int, int], cache: Path) -> None:
    """Trace networks that will be exported later, half of them in a second process.

    Tracing uses one core only, so two processes take about half the time. Equal architectures are traced once. A
    network that cannot be traced is skipped: its export raises the error. Does nothing if at most one network is new
    or there is only one core.

    Args:
        networks: In eval mode, see `build_onnx_graph`.
        clip_shape: ``(T, H, W)``.
        cache: Folder through which the second process returns its graphs.
    """
    new: dict[str, nn.Module] = {}
    for network in networks:
        key = architecture_key(network, clip_shape)
        if key is not None and graph_file(cache, key, network) and _find_template(key, network, cache) is None:
            new.setdefault(key, network)
    own_share, helper_share = list(new.values())[::2], list(new.values())[1::2]
    if not helper_share or (os.cpu_count() or 1) < 2:
        return
    # Pickled here: torch would send tensors through shared memory, which is small in containers.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        helper = pool.submit(_trace_pickled, pickle.dumps(helper_share), clip_shape, cache)
        _trace_all(own_share, clip_shape, cache)
        with contextlib.suppress(BrokenProcessPool):  # killed, or out of memory: the export will trace these networks
            helper.result()


def _trace_pickled(networks: bytes, clip_shape: tuple[int, int, int], cache: Path) -> None:
    torch.set_num_threads(1)
    _trace_all(pickle.loads(networks), clip_shape, cache)  # safe to unpickle: the parent process sent them


def _trace_all(networks: Sequence[nn.Module], clip_shape: tuple[int, int, int], cache: Path) -> None:
    for network in networks:
        with torch.no_grad(), contextlib.suppress(torch.onnx.errors.OnnxExporterError):
            build_onnx_graph(network, clip_shape, cache)


def _find_template(key: str, network: nn.Module, cache: Path | None) -> onnx.ModelProto | None:
    if key not in _templates and (file := graph_file(cache, key, network)):
        template = read_graph(file)
        if template is not None:
            _store_template(key, template)
    return _store_template(key, _templates[key]) if key in _templates else None


def _store_template(key: str, template: onnx.ModelProto) -> onnx.ModelProto:
    _templates[key] = template
    _templates.move_to_end(key)
    while len(_templates) > _MAX_TEMPLATES:
        _templates.popitem(last=False)
    return template


def _disable_inplace(network: nn.Module) -> nn.Module:
    """Switch off in-place activations. The tracer decomposes them: the graph is the same, but it takes 20 % longer."""
    for module in network.modules():
        if getattr(module, "inplace", None) is True:
            setattr(module, "inplace", False)  # noqa: B010 - for mypy, a module's attributes are tensors
    return network


def _trace_network(network: nn.Module, clip_shape: tuple[int, int, int]) -> onnx.ModelProto:
    # Two clips: the tracer treats a batch of one as a constant.
    example = torch.zeros(2, 3, *clip_shape)
    with silence_exporter():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            external_data=False,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            input_names=["clip"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _fill_weights(template: onnx.ModelProto, network: nn.Module) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(template)
    state = network.state_dict()
    for tensor in model.graph.initializer:
        if tensor.name in state:
            values = state[tensor.name].detach().cpu()
            values = values.float() if values.is_floating_point() else values
            tensor.CopyFrom(numpy_helper.from_array(values.contiguous().numpy(), tensor.name))
    return model


def _remove_weights(model: onnx.ModelProto, network: nn.Module) -> onnx.ModelProto:
    template = onnx.ModelProto()
    template.CopyFrom(model)
    state = network.state_dict()
    for tensor in template.graph.initializer:
        if tensor.name in state:
            tensor.ClearField("raw_data")
    return template


def _has_no_baked_weights(model: onnx.ModelProto, network: nn.Module) -> bool:
    """Whether every float array of the graph is in the ``state_dict``: only then can other weights replace them."""
    state = network.state_dict()
    return all(
        tensor.name in state or tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.raw_data) <= 4
        for tensor in model.graph.initializer
    )


@contextlib.contextmanager
def silence_exporter() -> Iterator[None]:
    """Hide the exporter's warnings about torchvision and its own deprecations: users cannot act on them."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
