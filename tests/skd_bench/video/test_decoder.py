"""Unusual files and parts of files give the frames that `Sampling` and `ClipSpan` document."""

from __future__ import annotations

import os
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from skd_bench.video import decoder
from skd_bench.video.clip import decode_clip
from skd_bench.video.stream import pictures
from skd_bench.video.types import ClipError, ClipSpan, Preprocessing, Sampling

GREY = Preprocessing(16, 16, "stretch", (0.45, 0.45, 0.45), (0.225, 0.225, 0.225))


def write(
    path: Path, count: int, *, codec="libx264", pix_fmt="yuv420p", pts=None, gop=12, size=(32, 48), **more
) -> Path:
    """A video whose frame i is of grey 20 + 4 i; `pts` in milliseconds."""
    options = {"crf": "4", "preset": "ultrafast"} if codec.startswith("libx26") else {}
    with av.open(str(path), "w", format=more.get("format")) as container:
        video = container.add_stream(codec, rate=10, options=options | more.get("options", {}))
        video.height, video.width, video.pix_fmt, video.gop_size = *size, pix_fmt, gop
        sound = container.add_stream("pcm_s16le", rate=16_000, layout="mono") if more.get("sound") else None
        if pts is not None:
            video.time_base = video.codec_context.time_base = Fraction(1, 1000)
        for i in range(count):
            image = np.full((*size, 3), 20 + 4 * i, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pix_fmt, interpolation=0xC2020)
            if pts is not None:
                frame.pts, frame.time_base = pts[i], Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), "s16", "mono")
            silence.sample_rate = 16_000
            container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
    return path


def shown(path: Path, sampling: Sampling, span: ClipSpan | None = None) -> list[int]:
    clip = decode_clip(path, sampling, GREY, *([span] if span else []))
    assert clip.shape == (sampling.frames, 16, 16, 3)
    numbers = (clip.mean(axis=(1, 2, 3)) - 20) / 4
    assert np.abs(numbers - np.round(numbers)).max() < 0.45, numbers
    return np.round(numbers).astype(int).tolist()


# --------------------------------------------------------------------------------------------------- sampling
@pytest.mark.parametrize(
    ("count", "sampling", "want"),
    [
        (24, Sampling(6, "segment", 1, 3), [3, 4, 11, 12, 19, 20]),
        (24, Sampling(6, "segment", 2, 2), [3, 5, 7, 15, 17, 19]),
        (24, Sampling(4, "segment", 1, 4), [2, 8, 14, 20]),  # between two frames the earlier
        (
            8,
            Sampling(8, "segment", 2, 2),
            [0, 0, 2, 3, 4, 4, 6, 7],
        ),  # -2, 0, 2, 4 and 2, 4, 6, 8, limited to the part
        (1, Sampling(4, "segment", 1, 2), [0, 0, 0, 0]),
        (20, Sampling(4, "segment", 2, 1), [6, 8, 10, 12]),  # one part: dense
    ],
)
def test_segments_take_runs_around_the_middle_of_each_part(tmp_path, count, sampling, want):
    assert shown(write(tmp_path / "v.mp4", count), sampling) == want


def test_dense_and_segment_sampling_use_timestamps(tmp_path):
    """Ten frames in 2 s: nine in the first 0.9 s, the last shown for 1.1 s; an average frame takes 0.2 s."""
    path = write(tmp_path / "v.mkv", 11, pts=[*range(0, 900, 100), 900, 1900])
    # The last frame is assumed to have the usual duration of 0.1 s: 2.0 s, 11 frames, 0.18 s each.
    assert shown(path, Sampling(4, "dense")) == [6, 8, 9, 9]  # about 1.0 s: 0.68, 0.86, 1.05 and 1.23 s
    assert shown(path, Sampling(4, "segment", 1, 2)) == [3, 5, 9, 9]


# --------------------------------------------------------------------------------------------------- files
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("grey.mkv", {"codec": "ffv1", "pix_fmt": "gray"}),
        ("ten bits.mkv", {"codec": "ffv1", "pix_fmt": "yuv420p10le"}),
        ("ten bits.mp4", {"codec": "libx264", "pix_fmt": "yuv420p10le"}),
        ("no duration.mkv", {"options": {}, "format": "matroska"}),
        ("sound.mkv", {"sound": True}),
        ("odd.mkv", {"codec": "ffv1", "pix_fmt": "yuv444p", "size": (33, 51)}),
        ("v.mjpeg.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    ],
)
def test_unusual_files_give_the_documented_frames(tmp_path, name, how):
    path = write(tmp_path / name, 20, **how)
    if name.startswith("no"):  # like the file of a recorder that lost power: the header has no duration
        data = path.read_bytes()
        at = data.index(b"\x44\x89\x88")  # EBML: Duration, 8 bytes
        path.write_bytes(data[:at] + b"\xec\x89" + b"\x88" + data[at + 3 :])  # a Void of the same length
        with av.open(str(path)) as container:
            assert container.streams.video[0].duration is None
    assert shown(path, Sampling(5)) == [2, 6, 10, 14, 18]
    assert shown(path, Sampling(3, "dense", 2)) == [7, 9, 11]


def test_an_album_cover_is_not_a_video(tmp_path):
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        sound, cover = (
            container.add_stream("libmp3lame", rate=16_000, layout="mono"),
            container.add_stream("mjpeg", rate=1),
        )
        cover.width = cover.height = 16
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 576), np.float32), "fltp", "mono")
        silence.sample_rate = 16_000
        container.mux(cover.encode(av.VideoFrame(16, 16, "yuvj420p")))
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    with av.open(str(path)) as container:
        assert container.streams.video
    with pytest.raises(ClipError, match="it contains no video"):
        decode_clip(path, Sampling(2), GREY)


def test_a_gigantic_picture_is_refused_before_it_takes_memory(tmp_path, monkeypatch):
    path = write(tmp_path / "v.mp4", 3)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 32 * 48 - 1)
    with pytest.raises(ClipError, match="frames of 48x32 pixels, which is too large"):
        decode_clip(path, Sampling(2), GREY)


def test_a_pipe_is_refused_without_reading_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ClipError, match="a pipe or a device"):
        decode_clip(tmp_path / "pipe.mp4", Sampling(2), GREY)


# --------------------------------------------------------------------------------------------------- spans of time
@pytest.fixture(scope="module")
def long(tmp_path_factory) -> dict[str, Path]:
    """Five seconds, ten frames a second, a key frame every seven frames."""
    folder = tmp_path_factory.mktemp("long")
    return {name: write(folder / name, 50, gop=7) for name in ("v.mp4", "v.mkv", "v.ts")}


@pytest.mark.parametrize("keep", [decoder._KEEP_BYTES, 0])
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.ts"])
@pytest.mark.parametrize(
    ("start", "end", "want"),
    [
        (1.0, 2.0, [11, 13, 16, 18]),  # middles at 1.125, 1.375, ... s, ten frames a second
        (3.0, None, [32, 37, 42, 47]),
        (0.0, 0.4, [0, 1, 2, 3]),
        (4.6, 99.0, [46, 47, 48, 49]),  # ends with the video
        (2.52, 2.58, [25, 25, 25, 25]),  # within one frame
    ],
)
def test_a_span_of_time(long, monkeypatch, keep, name, start, end, want):
    monkeypatch.setattr(decoder, "_KEEP_BYTES", keep)
    assert shown(long[name], Sampling(4), ClipSpan(start, end)) == want


def test_a_span_reads_only_its_own_packets(tmp_path, monkeypatch):
    path = write(tmp_path / "v.mp4", 50, gop=5)
    read: list[int] = []
    real = decoder.iter_packets

    def recording(*args):
        for packet in real(*args):
            read.append(packet.pts)
            yield packet

    monkeypatch.setattr(decoder, "iter_packets", recording)
    assert shown(path, Sampling(2), ClipSpan(3.0, 3.5)) == [31, 33]
    assert len(read) <= 12


@pytest.mark.parametrize(("start", "end"), [(5.0, 6.0), (70.0, None), (2.0, 2.0), (3.0, 2.0)])
def test_a_span_outside_the_video_is_refused(long, start, end):
    with pytest.raises(ClipError, match=r"the span from .* is empty, or starts after the end of the video"):
        decode_clip(long["v.mp4"], Sampling(2), GREY, ClipSpan(start, end))


def test_a_span_of_a_file_without_timestamps_is_refused(tmp_path):
    path = write(tmp_path / "v.h264", 30)
    with pytest.raises(ClipError, match="no timestamps"):
        decode_clip(path, Sampling(2), GREY, ClipSpan(1.0, 2.0))


# --------------------------------------------------------------------------------------------------- archives
def test_a_video_inside_a_tar_is_read_in_place(tmp_path):
    whole = write(tmp_path / "v.mp4", 20)
    (tmp_path / "other.bin").write_bytes(bytes(3000))
    archive = tmp_path / "a,,:b ü.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "other.bin", "other.bin")
        tar.add(whole, "v.mp4")
    with tarfile.open(archive) as tar:
        member = tar.getmember("v.mp4")
    span = ClipSpan(offset=member.offset_data, size=member.size)
    np.testing.assert_array_equal(decode_clip(archive, Sampling(5), GREY, span), decode_clip(whole, Sampling(5), GREY))
    assert shown(archive, Sampling(2), ClipSpan(1.0, 2.0, member.offset_data, member.size)) == [12, 17]
    with pytest.raises(ClipError):
        decode_clip(archive, Sampling(5), GREY, ClipSpan(offset=member.offset_data + 600, size=member.size))


def test_a_container_that_cannot_seek_is_read_from_its_start(long, monkeypatch):
    """FFmpeg reports an error for some files when it should go to a place in them."""
    real = decoder.open_container

    class Unseekable:
        def __init__(self, container):
            self.container = container

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.container.close()

        def __getattr__(self, name):
            return getattr(self.container, name)

        def seek(self, *_, **__):
            raise av.error.PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(decoder, "open_container", lambda *how, **more: Unseekable(real(*how, **more)))
    assert shown(long["v.mp4"], Sampling(4), ClipSpan(3.0)) == [32, 37, 42, 47]
