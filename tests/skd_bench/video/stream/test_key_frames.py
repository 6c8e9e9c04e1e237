"""Key frames are recognised by their own bytes, whatever the container states."""

from __future__ import annotations

import av
import numpy as np
import pytest

from bench.suites.robustness.odd_videos import CODECS, FRAMES, Look, is_hidden, make_video
from skd_bench.video.stream.key_frames import find_key_frame_test, shows_a_picture

CASES = {
    "h264.mp4": ("libx264", {}),
    "h264.ts": ("libx264", {}),
    "open.mp4": ("libx264", {"x264-params": "open-gop=1:scenecut=0"}),
    "refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:scenecut=0"}),
    "hevc.mp4": ("libx265", {"x265-params": "log-level=none"}),
    "hevc.ts": ("libx265", {"x265-params": "log-level=none"}),
    "mpeg4.avi": ("mpeg4", {}),
    "mpeg2.ts": ("mpeg2video", {}),
    "vp8.webm": ("libvpx", {}),
    "vp9.webm": ("libvpx-vp9", {}),
    "av1.mkv": ("libsvtav1", {"preset": "12"}),
    "ffv1.mkv": ("ffv1", {}),
    "mjpeg.avi": ("mjpeg", {}),
}


def film(path, codec, options):
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=15, options=options)
        video.width = video.height = 64
        video.gop_size = 6
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(20):
            image = np.roll(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) // 8 + 100, number, 1)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(video.encode(None))
    return path


@pytest.mark.parametrize("name", CASES)
def test_key_frames_are_those_of_a_whole_container(tmp_path, name):
    path = film(tmp_path / name, *CASES[name])
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        codec = context.codec.canonical_name
        test = find_key_frame_test(codec, context.extradata)
        assert test is not None
        packets = [packet for packet in container.demux(video=0) if packet.size]
    found = [test(bytes(packet)) for packet in packets]
    assert found[0]
    if name == "refresh.mp4":  # its later key frames show a whole picture only some frames later
        assert sum(found) == 1 < sum(packet.is_keyframe for packet in packets)
    else:
        assert found == [packet.is_keyframe for packet in packets]
        assert sum(found) > 1
    assert all(shows_a_picture(codec, bytes(packet)) for packet in packets if codec not in ("vp8", "vp9"))
    for cut in (0, 1, 5, 9):
        assert test(bytes(packets[0])[:cut]) in (True, False)


def test_hidden_frames_of_vp8_are_seen(tmp_path):
    path = make_video(tmp_path / "v.webm", CODECS["vp8"], Look(hidden=True))
    with av.open(str(path)) as container:
        shown = [shows_a_picture("vp8", bytes(packet)) for packet in container.demux(video=0) if packet.size]
    assert shown == [not is_hidden(number) for number in range(FRAMES)]


def test_codecs_that_are_not_known_have_no_test():
    assert find_key_frame_test("msmpeg4v3", None) is None
