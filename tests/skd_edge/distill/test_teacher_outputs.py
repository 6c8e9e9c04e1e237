"""Stored teacher outputs: equal to those that the network computes, and recomputed if they are damaged."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from skd_edge.distill.teacher_outputs import TeacherOutputCache
from skd_edge.models.tsm import build_tsm
from skd_edge.recipe.schema import NetworkSpec
from skd_edge.run_files.work_lock import lock_work


@pytest.fixture
def network():
    net = build_tsm(NetworkSpec(name="t", family="resnet", width=4), classes=4, frames=4, size=16, seed=0).eval()
    return net.requires_grad_(False)


def view_of(clips):
    """A function that returns the clips, brighter by 0.1 in each view, and the list of views it was called with."""
    calls = []

    def _view(index, view):
        calls.append(view)
        x = torch.from_numpy(clips.clips[index]).permute(0, 4, 1, 2, 3).float() / 255
        return x + 0.1 * view

    return _view, calls


def test_stored_outputs_equal_those_of_the_network(network, tiny_clips, tmp_path):
    view, calls = view_of(tiny_clips.train)
    cache = TeacherOutputCache(network, view, 48, tmp_path / "t")
    for v in (0, 2):
        stored, direct = cache.outputs_for_view(v), network(view(np.arange(48), v))
        assert np.array_equal(stored.logits, direct.logits.numpy())
        assert all(np.array_equal(a, b.numpy()) for a, b in zip(stored.features, direct.features, strict=True))
    index = np.array([7, 3, 40])
    rows = cache.outputs_for_view(2).take_rows(index, torch.device("cpu"))
    assert torch.equal(rows.logits, direct.logits[index])
    assert all(torch.equal(a, b[index]) for a, b in zip(rows.features, direct.features, strict=True))
    # Another process reads the stored outputs and does not compute them again.
    calls.clear()
    again = TeacherOutputCache(network, view, 48, tmp_path / "t")
    assert np.array_equal(again.outputs_for_view(2).logits, stored.logits)
    assert calls == []
    assert not list((tmp_path / "t").rglob("*.part"))


def test_half_precision_rounds_by_at_most_a_2048th(network, tiny_clips, tmp_path):
    view, _ = view_of(tiny_clips.train)
    whole, half = (TeacherOutputCache(network, view, 48, tmp_path / "t", half_precision=h) for h in (False, True))
    rows, exact = (c.outputs_for_view(1).take_rows(np.arange(48), torch.device("cpu")) for c in (half, whole))
    for a, b in zip((rows.logits, *rows.features), (exact.logits, *exact.features), strict=True):
        assert a.dtype == torch.float32
        assert torch.all((a - b).abs() <= b.abs() / 2048 + 6e-8)
        assert not torch.equal(a, b)
    assert np.allclose(half.mean_probabilities(2), whole.mean_probabilities(2), atol=2e-3)
    sizes = [sum(f.stat().st_size for f in (c.folder / "view1").iterdir()) for c in (half, whole)]
    assert sizes[0] < 0.6 * sizes[1]


def test_incomplete_outputs_are_computed_again(network, tiny_clips, tmp_path):
    view, calls = view_of(tiny_clips.train)
    whole = TeacherOutputCache(network, view, 48, tmp_path / "t").outputs_for_view(0)
    expected = whole.logits.copy()
    (tmp_path / "t" / "view0" / "logits.npy").unlink()
    calls.clear()
    assert np.array_equal(TeacherOutputCache(network, view, 48, tmp_path / "t").outputs_for_view(0).logits, expected)
    assert calls == [0]


@pytest.mark.parametrize("name", ["logits.npy", "features0.npy", "view.json"])
@pytest.mark.parametrize("damage", ["empty", "cut", "no array", "too few", "flip"])
def test_damaged_outputs_are_computed_again(network, tiny_clips, tmp_path, name, damage, caplog):
    view, calls = view_of(tiny_clips.train)
    expected = TeacherOutputCache(network, view, 48, tmp_path / "t").outputs_for_view(0).logits.copy()
    file = tmp_path / "t" / "view0" / name
    whole = file.read_bytes()
    if damage == "too few":
        file.write_bytes(whole[:40] + whole[60:])
    elif damage == "flip":
        file.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    else:
        file.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "no array": b"x" * 200}[damage])
    calls.clear()
    assert np.array_equal(TeacherOutputCache(network, view, 48, tmp_path / "t").outputs_for_view(0).logits, expected)
    assert calls == [0]
    assert file.read_bytes() == whole
    assert f"{name} is damaged: expected " in caplog.text


def test_probabilities_are_the_mean_over_views(network, tiny_clips, tmp_path):
    view, _ = view_of(tiny_clips.train)
    cache = TeacherOutputCache(network, view, 48, tmp_path / "t")
    each = [torch.softmax(torch.from_numpy(np.array(cache.outputs_for_view(v).logits)), 1).numpy() for v in range(3)]
    assert np.allclose(cache.mean_probabilities(3), np.mean(each, 0), atol=1e-6)
    assert np.allclose(cache.mean_probabilities(3).sum(1), 1, atol=1e-5)


def test_while_another_process_computes_a_view_a_later_one_is_computed(network, tiny_clips, tmp_path):
    view, calls = view_of(tiny_clips.train)
    cache = TeacherOutputCache(network, view, 48, tmp_path / "t", view_count=3)
    with ThreadPoolExecutor(1) as pool:
        with lock_work(tmp_path / "t" / "view0" / ".lock", wait=True):  # as a job beside this one
            needed = pool.submit(cache.outputs_for_view, 0)
            while not (tmp_path / "t" / "view2" / "logits.npy").exists():
                assert not needed.done()
                time.sleep(0.01)
        needed.result(60)
    assert calls == [1, 2, 0]
    for v in (1, 2):
        cache.outputs_for_view(v)
    assert calls == [1, 2, 0]
    # A view that another job has computed in the meantime is read.
    other = TeacherOutputCache(network, view, 48, tmp_path / "t", view_count=3)
    assert np.array_equal(other.outputs_for_view(0).logits, needed.result().logits)
    assert calls == [1, 2, 0]
