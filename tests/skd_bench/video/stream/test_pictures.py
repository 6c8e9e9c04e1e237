"""Packets and pictures of a stream: what is a loss, and when each picture is shown."""

from __future__ import annotations

import av
import numpy as np
import pytest

from bench.suites.robustness.odd_videos import CODECS, RATE, Look, make_video
from skd_bench.video.stream.pictures import DecodingCount, TimedPictures


@pytest.mark.parametrize(
    ("counted", "announced", "reason"),
    [
        (DecodingCount(packets=0), 0, "it contains no frames (cut off, or not a video)"),
        (DecodingCount(packets=9, pictures=9, intact=9), 20, "it is cut off: it has only 9 of 20 frames"),
        (DecodingCount(packets=9), 9, "no frame can be decoded"),
        (DecodingCount(packets=9, pictures=4, intact=4, broken=5), 9, "it is damaged: 5 of 9 frames are lost"),
        (DecodingCount(packets=9, pictures=5, intact=5, broken=4), 9, None),
        (DecodingCount(packets=150, pictures=50, intact=50), 150, None),  # packets without a picture are no losses
        (DecodingCount(packets=6, pictures=6, intact=5, broken=1), 10, None),
        (DecodingCount(packets=6, pictures=6, intact=4, broken=2), 10, "it is damaged: 6 of 10 frames are lost"),
    ],
)
def test_more_than_half_must_be_there(counted, announced, reason):
    assert counted.explain_loss(announced) == reason


def test_times_and_the_end_follow_the_timestamps(tmp_path):
    path = make_video(tmp_path / "v.mkv", CODECS["h264"], Look(pts=(0, 1, 2, 10, 11, 30)))
    with av.open(str(path)) as container:
        pictures = TimedPictures(container)
        times = [round(ticks * pictures.rule.tick * RATE) for ticks, _ in pictures]
        assert times == [0, 1, 2, 10, 11, 30]
        assert round(pictures.find_end() * pictures.rule.tick * RATE) == 31
        assert pictures.has_timestamps
        assert pictures.explain_loss(whole=True) is None


def test_packets_without_a_picture_at_the_end_show_the_last_one_longer(tmp_path):
    """As in a screen recording in which nothing changes any more."""
    path = make_video(tmp_path / "v.mkv", CODECS["vp8"], Look(hidden=True))  # the last frame is hidden
    with av.open(str(path)) as container:
        pictures = TimedPictures(container)
        assert len(list(pictures)) == 20
        assert round(pictures.find_end() * pictures.rule.tick * RATE) == 30


def test_a_stream_without_timestamps_counts_pictures(tmp_path):
    path = make_video(tmp_path / "v.h264", CODECS["h264"])
    with av.open(str(path)) as container:
        pictures = TimedPictures(container)
        times = np.array([ticks for ticks, _ in pictures])
    assert not pictures.has_timestamps
    assert (np.diff(times) == times[1]).all()
    assert len(times) == 30
