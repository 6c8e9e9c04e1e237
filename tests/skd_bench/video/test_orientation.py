"""The eight orientations that a display matrix can give a picture."""

from __future__ import annotations

import struct

import av
import numpy as np
import pytest

from skd_bench.video.clip import decode_clip
from skd_bench.video.orientation import read_orientation
from skd_bench.video.types import Preprocessing, Sampling

SIZE = Preprocessing(32, 32, "stretch", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
# The matrix's a, b, c, d (a picture at x, y is shown at a x + c y, b x + d y), and what FFmpeg's filters make of it.
WAYS = {
    "as stored": ((1, 0, 0, 1), lambda z: z),
    "hflip": ((-1, 0, 0, 1), lambda z: z[:, ::-1]),
    "vflip": ((1, 0, 0, -1), lambda z: z[::-1]),
    "half a turn": ((-1, 0, 0, -1), lambda z: z[::-1, ::-1]),
    "clockwise": ((0, 1, -1, 0), lambda z: np.rot90(z, -1)),
    "counterclockwise": ((0, -1, 1, 0), np.rot90),
    "transpose": ((0, 1, 1, 0), lambda z: z.swapaxes(0, 1)),
    "antitranspose": ((0, -1, -1, 0), lambda z: z[::-1, ::-1].swapaxes(0, 1)),
}


def corners() -> np.ndarray:
    """A picture whose four corners have four colours."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32, :32], image[:32, 32:], image[32:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return image


@pytest.fixture(scope="module")
def video(tmp_path_factory, write):
    return write(tmp_path_factory.mktemp("oriented") / "v.mp4", [corners()] * 3)


def with_matrix(video, path, matrix):
    """A copy of the video whose track has another display matrix."""
    data = bytearray(video.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_is_shown_as_ffmpeg_shows_it(video, tmp_path, way):
    matrix, turn = WAYS[way]
    path = with_matrix(video, tmp_path / "v.mp4", matrix)
    stored = decode_clip(video, Sampling(1), SIZE)[0]
    np.testing.assert_array_equal(decode_clip(path, Sampling(1), SIZE)[0], turn(stored))
    with av.open(str(path)) as container:
        orientation = read_orientation(next(container.decode(video=0)))
    assert orientation.is_mirrored == ("flip" in way or "transpose" in way)


def test_kinds_of_side_data_that_pyav_does_not_know_leave_the_rotation():
    class Unknown:
        rotation = 90

        @property
        def side_data(self):
            raise ValueError("31 is not a valid Type")

    shown = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(read_orientation(Unknown()).view_as_stored(shown), np.rot90(shown, -1))
