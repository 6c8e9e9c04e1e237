"""Fixtures for tests of traced graphs: an empty cache, a record of traces, and an export as in a new process."""

import pytest

from skd_export.graph import graph_template
from skd_export.graph.onnx_export import export_onnx

SHAPE, CLASSES = (4, 16, 16), ["left", "right", "up", "down", "still"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A folder for graphs that does not exist yet, and a process without templates."""
    monkeypatch.setattr(graph_template, "_templates", type(graph_template._templates)())
    return tmp_path / "graphs"


@pytest.fixture
def traced(monkeypatch):
    """The networks that this process has traced since the fixture was created."""
    calls, trace = [], graph_template._trace_network
    monkeypatch.setattr(graph_template, "_trace_network", lambda *a: calls.append(a) or trace(*a))
    return calls


@pytest.fixture
def export_anew(tmp_path):
    """Exports a network as a new process does (without templates in memory), and returns the bytes of the file."""

    def export(network, cache):
        graph_template._templates.clear()
        export_onnx(network, tmp_path / "x.onnx", clip_shape=SHAPE, classes=CLASSES, graph_cache=cache)
        return (tmp_path / "x.onnx").read_bytes()

    return export
