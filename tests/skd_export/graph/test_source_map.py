"""From exported nodes and error messages to lines of the network's source."""

import re

import pytest
import torch
from torch import nn

from skd_bench.errors import UserError
from skd_export.graph.graph_template import build_onnx_graph
from skd_export.graph.onnx_export import export_onnx
from skd_export.graph.source_map import (
    append_source_line,
    find_node_sources,
    find_operator_source,
    find_source_line,
)

SHAPE = (4, 16, 16)
TORCH_FRAME = f'File "{torch.__path__[0]}/nn/modules/conv.py", line 7, in forward\n    return self._conv(x)\n'


def test_exported_nodes_have_the_lines_of_this_network(network):
    with torch.no_grad():
        sources = find_node_sources(build_onnx_graph(network, SHAPE))
    assert len(sources) >= 10
    assert all(re.fullmatch(r".*conftest\.py:\d+: .+", place) for place in sources.values())
    assert any("self.narrow(self.wide(" in place for place in sources.values())


def test_the_exporter_returns_lines_and_the_file_does_not_contain_them(network, tmp_path):
    sources = export_onnx(network, tmp_path / "x.onnx", clip_shape=SHAPE, classes=list("abcde"))
    assert any("conftest.py" in place for place in sources.values())
    assert b"conftest" not in (tmp_path / "x.onnx").read_bytes()


def test_the_innermost_line_outside_torch_is_found():
    own = 'File "/home/a/net.py", line 3, in forward\n    x = self.head(x)\n'
    inner = 'File "/home/a/head.py", line 9, in forward\n    return self.conv(x)\n'
    assert find_source_line(own + inner + TORCH_FRAME) == "/home/a/head.py:9: return self.conv(x)"
    assert find_source_line(TORCH_FRAME) is None
    assert find_source_line("no stack trace") is None


class Sorted(nn.Module):
    def forward(self, clip):
        return torch.msort(clip.mean((3, 4)))


def test_an_operator_in_a_message_is_found_in_the_network():
    place = find_operator_source(Sorted().eval(), SHAPE, "No decomposition for op='aten.msort'")
    assert place is not None
    assert place.endswith(": return torch.msort(clip.mean((3, 4)))")
    assert find_operator_source(Sorted().eval(), SHAPE, "op='aten.cumsum'") is None
    assert find_operator_source(Sorted().eval(), SHAPE, "no operator is named") is None


class Branches(nn.Module):
    def forward(self, clip):
        return clip.mean((2, 3, 4)) if clip.sum() > 0 else clip.amax((2, 3, 4))


def test_an_export_error_names_the_line_that_cannot_be_traced(tmp_path):
    with pytest.raises(UserError, match=r"the network's source: .*test_source_map\.py:\d+: return clip\.mean"):
        export_onnx(Branches().eval(), tmp_path / "x.onnx", clip_shape=SHAPE, classes=list("abc"))


def test_a_message_gets_the_line_of_the_longest_node_name_in_it():
    sources = {"conv": "net.py:1: a", "conv.1": "net.py:2: b"}
    assert append_source_line("node conv.1 is not supported", sources).endswith("(the network's source: net.py:2: b)")
    assert append_source_line("node conv is not supported", sources).endswith("(the network's source: net.py:1: a)")
    assert append_source_line("node convolution is not supported", sources) == "node convolution is not supported"
    assert append_source_line("", {}) == ""


def test_the_line_of_a_branch_on_values_is_the_one_that_torch_names():
    text = "Could not guard on data-dependent expression\n\nCaused by: (ome/a/net.py:24 in forward)\nFor more, see"
    assert find_source_line(text) == "net.py:24"
