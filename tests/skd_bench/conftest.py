"""A tiny network, real videos, bundles and signing keys, for the tests of the code that runs on a device."""

import subprocess
from pathlib import Path

import av
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from skd_bench.bundle.manifest import Artefact, Manifest, SampleClip
from skd_bench.files import sha256_file
from skd_bench.video.types import Preprocessing, Sampling

FRAMES, SIZE = 4, 16
RATE = 10
CLASSES = ["dark", "bright", "green"]


def brightness_network(path: Path, *, bias: float = 0.0, shape=(3, FRAMES, SIZE, SIZE)) -> Path:
    """Logits (-mean, mean, green) of a normalised clip."""
    weights = np.ones((3, int(np.prod(shape))), np.float32) / np.prod(shape)
    weights[0] *= -1
    weights[2] = 0
    weights[2, np.prod(shape[1:]) : 2 * np.prod(shape[1:])] = 1 / np.prod(shape[1:])
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["clip"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], transB=1),
        ],
        "brightness",
        [helper.make_tensor_value_info("clip", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(weights.astype(np.float32), "w"),
            numpy_helper.from_array(np.array([bias, bias, bias], np.float32), "b"),
        ],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def grey_video(path: Path, value: int, count: int = 12) -> Path:
    """A real H.264 file whose frames all have the same grey."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=15)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), value, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grey_film(path: Path, greys) -> Path:
    """A real H.264 file whose frame i has the grey `greys[i]`; 10 frames per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "1"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for grey in greys:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), grey, np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    return path


def make_bundle(folder: Path, *, files=("fp32.onnx", "other.onnx"), samples: int = 0, bias: float = 0.0) -> Path:
    """A bundle whose artefacts all distinguish dark videos from bright ones."""
    artefacts = []
    for file in files:
        path = brightness_network(folder / "artefacts" / file, bias=bias)
        artefacts.append(
            Artefact(f"artefacts/{file}", sha256_file(path), path.stat().st_size, "fp32", "ort", "tiny", ["tiny"])
        )
    clips = []
    for i in range(samples):
        (folder / "samples").mkdir(exist_ok=True)
        path = grey_video(folder / "samples" / f"{i}.mp4", 30)
        clips.append(SampleClip(f"samples/{i}.mp4", sha256_file(path), path.stat().st_size, "dark"))
    Manifest(
        schema=1,
        name="tiny bundle",
        created_by="test",
        classes=CLASSES,
        contract="float_clip",
        sampling=Sampling(FRAMES),
        preprocess=Preprocessing(SIZE, SIZE, "crop", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        default=artefacts[0].file,
        artefacts=artefacts,
        samples=clips,
    ).save(folder)
    return folder


@pytest.fixture
def network():
    """Writes the tiny network: see `brightness_network`."""
    return brightness_network


@pytest.fixture
def video():
    """Writes a grey video: see `grey_video`."""
    return grey_video


@pytest.fixture
def film_greys():
    """Writes a video of given greys: see `grey_film`."""
    return grey_film


@pytest.fixture
def ramp(tmp_path) -> Path:
    """A video of 5 s at 10 frames per second, whose frame i has the grey 4 i."""
    return grey_film(tmp_path / "ramp.mp4", [4 * i for i in range(50)])


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A bundle of two artefacts, in a folder with spaces and non-ASCII letters."""
    return make_bundle(tmp_path / "mein Bündel")


@pytest.fixture
def broken_bundle(tmp_path) -> Path:
    """A bundle whose network outputs NaN, with a sample clip."""
    return make_bundle(tmp_path / "broken", files=("fp32.onnx",), samples=1, bias=float("nan"))


@pytest.fixture
def bundle_with_samples(tmp_path) -> Path:
    """A bundle of one artefact and two sample clips."""
    return make_bundle(tmp_path / "sampled", files=("fp32.onnx",), samples=2)


@pytest.fixture
def keys(tmp_path):
    """Private keys of anna and of a stranger, and a list of signers with only anna."""
    for name in ("anna", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", tmp_path / name], check=True)
    (tmp_path / "signers").write_text(f"anna@example.org {(tmp_path / 'anna.pub').read_text()}")
    return tmp_path
