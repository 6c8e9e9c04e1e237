"""Contact sheets: frames of the video if it can be read, the stored frames otherwise."""

from __future__ import annotations

import base64
import io

import av
import numpy as np
import pytest

from skd_bench.video.types import Preprocessing
from skd_edge.report.contact_sheet import SHEET_FRAME_SIDE, SHEET_FRAMES, build_contact_sheet, encode_jpeg

PREPROCESS = Preprocessing(32, 32, "crop", (0.45,) * 3, (0.225,) * 3)


def decode_jpeg(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def decode_sheet(address: str) -> np.ndarray:
    prefix, data = address.split(",")
    assert prefix == "data:image/jpeg;base64"
    return decode_jpeg(base64.b64decode(data))


def stored_frames(count: int, value: int) -> np.ndarray:
    return np.full((count, 32, 32, 3), value, np.uint8)


def test_the_sheet_shows_frames_of_the_video(film, tmp_path):
    path = film(tmp_path / "a.mp4", frames=8, size=32)
    sheet = decode_sheet(build_contact_sheet(path, stored_frames(4, 0), PREPROCESS))
    assert sheet.shape[0] == SHEET_FRAME_SIDE
    assert sheet.shape[1] >= SHEET_FRAMES * SHEET_FRAME_SIDE
    assert sheet.std() > 5  # the stored frames are black


@pytest.mark.parametrize("content", [None, b"not a video"])
@pytest.mark.parametrize(("stored", "shown"), [(4, 4), (20, SHEET_FRAMES)])
def test_without_a_readable_video_the_stored_frames_are_shown(tmp_path, content, stored, shown):
    path = tmp_path / "gone.mp4"
    if content is not None:
        path.write_bytes(content)
    sheet = decode_sheet(build_contact_sheet(path, stored_frames(stored, 200), PREPROCESS))
    assert sheet.shape[:2] == (32, (32 + 1) * shown // 2 * 2)
    assert np.abs(sheet[:, 4:28].astype(int) - 200).max() < 8


def test_a_clip_without_a_path_uses_the_stored_frames():
    assert decode_sheet(build_contact_sheet(None, stored_frames(2, 90), PREPROCESS)).shape == (32, 66, 3)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (17, 25)])
def test_an_odd_last_row_or_column_is_dropped(height, width):
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, width // 2 :] = (250, 10, 10)
    decoded = decode_jpeg(encode_jpeg(picture))
    assert decoded.shape == (16, 24, 3)
    assert decoded[8, 2].max() < 40
    assert decoded[8, 22, 0] > 200
    assert decoded[8, 22, 1] < 60
