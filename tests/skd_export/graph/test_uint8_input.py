"""Files that take uint8 frames give the logits of files that take normalised clips."""

import av
import numpy as np
import onnxruntime as ort
import pytest

from skd_bench.errors import UserError
from skd_bench.runtimes import find_runtime
from skd_bench.video.clip import decode_clip, normalise, prepare_input
from skd_bench.video.types import Preprocessing, Sampling
from skd_export.graph.onnx_export import CLASSES_KEY, load_onnx
from skd_export.graph.uint8_input import add_preprocessing, preprocess_frames
from skd_export.quantization.quantize import quantize_for_ort

PLAIN = Preprocessing(16, 16, "crop", (0.45, 0.4, 0.5), (0.225, 0.2, 0.25))


@pytest.fixture
def video(tmp_path):
    """Writes a video of a slowly moving gradient with the given height and width."""

    def render(height, width):
        y, x = np.mgrid[:height, :width]
        with av.open(str(tmp_path / "v.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
            for i in range(8):
                image = np.stack([4 * x + 5 * i, 5 * y, 255 - 3 * x], -1) % 256
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image.astype(np.uint8), "rgb24")))
            container.mux(stream.encode())
        return tmp_path / "v.mp4"

    return render


def frames(shape=(5, 4, 16, 16, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def compute_logits(path, x):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_frames_give_the_logits_of_their_clips(fp32, batches, tmp_path, precision):
    clip_file = fp32
    if precision == "int8":
        clip_file = tmp_path / "int8.onnx"
        quantize_for_ort(fp32, clip_file, batches())
    add_preprocessing(clip_file, tmp_path / "frames.onnx", PLAIN)
    x = frames()
    expected = compute_logits(clip_file, normalise(x, PLAIN))
    assert np.ptp(expected, axis=0).max() > 0.01  # the clips have different logits
    # Folded transposes may change the order of sums, which affects the last bits only.
    np.testing.assert_allclose(compute_logits(tmp_path / "frames.onnx", x), expected, rtol=1e-5, atol=1e-5)


def test_the_runtime_takes_frames_and_the_file_keeps_its_classes(fp32, tmp_path):
    add_preprocessing(fp32, tmp_path / "frames.onnx", PLAIN)
    session = find_runtime("ort").load(tmp_path / "frames.onnx", threads=1)
    assert (session.input.dtype, session.input.shape) == ("uint8", (None, 4, 16, 16, 3))
    x = frames()
    assert prepare_input(x, PLAIN, session.input.dtype) is x
    np.testing.assert_allclose(session.run(x), compute_logits(fp32, normalise(x, PLAIN)), rtol=1e-5, atol=1e-5)
    assert [p.key for p in load_onnx(tmp_path / "frames.onnx").metadata_props] == [CLASSES_KEY]


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("size", [(24, 40), (40, 24), (9, 30), (31, 31)])
def test_frames_of_another_size_are_resized_as_in_numpy(fp32, tmp_path, fit, size):
    how = Preprocessing(16, 16, fit, PLAIN.mean, PLAIN.std)
    add_preprocessing(fp32, tmp_path / "frames.onnx", how, size)
    x = frames((3, 4, *size, 3))
    clip = preprocess_frames(x, how)
    assert clip.shape == (3, 3, 4, 16, 16)
    np.testing.assert_allclose(
        compute_logits(tmp_path / "frames.onnx", x), compute_logits(fp32, clip), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_resizing_in_the_file_is_close_to_the_decoder(video, fit):
    how = Preprocessing(16, 16, fit, PLAIN.mean, PLAIN.std)
    path = video(48, 32)
    decoded = normalise(decode_clip(path, Sampling(4), how)[None], how)
    raw = decode_clip(path, Sampling(4), Preprocessing(48, 32, "stretch", PLAIN.mean, PLAIN.std))
    difference = (
        np.abs(preprocess_frames(raw[None], how) - decoded) * 255 * np.reshape(how.std, (3, 1, 1, 1))
    )  # grey levels
    assert difference.mean() < 2


def test_padding_is_the_mean_colour():
    how = Preprocessing(16, 16, "pad", PLAIN.mean, PLAIN.std)
    clip = preprocess_frames(frames((1, 4, 8, 16, 3)), how)
    assert np.abs(clip[:, :, :, :4]).max() < 1e-6
    assert np.abs(clip[:, :, :, 5:11]).max() > 0.5


def test_equal_files_give_equal_bytes(fp32, tmp_path):
    for name in "ab":
        add_preprocessing(fp32, tmp_path / name, PLAIN, (24, 24))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_takes_other_inputs_is_refused(fp32, tmp_path):
    with pytest.raises(UserError, match="not float clips of 32x32"):
        add_preprocessing(fp32, tmp_path / "x", Preprocessing(32, 32, "crop", PLAIN.mean, PLAIN.std))
    add_preprocessing(fp32, tmp_path / "once.onnx", PLAIN)
    with pytest.raises(UserError, match="not float clips"):
        add_preprocessing(tmp_path / "once.onnx", tmp_path / "twice.onnx", PLAIN)
