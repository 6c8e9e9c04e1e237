"""The suite that measures long videos makes them, and both ways give the same clip."""

from __future__ import annotations

from bench.suites.robustness import fast_path


def test_both_ways_are_measured_on_the_same_clip(tmp_path):
    video = fast_path.make_long_video(tmp_path / "v.mkv", "libx264", 260)
    found = fast_path.measure(video, 260)
    assert set(found) == {"fast_s", "straight_s", "ratio"}
    assert min(found.values()) > 0
