"""Templates: a network is traced once for its architecture, and its weights are filled in."""

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from skd_export.graph.graph_template import _templates, architecture_key, build_onnx_graph, trace_ahead
from skd_export.graph.onnx_export import export_onnx

SHAPE, CLASSES = (4, 16, 16), ["left", "right", "up", "down", "still"]


def test_other_weights_in_a_stored_template_give_the_bytes_of_a_new_trace(network, fp32, tmp_path):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.25)
    filled, fresh = tmp_path / "filled.onnx", tmp_path / "fresh.onnx"
    assert architecture_key(network, SHAPE) in _templates
    export_onnx(network, filled, clip_shape=SHAPE, classes=CLASSES)
    _templates.clear()
    export_onnx(network, fresh, clip_shape=SHAPE, classes=CLASSES)
    assert filled.read_bytes() == fresh.read_bytes() != fp32.read_bytes()


def test_the_key_depends_on_everything_except_the_weights(network):
    key = architecture_key(network, SHAPE)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.head.weight.zero_()
    assert architecture_key(other, SHAPE) == key
    assert architecture_key(network, (4, 16, 32)) != key
    other.shift.frames = 2  # neither a weight nor part of repr()
    assert architecture_key(other, SHAPE) != key
    other.shift.frames = 4
    other.extra = torch.ones(3)  # a tensor outside the state_dict: its value is part of the key
    first = architecture_key(other, SHAPE)
    other.extra = torch.zeros(3)
    assert len({key, first, architecture_key(other, SHAPE)}) == 3


def test_a_module_that_cannot_be_pickled_has_no_key(network):
    network.hook = lambda x: x
    assert architecture_key(network, SHAPE) is None


def test_two_processes_trace_ahead(cache, traced, export_anew):
    from skd_edge.models.substages import LogitsOnly
    from skd_edge.models.tsm import build_tsm
    from skd_edge.recipe.schema import NetworkSpec

    specs = [NetworkSpec(name="n", width=w, depths=(1,)) for w in (4, 4, 8)]
    networks = [LogitsOnly(build_tsm(s, classes=5, frames=4, size=16, seed=i)).eval() for i, s in enumerate(specs)]
    trace_ahead(networks, SHAPE, cache)
    assert len(traced) == 1  # two architectures: one here, one in the other process
    assert len(list(cache.iterdir())) == 2
    ahead = [export_anew(n, cache) for n in networks]
    assert len(traced) == 1
    assert ahead == [export_anew(n, None) for n in networks]


def test_a_single_new_network_is_not_traced_ahead(network, cache, traced):
    trace_ahead([network, copy.deepcopy(network)], SHAPE, cache)  # equal architectures count once
    assert not traced
    assert not cache.exists()


def test_the_graph_has_the_network_s_weights_by_name(network):
    graph = build_onnx_graph(network, SHAPE).graph
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items() if name in weights}
    assert len(state) >= 12
    assert all(np.array_equal(weights[name], array) for name, array in state.items())


class BakedWeight(nn.Module):
    """Its only weight is not in the ``state_dict``: a template would write it into other networks."""

    def __init__(self, value):
        super().__init__()
        self.weight = torch.full((3, 5), value)

    def forward(self, clip):
        return clip.mean((2, 3, 4)) @ self.weight


@pytest.mark.parametrize("value", [1.0, 2.0])
def test_weights_outside_the_state_dict_are_not_shared(value):
    module = BakedWeight(value).eval()
    arrays = [onnx.numpy_helper.to_array(t) for t in build_onnx_graph(module, SHAPE).graph.initializer]
    assert any(array.shape == (3, 5) and (array == value).all() for array in arrays)
    assert architecture_key(module, SHAPE) not in _templates
