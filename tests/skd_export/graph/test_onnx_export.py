"""The exported ONNX file: parity, metadata, and errors."""

import json
import os
import site
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from skd_bench.errors import UserError
from skd_export.graph.graph_template import OPSET
from skd_export.graph.onnx_export import CLASSES_KEY, export_onnx, load_onnx, opset_version

SHAPE, CLASSES = (4, 16, 16), ["left", "right", "up", "down", "still"]


def run(path, clip):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(["logits"], {"clip": clip})[0]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_file_agrees_with_the_network_at_any_batch(network, fp32, clips, batch):
    clip = clips(batch, 7)
    with torch.inference_mode():
        expected = network(torch.from_numpy(clip)).numpy()
    assert np.abs(expected).max() > 1  # with logits near 0, parity would prove nothing
    assert np.abs(run(fp32, clip) - expected).max() / np.abs(expected).max() < 1e-4


def test_logits_depend_on_the_order_of_frames(fp32, clips):
    clip = clips(4, 7)
    assert np.abs(run(fp32, clip) - run(fp32, clip[:, :, ::-1].copy())).max() > 1e-2


def test_the_file_contains_no_local_path_and_no_stack_trace(fp32):
    data = fp32.read_bytes()
    for secret in (os.getcwd(), str(Path.home()), sys.prefix, *site.getsitepackages(), str(fp32.parent)):
        assert secret.encode() not in data
    for trace in (b"site-packages", b".py", b"stack_trace", b"pkg.torch", b"conftest"):
        assert trace not in data


def test_the_file_stores_its_classes_and_has_no_external_data(fp32):
    model = load_onnx(fp32)
    assert {p.key: json.loads(p.value) for p in model.metadata_props} == {CLASSES_KEY: CLASSES}
    assert opset_version(model) == OPSET
    assert [p.name for p in fp32.parent.iterdir()] == ["small.onnx"]
    assert "BatchNormalization" not in {n.op_type for n in model.graph.node}


def test_train_mode_is_refused_also_in_a_submodule(network, tmp_path):
    network.wide[1].train()
    with pytest.raises(UserError, match=r"train mode \(wide.1\).*eval"):
        export_onnx(network, tmp_path / "x.onnx", clip_shape=SHAPE, classes=CLASSES)
    assert not (tmp_path / "x.onnx").exists()


def test_the_network_is_not_changed(network, tmp_path):
    before = {k: v.clone() for k, v in network.state_dict().items()}
    export_onnx(network, tmp_path / "x.onnx", clip_shape=SHAPE, classes=CLASSES)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_a_wrong_number_of_classes_is_refused(network, tmp_path):
    with pytest.raises(UserError, match=r"5.*there are 2 classes"):
        export_onnx(network, tmp_path / "x.onnx", clip_shape=SHAPE, classes=["a", "b"])


class FixedBatch(nn.Module):
    def forward(self, clip):
        return clip.reshape(2, -1)[:, :5]


class Branches(nn.Module):
    def forward(self, clip):
        return clip.mean((2, 3, 4)) if clip.sum() > 0 else clip.amax((2, 3, 4))


@pytest.mark.parametrize("bad", [FixedBatch(), Branches()])
def test_a_network_that_cannot_be_traced_gives_one_line(bad, tmp_path):
    with pytest.raises(UserError) as caught:
        export_onnx(bad.eval(), tmp_path / "x.onnx", clip_shape=SHAPE, classes=list("abcde"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a"])
def test_a_file_that_is_not_onnx_is_refused(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(UserError, match="is not an ONNX file"):
        load_onnx(tmp_path / "x.onnx")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        load_onnx(tmp_path / "x.onnx")


def test_a_network_of_skd_edge_exports_with_parity(tmp_path):
    from skd_edge.models.substages import LogitsOnly
    from skd_edge.models.tsm import build_tsm
    from skd_edge.recipe.schema import NetworkSpec

    spec = NetworkSpec(name="n", family="mobile", width=8, depths=(1, 1), temporal="shift")
    module = LogitsOnly(build_tsm(spec, classes=3, frames=4, size=16, seed=1)).eval()
    with torch.no_grad():
        module.network.head.weight.mul_(1e3)
    export_onnx(module, tmp_path / "x.onnx", clip_shape=(4, 16, 16), classes=["a", "b", "c"])
    onnx.checker.check_model(str(tmp_path / "x.onnx"), full_check=True)
    clip = torch.randn(3, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = module(clip).numpy()
    assert np.ptp(expected, axis=0).max() > 1e-2
    assert np.abs(run(tmp_path / "x.onnx", clip.numpy()) - expected).max() / np.abs(expected).max() < 1e-4
