import json

import numpy as np
import onnx
import pytest
import torch

from skd_bench.errors import UserError
from skd_bench.inference.frame_stream import FrameClassifier
from skd_bench.video.types import Preprocessing
from skd_edge.models.streaming import StreamingNetwork
from skd_edge.models.tsm import build_tsm
from skd_edge.recipe.schema import NetworkSpec
from skd_export.graph.streaming_export import export_stream
from skd_export.graph.uint8_input import Uint8Input, preprocess_frames

FRAMES, SIZE, CLASSES = 5, 16, ["a", "b", "c"]


def network(**what):
    """A causal network whose batch norms and head give clearly different logits for different clips."""
    net = build_tsm(
        NetworkSpec(name="n", causal=True, width=8, depths=(1, 2), **what), classes=3, frames=FRAMES, size=SIZE, seed=0
    )
    net.train()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        net(torch.randn(16, 3, FRAMES, SIZE, SIZE))
        net.head.weight.mul_(10)
    return net.eval()


def offline(net, clips):
    with torch.no_grad():
        output = net(torch.from_numpy(clips))
        frames = net.head(output.features[-1])
    # The logits of a clip are the mean of its frames' logits.
    np.testing.assert_allclose(frames.mean(1), output.logits, rtol=1e-4, atol=1e-4)
    return frames.numpy()


def noise(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 3, FRAMES, SIZE, SIZE), np.float32)


@pytest.mark.parametrize("family", ["mobile", "resnet"])
@pytest.mark.parametrize("temporal", ["shift", "conv", "none"])
def test_streaming_equals_the_causal_network_on_every_frame(family, temporal):
    net, clips = network(family=family, temporal=temporal), noise(4)
    step = StreamingNetwork(net).eval()
    state = torch.zeros(4, step.state_size)
    truth = offline(net, clips)
    for t in range(FRAMES):
        with torch.no_grad():
            logits, state = step(torch.from_numpy(clips[:, :, t]), state)
        np.testing.assert_allclose(logits, truth[:, t], rtol=1e-4, atol=1e-4)
    assert (step.state_size == 0) == (temporal == "none")
    assert np.ptp(truth, axis=1).max() > 0.1


@pytest.mark.parametrize("temporal", ["shift", "conv"])
def test_a_causal_network_does_not_use_later_frames(temporal):
    net, clips = network(temporal=temporal), noise(2)
    later = clips.copy()
    later[:, :, 3:] += 1
    before, after = offline(net, clips), offline(net, later)
    np.testing.assert_allclose(before[:, :3], after[:, :3], atol=1e-5)
    assert np.abs(before[:, 3:] - after[:, 3:]).max() > 0.1
    earlier = clips.copy()
    earlier[:, :, 0] += 1
    assert np.abs(offline(net, earlier)[:, 1] - before[:, 1]).max() > 1e-3  # it uses earlier frames


@pytest.mark.parametrize(("temporal", "size"), [("shift", None), ("conv", (24, 20))])
def test_the_exported_file_equals_the_network_on_every_frame(tmp_path, temporal, size):
    net = network(temporal=temporal)
    step = StreamingNetwork(net).eval()
    how = Preprocessing(SIZE, SIZE, "crop", (0.45,) * 3, (0.225,) * 3)
    pixels = np.random.default_rng(1).integers(0, 256, (3, FRAMES, *(size or (SIZE, SIZE)), 3), np.uint8)
    export_stream(
        step,
        tmp_path / "s.onnx",
        size=(SIZE, SIZE),
        state_size=step.state_size,
        classes=CLASSES,
        uint8_input=Uint8Input(how, size),
    )
    stream = FrameClassifier(tmp_path / "s.onnx")
    assert (stream.dtype, stream.state_size) == ("uint8", step.state_size)
    truth = offline(net, preprocess_frames(pixels, how))
    for _ in range(2):  # the second pass must not depend on the first one
        stream.reset_state(3)
        for t in range(FRAMES):
            np.testing.assert_allclose(stream.step(pixels[:, t]), truth[:, t], rtol=1e-3, atol=1e-3)
    props = {p.key: p.value for p in onnx.load(tmp_path / "s.onnx").metadata_props}
    assert list(map(json.loads, props.values())) == [CLASSES]
    assert b"/wt/" not in (tmp_path / "s.onnx").read_bytes()


def test_networks_that_cannot_stream_are_refused():
    net = build_tsm(NetworkSpec(name="n", depths=(1,), width=8), classes=3, frames=4, size=16, seed=0)
    with pytest.raises(ValueError, match="causal"):
        StreamingNetwork(net)
    with pytest.raises(UserError, match="train mode"):
        export_stream(net.train(), "x", size=(16, 16), state_size=1, classes=CLASSES)
