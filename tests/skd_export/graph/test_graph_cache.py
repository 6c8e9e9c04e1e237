"""Traced graphs that processes share."""

import onnx
import pytest
import torch

from skd_export.graph import graph_cache as graphs
from skd_export.graph import graph_template as template
from skd_export.graph.onnx_export import export_onnx

SHAPE, CLASSES = (4, 16, 16), ["left", "right", "up", "down", "still"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder of graphs, and a process that traced nothing yet."""
    monkeypatch.setattr(template, "_templates", type(template._templates)())
    return tmp_path / "graphs"


@pytest.fixture
def traced(monkeypatch):
    """What was really traced since."""
    calls, trace = [], template._trace_network
    monkeypatch.setattr(template, "_trace_network", lambda *a: calls.append(a) or trace(*a))
    return calls


def written(network, tmp_path, cache):
    template._templates.clear()  # as a new process finds it
    export_onnx(network, tmp_path / "x.onnx", clip_shape=SHAPE, classes=CLASSES, graph_cache=cache)
    return (tmp_path / "x.onnx").read_bytes()


def test_a_hit_gives_the_bytes_of_a_trace_and_a_damaged_graph_is_made_again(network, tmp_path, cache, traced):
    first = written(network, tmp_path, cache)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    assert written(network, tmp_path, cache) == first
    assert len(traced) == 1
    for damage in (whole[:-1], whole[:200] + bytes([whole[200] ^ 1]) + whole[201:], b"", b"no graph"):
        file.write_bytes(damage)
        assert graphs.read_graph(file) is None
    assert written(network, tmp_path, cache) == first
    assert len(traced) == 2
    assert [p.read_bytes() for p in cache.iterdir()] == [whole]


def test_other_weights_hit_and_are_the_ones_written(network, tmp_path, cache, traced):
    first = written(network, tmp_path, cache)
    with torch.no_grad():
        network.head.weight.mul_(2)
    assert written(network, tmp_path, cache) != first
    head = [onnx.numpy_helper.to_array(w) for w in onnx.load(tmp_path / "x.onnx").graph.initializer]
    assert any(w.shape == (5, 8) and (w == network.head.weight.detach().numpy()).all() for w in head)
    assert len(traced) == 1


@pytest.mark.parametrize(
    "changed",
    [
        (torch, "__version__", "0.0.1"),
        (onnx, "__version__", "0.0.1"),
        (graphs, "version", lambda package: f"{package} 0.0.1"),
    ],
)
def test_another_version_misses(network, cache, monkeypatch, changed):
    before = graphs.graph_file(cache, "key", network)
    monkeypatch.setattr(*changed)
    assert graphs.graph_file(cache, "key", network) != before


def test_edited_source_misses(network, cache, tmp_path, monkeypatch):
    """A pickled outline names a class; what its forward does stands in its file."""
    home = tmp_path / "code"
    home.mkdir()
    (home / "net.py").write_text("x = 1")
    monkeypatch.setattr(graphs, "_find_source_folder", lambda module: str(home))
    names = set()
    for text in ("x = 1", "x = 2"):
        (home / "net.py").write_text(text)
        graphs._hash_source_folder.cache_clear()
        names.add(graphs.graph_file(cache, "key", network))
    assert len(names) == 2


def test_without_source_or_folder_nothing_is_shared(network, cache):
    assert graphs.graph_file(None, "key", network) is None
    network.wide[2].__class__ = type("Typed", (torch.nn.ReLU6,), {"__module__": "nowhere"})
    assert graphs.graph_file(cache, "key", network) is None


def test_a_cache_that_cannot_be_written_is_done_without(network, tmp_path, cache):
    cache.write_text("a file, no folder")
    assert written(network, tmp_path, cache)


def test_traced_ahead_by_two_processes(tmp_path, cache, traced):
    from skd_edge.models.substages import LogitsOnly
    from skd_edge.models.tsm import build_tsm
    from skd_edge.recipe.schema import NetworkSpec

    specs = [NetworkSpec(name="n", width=w, depths=(1,)) for w in (4, 4, 8)]
    networks = [LogitsOnly(build_tsm(s, classes=5, frames=4, size=16, seed=i)).eval() for i, s in enumerate(specs)]
    template.trace_ahead(networks, SHAPE, cache)
    assert len(traced) == 1  # two architectures: one here, one in the other process
    assert len(list(cache.iterdir())) == 2
    ahead = [written(n, tmp_path, cache) for n in networks]
    assert len(traced) == 1
    assert ahead == [written(n, tmp_path, None) for n in networks]
