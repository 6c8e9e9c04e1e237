"""Frames are resized, cropped, padded and rotated as `Preprocessing` documents."""

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.video.clip import decode_clip
from skd_bench.video.resize import FrameResizer, compute_overlap, compute_scaled_size
from skd_bench.video.types import Preprocessing, Sampling


def halves(height: int, width: int) -> np.ndarray:
    """Left red, right blue, a green bar along the top."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2, 0] = 200
    image[:, width // 2 :, 2] = 200
    image[: height // 4] = (0, 200, 0)
    return image


def colour(pixel) -> str:
    return "rgb"[int(np.argmax(pixel))] if pixel.max() > 100 else "-"


@pytest.mark.parametrize("size", [(33, 47), (1, 1), (48, 64), (112, 80)])
@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_frames_have_the_requested_size(tmp_path, size, fit, write):
    path = write(tmp_path / "v.mkv", [halves(49, 65)] * 3, codec="ffv1", pix_fmt="yuv444p")
    clip = decode_clip(path, Sampling(2), Preprocessing(*size, fit, (0.5,) * 3, (0.2,) * 3))
    assert clip.shape == (2, *size, 3)
    assert clip.max() > 60


def test_stretch_shows_the_whole_frame_and_crop_its_centre(tmp_path, write):
    path = write(tmp_path / "v.mp4", [halves(64, 128)] * 3)
    whole = decode_clip(path, Sampling(1), Preprocessing(32, 32, "stretch", (0,) * 3, (1,) * 3))[0]
    assert [colour(whole[y, x]) for y, x in ((2, 2), (20, 2), (20, 29))] == ["g", "r", "b"]
    image = halves(64, 128)
    image[:, :20] = image[:, -20:] = (250, 250, 250)
    path = write(tmp_path / "w.mp4", [image] * 3)
    cut = decode_clip(path, Sampling(1), Preprocessing(32, 32, "crop", (0,) * 3, (1,) * 3))[0]
    assert [colour(cut[20, x]) for x in (1, 30)] == ["r", "b"]


def test_pad_fills_with_the_mean_colour(tmp_path, write):
    path = write(tmp_path / "v.mp4", [np.full((32, 64, 3), 255, np.uint8)] * 2)
    clip = decode_clip(path, Sampling(1), Preprocessing(40, 40, "pad", (0.2, 0.4, 0.6), (1,) * 3))[0]
    assert clip[0, 0].tolist() == clip[-1, -1].tolist() == [51, 102, 153]
    assert (clip[10:30] > 240).all()
    assert clip[9].tolist() == [[51, 102, 153]] * 40


def test_a_frame_of_extreme_shape_is_resized(tmp_path, write):
    path = write(tmp_path / "v.mkv", [np.full((2, 1200, 3), 200, np.uint8)] * 2, codec="ffv1", pix_fmt="yuv444p")
    for fit in ("crop", "pad"):
        clip = decode_clip(path, Sampling(2), Preprocessing(16, 16, fit, (0.0,) * 3, (1,) * 3))
        assert clip.max() > 190


@pytest.mark.parametrize(("rotation", "corners"), [(0, "gg.."), (90, "g.g."), (180, "..gg"), (-90, ".g.g")])
def test_a_rotated_video_is_decoded_upright(tmp_path, rotation, corners, write):
    path = write(tmp_path / "v.mp4", [halves(64, 96)] * 2, rotation=rotation)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation % 360 == rotation % 360
    clip = decode_clip(path, Sampling(1), Preprocessing(48, 32, "stretch", (0,) * 3, (1,) * 3))[0]
    got = "".join("g" if colour(clip[y, x]) == "g" else "." for y, x in ((2, 2), (2, 29), (45, 2), (45, 29)))
    assert got == corners


def test_the_pixel_aspect_ratio_is_applied(tmp_path, write):
    path = write(tmp_path / "v.mp4", [np.full((64, 64, 3), 255, np.uint8)] * 2, sample_aspect_ratio=Fraction(2, 1))
    clip = decode_clip(path, Sampling(1), Preprocessing(40, 40, "pad", (0,) * 3, (1,) * 3))[0]
    assert (clip[10:30] > 240).all()
    assert (clip[:9] < 10).all()


SIZES = st.integers(1, 300)


@given(SIZES, SIZES, SIZES, SIZES)
def test_a_cropped_frame_covers_the_input_and_a_padded_one_fits_into_it(frame_height, frame_width, height, width):
    aspect = Fraction(frame_width, frame_height)
    covering = compute_scaled_size(aspect, height, width, "crop")
    inside = compute_scaled_size(aspect, height, width, "pad")
    assert covering[0] >= height
    assert covering[1] >= width
    assert 1 <= inside[0] <= height
    assert 1 <= inside[1] <= width
    for scaled in (covering, inside):
        assert height == scaled[0] or width == scaled[1]
    assert compute_scaled_size(aspect, height, width, "stretch") == (height, width)


@given(SIZES, SIZES)
def test_source_and_target_are_equally_long_and_centred(size, scaled):
    target, source = compute_overlap(size, scaled)
    assert target.stop - target.start == source.stop - source.start == min(size, scaled)
    assert abs(target.start - (size - target.stop)) <= 1
    assert abs(source.start - (scaled - source.stop)) <= 1


def test_frames_are_written_in_order_and_a_repeated_frame_is_copied():
    resizer = FrameResizer(3, Preprocessing(8, 8, "stretch", (0.5,) * 3, (0.5,) * 3), None)
    dark, bright = (av.VideoFrame.from_ndarray(np.full((16, 16, 3), value, np.uint8), "rgb24") for value in (10, 200))
    for done, frame in enumerate((dark, dark, bright)):
        assert resizer.done == done
        resizer.write_frame(frame)
    assert resizer.out[:, 0, 0, 0].tolist() == [10, 10, 200]
