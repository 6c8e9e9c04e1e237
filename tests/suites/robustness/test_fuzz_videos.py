"""Scans and loads forty broken videos; bench/suites/robustness/fuzz_videos.py does it with a thousand."""

from __future__ import annotations


def test_broken_videos_are_decoded_or_set_aside(root, tmp_path, monkeypatch):
    from bench.suites.robustness import fuzz_videos

    found = fuzz_videos.run(tmp_path, 40, processes=1)
    assert found["decoded"] + found["set_aside"] == 40
    assert found["set_aside"] > 0
    assert found["decoded"] > 0
    assert found["hung"] == 0
