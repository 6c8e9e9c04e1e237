"""Files whose metadata is not UTF-8 can be read, and all code opens files with `open_container`."""

import re
from pathlib import Path

import av
import numpy as np
import pytest

from bench.suites.robustness.odd_videos import CODECS, make_video
from skd_bench.inference.frame_stream import iter_frames
from skd_bench.inference.long_video import _read_duration_and_rate
from skd_bench.video.clip import decode_clip
from skd_bench.video.container import open_container
from skd_bench.video.sliding_window import SlidingWindows, Stopwatch, WindowSpacing
from skd_bench.video.types import ClipError, Preprocessing, Sampling

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


LISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nv.ts\n#EXT-X-ENDLIST\n",
    "list.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nv.ts\n#EXT-X-ENDLIST\n",
    "concat.txt": "ffconcat version 1.0\nfile v.ts\n",
    "concat.mp4": "ffconcat version 1.0\nfile v.ts\n",
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "dash.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>',
    "notes.txt": "only text, which FFmpeg would draw as a film of letters\n" * 20,
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_files_is_not_a_video(tmp_path, write, name):
    """Every one of them opened `v.ts`, or another file that it names."""
    write(tmp_path / "v.ts", [np.full((32, 32, 3), 9, np.uint8)] * 4)
    (tmp_path / name).write_text(LISTS[name])
    with pytest.raises(ClipError, match=r"it contains no video|Invalid data") as caught:
        decode_clip(tmp_path / name, Sampling(2), VIEW)
    assert "\n" not in str(caught.value)


def test_a_pattern_of_file_names_and_a_picture_are_not_videos(tmp_path, write):
    write(tmp_path / "001.jpg", [np.full((32, 32, 3), 9, np.uint8)], codec="mjpeg", pix_fmt="yuvj420p")
    (tmp_path / "%03d.jpg").write_bytes((tmp_path / "001.jpg").read_bytes())
    for name in ("001.jpg", "%03d.jpg"):
        with pytest.raises(ClipError, match="it contains no video"):
            decode_clip(tmp_path / name, Sampling(2), VIEW)


def test_every_container_of_the_suite_may_be_opened(tmp_path):
    endings = {e for codec in CODECS.values() for e in codec.containers.split()}
    raw = {codec.raw[0][1:]: name for name, codec in CODECS.items() if codec.raw}
    for ending in sorted(endings | set(raw)):
        codec = raw.get(ending) or next(name for name, codec in CODECS.items() if ending in codec.containers.split())
        with open_container(make_video(tmp_path / f"v.{ending}", CODECS[codec])) as container:
            assert container.streams.video


def test_no_other_module_opens_videos(root, tree):
    """Suites are exempt: some of them time a bare decoder."""
    reads = re.compile(r"\bav\.open\((?![^)]*[\"']w[\"'])")
    sources = [f for f in tree if f.suffix == ".py" and f.parts[0] in ("skd_edge", "export", "bench")]
    found = [f.as_posix() for f in sources if "suites" not in f.parts and reads.search((root / f).read_text())]
    assert found == ["bench/skd_bench/video/container.py"]
