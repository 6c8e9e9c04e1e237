"""Files whose metadata is not UTF-8 can be read, and all code opens files with `open_container`."""

import re
from pathlib import Path

import av
import numpy as np
import pytest

from skd_bench.inference.frame_stream import iter_frames
from skd_bench.inference.long_video import _read_duration_and_rate
from skd_bench.video.clip import decode_clip
from skd_bench.video.container import open_container
from skd_bench.video.sliding_window import SlidingWindows, Stopwatch, WindowSpacing
from skd_bench.video.types import Preprocessing, Sampling

VIEW = Preprocessing(16, 16, "crop", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture(params=["mp4", "mkv", "avi"])
def latin_1_video(request, tmp_path) -> Path:
    """A video with the title 'Überfall', as written by a camera that uses Latin-1."""
    path = tmp_path / f"v.{request.param}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "@berfall"
        stream = container.add_stream("mpeg4", rate=15)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for level in range(12):
            image = np.full((32, 32, 3), 20 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    assert b"@berfall" in data
    path.write_bytes(data.replace(b"@berfall", "Überfall".encode("latin-1")))
    return path


def test_the_file_is_opened_and_its_title_is_read(latin_1_video):
    with open_container(latin_1_video) as container:
        assert "berfall" in container.metadata["title"]
        assert len(list(container.decode(video=0))) == 12


def test_a_clip_is_decoded(latin_1_video):
    assert decode_clip(latin_1_video, Sampling(4), VIEW).shape == (4, 16, 16, 3)


def test_sliding_windows_are_decoded(latin_1_video):
    seconds, rate = _read_duration_and_rate(latin_1_video)
    assert (round(seconds, 1), round(rate)) == (0.8, 15)
    windows = SlidingWindows(latin_1_video, Sampling(4), VIEW, WindowSpacing(0.4, 0.4), stopwatch=Stopwatch())
    assert len(list(windows)) == 2


def test_single_frames_are_decoded(latin_1_video):
    assert len(list(iter_frames(latin_1_video, VIEW, 1))) == 12


def test_no_other_module_opens_videos(root, tree):
    """Suites are exempt: some of them time a bare decoder."""
    reads = re.compile(r"\bav\.open\((?![^)]*[\"']w[\"'])")
    sources = [f for f in tree if f.suffix == ".py" and f.parts[0] in ("skd_edge", "export", "bench")]
    found = [f.as_posix() for f in sources if "suites" not in f.parts and reads.search((root / f).read_text())]
    assert found == ["bench/skd_bench/video/container.py"]
