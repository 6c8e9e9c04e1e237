import json
import shutil
from dataclasses import replace

import av
import numpy as np
import pytest

from skd_bench.bundle.manifest import Manifest
from skd_bench.errors import UserError
from skd_bench.inference import long_video
from skd_bench.inference.long_video import STAGES, VideoAnalysisSettings, analyse_videos
from skd_bench.text_tables import format_analysis_table


def test_events_are_found_and_compared_with_the_true_ones(tmp_path, bundle, film_greys):
    day = film_greys(tmp_path / "day.mp4", [10] * 40 + [250] * 40 + [10] * 40)
    events = tmp_path / "events.csv"
    events.write_text("video,start,end,class\nday.mp4,0,3,dark\n")
    settings = VideoAnalysisSettings(window=1.0, hop=0.5, smooth=1, threshold=0.4)
    broken = tmp_path / "broken.mp4"
    broken.write_text("no")
    got = json.loads(json.dumps(analyse_videos(bundle, [day, broken], settings, events=events), allow_nan=False))
    row, bad = got["videos"]
    assert "broken.mp4" in bad["error"]
    assert row["stages"].keys() == set(STAGES)
    assert sum(row["shares"].values()) == pytest.approx(1)
    assert row["real_time_factor"] == pytest.approx(sum(row["stages"].values()) / row["seconds"])
    assert row["seconds"] == pytest.approx(12)
    assert row["answers"] == 23
    first, middle, last = (e["class"] for e in row["events"])
    assert first == last == "dark"
    assert middle in ("bright", "green")  # these two have equal logits on greys
    assert 3 <= row["events"][1]["start"] <= 4 < 8 <= row["events"][1]["end"] <= 9
    alarms = got["alarms"]
    assert (alarms["reported"], alarms["false_alarms"]) == (3, 2)
    assert alarms["false_alarms_per_hour"] == pytest.approx(2 * 3600 / 12)
    assert [r["recall"] for r in alarms["recall"]] == [1]
    quiet = analyse_videos(
        bundle, [day], VideoAnalysisSettings(window=1.0, threshold=0.4, background=("bright", "green")), events=events
    )
    assert quiet["alarms"]["false_alarms"] == 1
    text = format_analysis_table(got)
    assert "real-time factor" in text
    assert "2 of 3 reports are false alarms" in text


def test_the_window_and_the_names_in_the_settings_are_checked(tmp_path, bundle, bundle_with_samples, ramp):
    with pytest.raises(UserError, match="--window"):
        analyse_videos(bundle, [ramp])
    got = analyse_videos(bundle_with_samples, [ramp])
    assert got["videos"][0]["window"] == pytest.approx(12 / 15, abs=0.1)
    events = tmp_path / "events.csv"
    events.write_text("video,start,end,class\nother.mp4,4,8,bright\n")
    with pytest.raises(UserError, match=r"other\.mp4"):
        analyse_videos(bundle, [ramp], VideoAnalysisSettings(window=1.0), events=events)
    with pytest.raises(UserError, match="unknown background class 'cat'"):
        analyse_videos(bundle, [ramp], VideoAnalysisSettings(window=1.0, background=("cat",)))
    for wrong in ({"hop": 0.0}, {"window": -1.0}, {"smooth": 0}, {"threshold": 2.0}):
        with pytest.raises(UserError):
            VideoAnalysisSettings(**wrong)


def test_a_bundle_that_knows_the_length_of_its_clips_needs_no_window(bundle, ramp):
    replace(Manifest.load(bundle), schema=2, clip_seconds=1.5).save(bundle)
    assert analyse_videos(bundle, [ramp])["videos"][0]["window"] == 1.5
    assert analyse_videos(bundle, [ramp], VideoAnalysisSettings(window=1.0))["videos"][0]["window"] == 1.0


@pytest.mark.parametrize("gap", [690_000, 10**9])
def test_a_video_whose_time_jumps_costs_only_itself(tmp_path, bundle, ramp, gap):
    """A frame is shown for nineteen hours: too many windows. Three years are no time, but a clock that jumps."""
    with av.open(str(tmp_path / "jump.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
            frame.pts = number * gap
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    settings = VideoAnalysisSettings(window=1.0, hop=0.2)
    jump, good = analyse_videos(bundle, [tmp_path / "jump.mkv", ramp], settings)["videos"]
    assert good["answers"] > 10
    if gap == 690_000:
        assert "its time jumps by 6.9e+04 s" in jump["error"]
    else:
        assert (jump["frames"], jump["answers"]) == (3, 1)


@pytest.mark.parametrize("error", [ZeroDivisionError("division by zero"), OverflowError("too large"), MemoryError()])
def test_whatever_a_video_breaks_it_costs_that_video(tmp_path, bundle, ramp, monkeypatch, error):
    """Which exception a header of nonsense causes depends on FFmpeg; the other videos are analysed all the same."""
    broken = shutil.copy(ramp, tmp_path / "broken.mp4")
    original = long_video.prepare_input
    clips = []

    def fail_at_first(*arguments):
        clips.append(1)
        if len(clips) == 1:
            raise error
        return original(*arguments)

    monkeypatch.setattr(long_video, "prepare_input", fail_at_first)
    bad, good = analyse_videos(bundle, [broken, ramp], VideoAnalysisSettings(window=1.0))["videos"]
    assert f"broken.mp4: {type(error).__name__}" in bad["error"]
    assert good["answers"] > 3
