"""Scans and loads forty broken videos and compares others; bench/suites/robustness/fuzz_videos.py takes thousands."""

from __future__ import annotations


def test_broken_videos_are_decoded_or_set_aside(root, tmp_path, monkeypatch):
    from bench.suites.robustness import fuzz_videos

    found = fuzz_videos.run(tmp_path, 40, processes=1)
    assert found["decoded"] + found["set_aside"] == 40
    assert found["set_aside"] > 0
    assert found["decoded"] > 0
    assert found["hung"] == 0


def test_accepted_broken_videos_are_what_straight_decoding_gives(tmp_path):
    from bench.suites.robustness import fuzz_videos

    found = fuzz_videos.compare(60, tmp_path, processes=1)
    undefined = found.pop("undefined")
    assert len(undefined) <= 1  # FFmpeg's own pixels of a damaged picture are not always defined
    assert found == {"videos": 60, "hung": 0, "crashed": 0, "different": {}}


def test_an_interrupted_comparison_continues(tmp_path, monkeypatch):
    from bench.suites.robustness import fuzz_videos

    monkeypatch.setattr(fuzz_videos, "CHUNK", 4)
    part = tmp_path / "part.json"
    assert fuzz_videos.compare(4, tmp_path, processes=1, part=part)["videos"] == 4
    made = []
    real = fuzz_videos.make_broken_videos
    monkeypatch.setattr(
        fuzz_videos, "make_broken_videos", lambda *how, seed: made.append(seed) or real(*how, seed=seed)
    )
    assert fuzz_videos.compare(6, tmp_path, processes=1, part=part)["videos"] == 6
    assert made == [2]
