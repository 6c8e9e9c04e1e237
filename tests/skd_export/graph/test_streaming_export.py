"""One step of a streaming network as a file: parity with PyTorch, uint8 frames, and errors."""

import json

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from skd_bench.errors import UserError
from skd_bench.video.types import Preprocessing
from skd_export.graph.onnx_export import CLASSES_KEY, load_onnx
from skd_export.graph.streaming_export import export_stream
from skd_export.graph.uint8_input import Uint8Input, preprocess_frames

SIZE, STATE, CLASSES = (16, 16), 3, ["left", "right"]
HOW = Preprocessing(16, 16, "crop", (0.45, 0.4, 0.5), (0.225, 0.2, 0.25))


class RunningMean(nn.Module):
    """Logits from a decaying mean of the frames' colours, which is the state."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(STATE, len(CLASSES))

    def forward(self, frame, state):
        after = 0.5 * state + 0.5 * frame.mean((2, 3))
        return self.head(after), after


def run_stream(path, frames):
    """Logits ``(T, B, C)`` of frames ``(T, B, ...)``; each frame gets the state of the previous one."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    state, logits = np.zeros((frames.shape[1], STATE), np.float32), []
    for frame in frames:
        step, state = session.run(["logits", "next_state"], {"frame": frame, "state": state})
        logits.append(step)
    return np.stack(logits)


def run_torch(step, frames):
    state, logits = torch.zeros(frames.shape[1], STATE), []
    with torch.no_grad():
        for frame in torch.from_numpy(frames):
            out, state = step(frame, state)
            logits.append(out.numpy())
    return np.stack(logits)


@pytest.mark.parametrize("streams", [1, 3])
def test_the_file_gives_the_logits_of_every_step(tmp_path, streams):
    step = RunningMean().eval()
    export_stream(step, tmp_path / "x.onnx", size=SIZE, state_size=STATE, classes=CLASSES)
    frames = np.random.default_rng(0).standard_normal((5, streams, 3, *SIZE), np.float32)
    expected = run_torch(step, frames)
    assert np.ptp(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(run_stream(tmp_path / "x.onnx", frames), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [None, (24, 20)])
def test_uint8_frames_are_normalised_and_resized_inside_the_file(tmp_path, size):
    step = RunningMean().eval()
    how = Uint8Input(HOW, size)
    export_stream(step, tmp_path / "x.onnx", size=SIZE, state_size=STATE, classes=CLASSES, uint8_input=how)
    frames = np.random.default_rng(1).integers(0, 256, (4, 2, *(size or SIZE), 3), np.uint8)
    clip = preprocess_frames(frames.transpose(1, 0, 2, 3, 4), HOW)  # (B, 3, T, H, W)
    expected = run_torch(step, np.ascontiguousarray(clip.transpose(2, 0, 1, 3, 4)))
    np.testing.assert_allclose(run_stream(tmp_path / "x.onnx", frames), expected, rtol=1e-4, atol=1e-4)


def test_the_file_stores_its_classes_and_no_local_path(tmp_path):
    export_stream(RunningMean().eval(), tmp_path / "x.onnx", size=SIZE, state_size=STATE, classes=CLASSES)
    metadata = {p.key: p.value for p in load_onnx(tmp_path / "x.onnx").metadata_props}
    assert {key: json.loads(value) for key, value in metadata.items()} == {CLASSES_KEY: CLASSES}
    assert b"test_streaming_export" not in (tmp_path / "x.onnx").read_bytes()


class Branches(nn.Module):
    def forward(self, frame, state):
        return (state if frame.sum() > 0 else -state), state


def test_train_mode_and_a_network_that_cannot_be_traced_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"train mode.*eval"):
        export_stream(RunningMean(), tmp_path / "x.onnx", size=SIZE, state_size=STATE, classes=CLASSES)
    with pytest.raises(UserError, match="streaming network cannot be exported") as caught:
        export_stream(Branches().eval(), tmp_path / "x.onnx", size=SIZE, state_size=STATE, classes=CLASSES)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
