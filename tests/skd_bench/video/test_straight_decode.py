"""Kinds of files that came out wrong before, and the equality of the fast way with straight decoding."""

from __future__ import annotations

from functools import partial

import av
import numpy as np
import pytest

from bench.suites.robustness import odd_videos as odd
from bench.suites.robustness.odd_videos import CODECS, FRAMES, RATE, Look, make_video
from skd_bench.inference.frame_stream import iter_frames
from skd_bench.video import decoder
from skd_bench.video.clip import decode_clip
from skd_bench.video.sliding_window import SlidingWindows, WindowSpacing
from skd_bench.video.straight_decode import decode_straight
from skd_bench.video.types import ClipSpan, Preprocessing, Sampling

SIZE = Preprocessing(32, 32, "stretch", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
ALL = Sampling(FRAMES)


def make(tmp_path, name, codec, look=odd.PLAIN):
    return make_video(tmp_path / name, CODECS[codec], look)


def assert_same_clip(one, other, sampling=ALL):
    np.testing.assert_array_equal(decode_clip(one, sampling, SIZE), decode_clip(other, sampling, SIZE))


@pytest.mark.parametrize(("name", "codec"), [("v.avi", "msmpeg4"), ("v.avi", "mpeg4"), ("v.avi", "vp8")])
def test_an_avi_without_its_index_is_the_same_clip(tmp_path, name, codec):
    """Every packet counted as a key frame: the pictures were garbage."""
    whole = make(tmp_path, name, codec)
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes())
    odd.operate(cut, odd.drop_avi_index)
    for frames in (2, 5, FRAMES):
        assert_same_clip(cut, whole, Sampling(frames))


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4", "mpeg2", "vp9", "av1"])
def test_an_mp4_without_sync_table_is_the_same_clip(tmp_path, codec):
    """Every sample counted as a key frame: garbage, or "none of its frames decodes"."""
    whole = make(tmp_path, "v.mp4", codec)
    bare = tmp_path / "bare.mp4"
    bare.write_bytes(whole.read_bytes())
    odd.operate(bare, odd.drop_sync_table)
    for sampling in (Sampling(2), Sampling(5), ALL, Sampling(3, "dense", 2)):
        assert_same_clip(bare, whole, sampling)
    span = ClipSpan(0.5, 0.9)
    np.testing.assert_array_equal(decode_clip(bare, ALL, SIZE, span), decode_clip(whole, ALL, SIZE, span))


@pytest.mark.parametrize("ahead", [0, 60, 40_000])
def test_joined_recordings_are_one_clip(tmp_path, ahead):
    """`cat a.ts b.ts`: one picture filled the clip, and `watch` reported a minute that is not there."""
    whole = make(tmp_path, "v.ts", "h264")
    second = make(tmp_path, "w.ts", "h264", Look(first=ahead * RATE))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(whole.read_bytes() + second.read_bytes())
    clip = decode_clip(joined, Sampling(2 * FRAMES), SIZE)
    once = decode_clip(whole, ALL, SIZE)
    assert [frame.tobytes() for frame in clip[:FRAMES]] == [frame.tobytes() for frame in once]
    assert [frame.tobytes() for frame in clip[FRAMES:]] == [frame.tobytes() for frame in once]
    seconds = [second for second, _ in iter_frames(joined, SIZE, 1)]
    assert seconds == pytest.approx([number / RATE for number in range(2 * FRAMES)])
    windows = SlidingWindows(joined, Sampling(2), SIZE, WindowSpacing(0.4, 0.2))
    assert len(list(windows)) == 11
    assert windows.seconds == pytest.approx(2 * FRAMES / RATE)
    span = ClipSpan(1.4, 1.8)  # after the jump
    np.testing.assert_array_equal(decode_clip(joined, Sampling(5), SIZE, span), once[6:16:2])


@pytest.mark.parametrize(
    ("name", "codec", "surgery"),
    [
        ("v.ts", "mpeg2", partial(odd.shift_packet_time, frames=200)),
        ("v.ts", "h264", partial(odd.shift_packet_time, frames=-200)),
        ("v.mkv", "vp9", partial(odd.shift_block_time, milliseconds=-40)),
        ("v.mkv", "mpeg4", partial(odd.shift_block_time, milliseconds=20_000)),
        ("v.mp4", "h264", partial(odd.shift_sample_time, frames=-1)),
        ("v.ts", "h264", partial(odd.drop_packet_times, every=1)),
        ("v.ts", "mpeg4", partial(odd.drop_packet_times, every=3)),
    ],
)
def test_one_odd_timestamp_costs_one_frame_not_the_file(tmp_path, name, codec, surgery):
    """They counted as a file without timestamps, or stretched the clip to many seconds."""
    path = make(tmp_path, name, codec)
    whole = decode_clip(path, ALL, SIZE)
    odd.operate(path, surgery)
    changed = [(a != b).any() for a, b in zip(decode_clip(path, ALL, SIZE), whole, strict=True)]
    assert sum(changed) <= 1
    assert [second for second, _ in iter_frames(path, SIZE, 1)] == pytest.approx(
        [number / RATE for number in range(FRAMES)], abs=0.021
    )


def test_untimed_streams_count_pictures_not_packets(tmp_path):
    """In a raw stream whose end is cut, some packets give no picture."""
    path = make(tmp_path, "v.h264", "h264")
    assert_same_clip(path, make(tmp_path, "v.mp4", "h264"))


def test_packets_without_a_picture_are_no_losses(tmp_path):
    """A third of the packets is decoded but not shown, up to the end of the video."""
    path = make(tmp_path, "v.webm", "vp8", Look(hidden=True))
    clip, whole = decode_clip(path, ALL, SIZE), decode_clip(make(tmp_path, "w.webm", "vp8"), ALL, SIZE)
    for number in range(FRAMES):
        np.testing.assert_array_equal(clip[number], whole[number - odd.is_hidden(number)])


@pytest.mark.parametrize("codec", ["h264", "mpeg2"])
@pytest.mark.parametrize("top_first", [True, False])
def test_interlaced_pictures_have_no_comb(tmp_path, codec, top_first):
    """Every other row was from another moment, after scaling too."""
    rows = 24
    path = make(tmp_path, "v.mkv", codec, Look(top_first=top_first))
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    small = Preprocessing(rows, 32, "stretch", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    clip = decode_clip(path, ALL, small).astype(int)
    progressive = decode_clip(make(tmp_path, "p.mkv", codec), ALL, small).astype(int)

    def comb(pictures):
        return np.abs(pictures[:, 1:-1] - (pictures[:, :-2] + pictures[:, 2:]) / 2).mean()

    assert comb(clip) < 1.2 * comb(progressive)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("v.mp4", "h264"),
        ("v.ts", "h264"),
        ("v.mkv", "h264 open"),
        ("v.mp4", "hevc"),
        ("v.webm", "vp9"),
        ("v.mp4", "av1"),
        ("v.mpg", "mpeg2"),
        ("v.avi", "mjpeg"),
    ],
)
@pytest.mark.parametrize("keep", [decoder._KEEP_BYTES, 0])
def test_the_fast_way_is_taken_and_equals_the_straight_one(tmp_path, monkeypatch, name, codec, keep):
    path = make(tmp_path, name, codec)
    want = {}
    cases = [(Sampling(2), {}), (Sampling(7), {}), (Sampling(3, "dense"), {}), (Sampling(3, "segment", 1, 3), {})]
    cases += [(Sampling(3), {"span": ClipSpan(0.5, 0.8)}), (Sampling(3), {"span": ClipSpan(0.6)})]
    for number, (sampling, how) in enumerate(cases):
        want[number] = decode_straight(path, sampling, SIZE, **how)
    monkeypatch.setattr(decoder, "_KEEP_BYTES", keep)
    monkeypatch.setattr(decoder, "decode_straight", lambda *_, **__: pytest.fail("decoded straight"))
    for number, (sampling, how) in enumerate(cases):
        np.testing.assert_array_equal(decode_clip(path, sampling, SIZE, **how), want[number])


def test_a_right_guess_saves_the_second_pass_and_a_wrong_one_changes_nothing(tmp_path, monkeypatch):
    path = make(tmp_path, "v.mkv", "msmpeg4")
    opened = []
    real = odd.av.open
    monkeypatch.setattr(av, "open", lambda *args, **how: opened.append(args) or real(*args, **how))
    clip = decode_straight(path, Sampling(3), SIZE)
    assert len(opened) == 2
    np.testing.assert_array_equal(decode_straight(path, Sampling(3), SIZE, guess=[5, 15, 25]), clip)
    assert len(opened) == 3
    np.testing.assert_array_equal(decode_straight(path, Sampling(3), SIZE, guess=[0, 1, 2]), clip)
    assert len(opened) == 5
