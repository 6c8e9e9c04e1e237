"""Traced graphs on disk, which processes share."""

import onnx
import pytest
import torch

from skd_export.graph import graph_cache as graphs


def test_a_hit_gives_the_bytes_of_a_trace_and_a_damaged_graph_is_traced_again(network, cache, traced, export_anew):
    first = export_anew(network, cache)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    assert export_anew(network, cache) == first
    assert len(traced) == 1
    for damage in (whole[:-1], whole[:200] + bytes([whole[200] ^ 1]) + whole[201:], b"", b"not a graph"):
        file.write_bytes(damage)
        assert graphs.read_graph(file) is None
    assert export_anew(network, cache) == first
    assert len(traced) == 2
    assert [p.read_bytes() for p in cache.iterdir()] == [whole]


def test_other_weights_hit_and_are_written_to_the_file(network, tmp_path, cache, traced, export_anew):
    first = export_anew(network, cache)
    with torch.no_grad():
        network.head.weight.mul_(2)
    assert export_anew(network, cache) != first
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


def test_an_edited_source_file_misses(network, cache, tmp_path, monkeypatch):
    """A pickled network names its classes but does not contain their code."""
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


def test_without_a_source_file_or_a_folder_nothing_is_cached(network, cache):
    assert graphs.graph_file(None, "key", network) is None
    network.wide[2].__class__ = type("Typed", (torch.nn.ReLU6,), {"__module__": "nowhere"})
    assert graphs.graph_file(cache, "key", network) is None


def test_a_cache_that_cannot_be_written_is_ignored(network, cache, export_anew):
    cache.write_text("a file, not a folder")
    assert export_anew(network, cache)
