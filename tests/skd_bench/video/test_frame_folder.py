"""Folders of pictures are clips: the same frames as the video that they were taken from."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.video.clip import decode_clip
from skd_bench.video.frame_folder import list_frames
from skd_bench.video.types import ClipError, ClipSpan, Preprocessing, Sampling

SMALL = Preprocessing(24, 24, "crop", (0, 0, 0), (1, 1, 1))


def picture(grey: int, height: int = 32, width: int = 48) -> np.ndarray:
    rows = np.full((height, width, 3), grey, np.uint8)
    rows[:, : width // 2] //= 2  # left and right differ
    return rows


def write_picture(file: Path, pixels: np.ndarray) -> None:
    """A PNG or JPEG file, by its ending."""
    codec, form = ("png", "rgb24") if file.suffix.lower() == ".png" else ("mjpeg", "yuvj444p")
    context = av.codec.CodecContext.create(codec, "w")
    context.height, context.width = pixels.shape[:2]
    context.pix_fmt, context.time_base = form, Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=form)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)]))


@pytest.fixture
def frames(tmp_path):
    """Makes a folder of pictures, each lighter than the one before: ``frames(count, name="img_{:05}.jpg")``."""

    def make(count: int, name: str = "img_{:05}.jpg", folder: str = "clip") -> Path:
        for i in range(count):
            write_picture(tmp_path / folder / name.format(i + 1), picture(10 * i + 10))
        return tmp_path / folder

    return make


@pytest.mark.parametrize("name", ["img_{:05}.jpg", "{}.PNG", "take 2 frame{}.jpeg"])
@pytest.mark.parametrize(
    "sampling", [Sampling(4), Sampling(30), Sampling(3, "dense", 2), Sampling(4, "segment", 1, 2)], ids=str
)
def test_a_folder_is_sampled_as_the_video_of_these_frames(tmp_path, frames, name, sampling):
    folder = frames(12, name)
    video = tmp_path / "same.mkv"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "bgr0"
        for i in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(10 * i + 10), format="rgb24")))
        container.mux(stream.encode())
    found, expected = decode_clip(folder, sampling, SMALL), decode_clip(video, sampling, SMALL)
    assert np.abs(found.astype(int) - expected).max() <= (0 if name.endswith("PNG") else 3)


def test_a_span_of_time_counts_by_the_frame_rate(frames):
    folder = frames(20, "{}.png")
    clip = decode_clip(folder, Sampling(5), SMALL, ClipSpan(0.5, 1.0, frame_rate=10))
    assert clip[:, 0, -1, 0].tolist() == [60, 70, 80, 90, 100]
    with pytest.raises(ClipError, match="starts after the end of the video"):
        decode_clip(folder, Sampling(2), SMALL, ClipSpan(9, None, frame_rate=10))


def test_a_damaged_picture_is_replaced_by_the_one_before(frames):
    folder = frames(6, "{}.png")
    (folder / "1.png").write_bytes(b"")
    (folder / "4.png").write_bytes(b"\x89PNG damaged")
    greys = decode_clip(folder, Sampling(6), SMALL)[:, 0, -1, 0].tolist()
    assert greys == [20, 20, 30, 30, 50, 60]
    (folder / "3.png").write_bytes(b"text")
    (folder / "6.png").write_bytes(b"text")
    with pytest.raises(ClipError, match="4 of the 6 pictures"):
        decode_clip(folder, Sampling(6), SMALL)


def test_the_content_decides_not_the_ending(frames):
    folder = frames(3, "{}.png")
    for file in list(folder.iterdir()):
        file.rename(file.with_suffix(".jpg"))
    assert decode_clip(folder, Sampling(3), SMALL)[:, 0, -1, 0].tolist() == [10, 20, 30]


def test_optical_flow_beside_the_frames_is_left_out_and_two_films_are_refused(frames):
    folder = frames(3)
    for name in ("flow_x_00001.jpg", "flow_y_00001.jpg", ".hidden_1.jpg"):
        (folder / name).write_bytes(b"x")
    assert [file.name for file in list_frames(folder)] == [f"img_0000{i}.jpg" for i in (1, 2, 3)]
    (folder / "image_1.jpg").write_bytes(b"x")
    with pytest.raises(ClipError, match="several sequences of pictures"):
        decode_clip(folder, Sampling(2), SMALL)


@pytest.mark.parametrize("name", ["cam{}_{:04}.jpg", "{1:04}_view{0}.png", "img{}_take 1_{}.jpg"])
def test_two_cameras_in_one_folder_are_refused(tmp_path, name):
    for camera, number in product((1, 2), (1, 2, 3)):
        (tmp_path / name.format(camera, number)).touch()
    with pytest.raises(ValueError, match="several sequences of pictures") as refused:
        list_frames(tmp_path)
    assert re.search(r"\((cam1_#.jpg, cam2_#.jpg|0001_view#.png, .*|img1_take 1_#.jpg, .*)\)", str(refused.value))


def test_the_frames_beside_the_flow_of_two_cameras(tmp_path):
    for number in (1, 2, 3):
        for name in (f"img_{number}.jpg", f"flow1_{number}.jpg", f"flow2_{number}.jpg"):
            (tmp_path / name).touch()
    assert [file.name for file in list_frames(tmp_path)] == ["img_1.jpg", "img_2.jpg", "img_3.jpg"]


@pytest.mark.parametrize(
    "files",
    [
        ["1.JPG", "2.jpg", "3.Jpg", "10.JPG"],
        ["Img_1.jpg", "img_2.jpg"],
        ["v2_frame_1_240p.jpg", "v2_frame_2_240p.jpg"],
        ["frame_1_at_0.jpg", "frame_2_at_40.jpg", "frame_10_at_80.jpg"],
    ],
)
def test_names_of_one_sequence(tmp_path, files):
    for file in files:
        (tmp_path / file).touch()
    assert [file.name for file in list_frames(tmp_path)] == files


def test_a_folder_without_pictures_is_no_clip(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ClipError, match="a folder without pictures"):
        decode_clip(tmp_path, Sampling(2), SMALL)


@given(st.sets(st.integers(0, 10**7), min_size=1, max_size=30), st.booleans())
def test_pictures_are_in_the_order_of_their_numbers(tmp_path_factory, numbers, padded):
    folder = tmp_path_factory.mktemp("frames")
    for number in numbers:
        (folder / (f"f{number:08}.jpg" if padded else f"f{number}.jpg")).touch()
    assert [int(file.stem[1:]) for file in list_frames(folder)] == sorted(numbers)
