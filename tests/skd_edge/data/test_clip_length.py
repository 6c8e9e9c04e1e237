"""How long clips are: of files, of spans, of folders of pictures."""

from __future__ import annotations

import numpy as np
import pytest

from skd_bench.video.types import WHOLE_FILE, ClipSpan
from skd_edge.data.clip_length import measure_clip_seconds


def test_the_median_of_files_and_spans(film, tmp_path):
    lengths = (15, 30, 45)  # frames at 15 frames per second
    files = [film(tmp_path / f"{n}.mp4", frames=n, size=16) for n in lengths]
    assert measure_clip_seconds(files, [WHOLE_FILE] * 3, 25) == pytest.approx(2, abs=0.1)
    spans = [WHOLE_FILE, ClipSpan(0.5, None), ClipSpan(1.0, 1.25)]
    assert measure_clip_seconds(files, spans, 25) == pytest.approx(1, abs=0.1)
    shard = tmp_path / "shard.tar"
    video = files[1].read_bytes()
    shard.write_bytes(bytes(512) + video + bytes(512))
    assert measure_clip_seconds([shard], [ClipSpan(offset=512, size=len(video))], 25) == pytest.approx(2, abs=0.1)


def test_folders_of_pictures_by_their_rate(tmp_path):
    for i in range(30):
        (tmp_path / f"img_{i}.jpg").touch()
    assert measure_clip_seconds([tmp_path], [WHOLE_FILE], 10) == 3.0


def test_files_that_do_not_state_it(tmp_path):
    (tmp_path / "x.mp4").write_text("no video")
    assert measure_clip_seconds([tmp_path / "x.mp4", tmp_path / "gone.mp4"], [WHOLE_FILE] * 2, 25) is None
    assert measure_clip_seconds([], [], 25) is None


def test_a_hundred_files_are_read_of_many(film, tmp_path):
    one, two = film(tmp_path / "a.mp4", frames=15, size=16), film(tmp_path / "b.mp4", frames=30, size=16)
    files = [one] * 600 + [two] * 400
    assert measure_clip_seconds(files, [WHOLE_FILE] * 1000, 25) == pytest.approx(1, abs=0.1)
    assert np.isfinite(measure_clip_seconds(files[::-1], [WHOLE_FILE] * 1000, 25) or np.nan)
