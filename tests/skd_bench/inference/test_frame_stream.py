"""A per-frame network classifies a stream; its state passes from frame to frame."""

import dataclasses
import itertools
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from skd_bench.bundle.manifest import Manifest, StreamFile
from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.inference.frame_stream import FrameClassifier, classify_stream, iter_frames, iter_stream_lines
from skd_bench.video.types import ClipError, Preprocessing

SIZE = Preprocessing(16, 16, "crop", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def per_frame_network(path, dtype="float32"):
    """Logits (-mean, mean, n - 100) of frame n, which is counted in the state; ``mean`` is of the normalised frame."""
    kind, shape = (TensorProto.UINT8, [16, 16, 3]) if dtype == "uint8" else (TensorProto.FLOAT, [3, 16, 16])
    constants = {"axes": np.array([1, 2, 3]), "one": np.float32([1]), "hundred": np.float32([100])}
    nodes = [
        helper.make_node("Cast", ["frame"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=1),
        helper.make_node("Flatten", ["means"], ["mean"], axis=1),
        helper.make_node("Neg", ["mean"], ["negative"]),
        helper.make_node("Sub", ["state", "hundred"], ["count"]),
        helper.make_node("Concat", ["negative", "mean", "count"], ["logits"], axis=1),
        helper.make_node("Add", ["state", "one"], ["next_state"]),
    ]
    graph = helper.make_graph(
        nodes,
        "per_frame",
        [
            helper.make_tensor_value_info("frame", kind, ["batch", *shape]),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", 1]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("next_state", TensorProto.FLOAT, ["batch", 1]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture
def stream_bundle(bundle):
    """A bundle with a per-frame file."""
    path = per_frame_network(bundle / "stream.onnx")
    stream = StreamFile("stream.onnx", sha256_file(path), path.stat().st_size, 1)
    dataclasses.replace(Manifest.load(bundle), stream=stream).save(bundle)
    return bundle


@pytest.fixture
def dark_then_bright(tmp_path, film_greys):
    return film_greys(tmp_path / "day.mp4", [10] * 10 + [240] * 10)


# ------------------------------------------------------------------------------------------------------ the network
def test_the_state_passes_from_frame_to_frame_until_it_is_reset(tmp_path):
    network = FrameClassifier(per_frame_network(tmp_path / "n.onnx"))
    assert (network.dtype, network.state_size) == ("float32", 1)
    frame = np.full((1, 3, 16, 16), 0.5, np.float32)
    for count in range(3):
        assert network.step(frame)[0].tolist() == [-0.5, 0.5, count - 100]
    network.reset_state(streams=2)
    assert network.step(np.concatenate([frame, -frame])).tolist() == [[-0.5, 0.5, -100], [0.5, -0.5, -100]]
    assert network.state.tolist() == [[1], [1]]


def test_a_file_that_is_not_a_per_frame_network_is_refused(tmp_path, network):
    with pytest.raises(UserError, match="has the inputs clip, but a per-frame network has frame and state"):
        FrameClassifier(network(tmp_path / "clip.onnx"))
    (tmp_path / "text.onnx").write_text("not a network")
    for name in ("text.onnx", "missing.onnx"):
        with pytest.raises(UserError, match=rf"ONNX Runtime cannot load .*{name}"):
            FrameClassifier(tmp_path / name)


# ------------------------------------------------------------------------------------------------------ the frames
@pytest.mark.parametrize("every", [1, 3])
def test_every_nth_frame_comes_with_its_time(ramp, every):
    frames = [(seconds, round(float(pixels.mean()) / 4)) for seconds, pixels in iter_frames(ramp, SIZE, every)]
    assert [seconds for seconds, _ in frames] == pytest.approx([i / 10 for i in range(0, 50, every)])
    assert all(abs(number - i) <= 1 for (_, number), i in zip(frames, range(0, 50, every), strict=True))


def test_frames_do_not_share_memory(ramp):
    first, second = (pixels for _, pixels in itertools.islice(iter_frames(ramp, SIZE, 25), 2))
    assert first.shape == (16, 16, 3)
    assert first.dtype == np.uint8
    assert first.mean() < 10 < 90 < second.mean()


def test_a_truncated_video_gives_the_frames_before_the_cut(tmp_path, film_greys):
    whole, cut = film_greys(tmp_path / "whole.mkv", range(0, 200, 4)), tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])  # Matroska needs no index at its end
    assert 0 < len(list(iter_frames(cut, SIZE, 1))) < 50


@pytest.mark.parametrize("name", ["text.mp4", "missing.mp4"])
def test_a_source_that_is_not_a_video_is_refused(tmp_path, name):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ClipError, match=name):
        list(iter_frames(tmp_path / name, SIZE, 1))


# ------------------------------------------------------------------------------------------------------ predictions
def test_the_class_changes_with_the_video(stream_bundle, dark_then_bright):
    found = list(classify_stream(stream_bundle, dark_then_bright, smooth=1))
    assert [p.label for p in found] == ["dark"] * 10 + ["bright"] * 10
    assert [p.frame for p in found] == list(range(20))
    assert [p.seconds for p in found] == pytest.approx([i / 10 for i in range(20)])
    assert all(0.5 < p.probability <= 1 for p in found)


def test_smoothing_delays_the_change_and_frames_can_be_left_out(stream_bundle, dark_then_bright):
    smooth = [p.label for p in classify_stream(stream_bundle, dark_then_bright, smooth=6)]
    assert smooth[:10] == ["dark"] * 10
    assert 10 < smooth.index("bright") < 16
    half = list(classify_stream(stream_bundle, dark_then_bright, smooth=1, every=2))
    assert [p.label for p in half] == ["dark"] * 5 + ["bright"] * 5


def test_a_network_with_byte_input_gets_frames_that_are_not_normalised(stream_bundle, dark_then_bright):
    path = per_frame_network(stream_bundle / "stream.onnx", "uint8")
    manifest = Manifest.load(stream_bundle)
    stream = dataclasses.replace(manifest.stream, sha256=sha256_file(path), bytes=path.stat().st_size)
    dataclasses.replace(manifest, stream=stream).save(stream_bundle)
    labels = {p.label for p in classify_stream(stream_bundle, dark_then_bright, smooth=1)}
    assert labels == {"bright"}  # all byte values are positive


def test_a_missing_or_changed_per_frame_file_is_refused(bundle, stream_bundle, dark_then_bright):
    path = stream_bundle / "stream.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match="differs from the sha256 in the manifest"):
        list(classify_stream(stream_bundle, dark_then_bright))
    path.unlink()
    with pytest.raises(UserError, match="is missing or differs"):
        list(classify_stream(stream_bundle, dark_then_bright))
    dataclasses.replace(Manifest.load(bundle), stream=None).save(bundle)
    with pytest.raises(UserError, match="has no per-frame file"):
        list(classify_stream(bundle, dark_then_bright))


def test_text_has_a_line_for_each_change_and_json_one_for_each_frame(stream_bundle, dark_then_bright):
    lines = list(iter_stream_lines(stream_bundle, [dark_then_bright], as_json=False, smooth=1))
    assert len(lines) == 3
    assert " 0.00 s  dark" in lines[0]
    assert " 1.00 s  bright" in lines[1]
    assert "20 frames" in lines[2]
    entries = [json.loads(line) for line in iter_stream_lines(stream_bundle, [dark_then_bright], True, smooth=1)]
    assert len(entries) == 20
    assert entries[0].keys() == {"video", "seconds", "frame", "label", "probability", "milliseconds"}
    assert entries[-1]["label"] == "bright"
