import json

import av
import numpy as np
import pytest

from skd_bench.errors import UserError
from skd_bench.inference.long_video import STAGES, VideoAnalysisSettings, analyse_videos
from skd_bench.text_tables import format_analysis_table
from skd_bench.video.clip import decode_clip
from skd_bench.video.multi_view import decode_views
from skd_bench.video.sliding_window import SlidingWindows, Stopwatch
from skd_bench.video.types import ClipError, Preprocessing, Sampling

SIZE = Preprocessing(16, 16, "crop", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
RATE = 10


def film(path, greys):
    """A video whose frame i has grey i; 10 frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "1"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for grey in greys:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), grey, np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    return path


def greys_of(clip):
    return [round(float(frame.mean()) / 4) for frame in clip]


@pytest.fixture
def ramp(tmp_path):
    return film(tmp_path / "ramp.mp4", [4 * i for i in range(50)])


def test_windows_take_the_frames_shown_at_the_middles_of_their_segments(ramp):
    windows = SlidingWindows(ramp, Sampling(4), SIZE, window=2.0, hop=0.5)
    found = [(start, end, greys_of(clip)) for start, end, clip in windows]
    assert [f[:2] for f in found] == [(k / 2, k / 2 + 2) for k in range(7)]
    for start, _, greys in found:
        want = [int((start + (i + 0.5) * 0.5) * RATE) for i in range(4)]
        assert all(abs(g - w) <= 1 for g, w in zip(greys, want, strict=True)), (start, greys, want)
    assert windows.frames == 50
    assert windows.seconds == pytest.approx(5.0)


def test_one_window_over_the_whole_video_is_the_deployed_clip(ramp):
    [(_, _, clip)] = SlidingWindows(ramp, Sampling(8), SIZE, window=5.0, hop=5.0)
    assert greys_of(clip) == greys_of(decode_clip(ramp, Sampling(8), SIZE))


def test_dense_windows_are_stride_apart(ramp):
    windows = SlidingWindows(ramp, Sampling(4, "dense", 3), SIZE, window=1.0, hop=1.0)
    first = next(iter(windows))
    assert all(abs(g - w) <= 1 for g, w in zip(greys_of(first[2]), [0, 3, 6, 9], strict=True))


def test_a_video_shorter_than_a_window_gives_one(ramp):
    assert len(list(SlidingWindows(ramp, Sampling(4), SIZE, window=60.0, hop=1.0))) == 1


def test_stages_are_counted_and_what_is_no_video_is_named(tmp_path, ramp):
    stopwatch = Stopwatch()
    list(SlidingWindows(ramp, Sampling(4), SIZE, window=1.0, hop=1.0, stopwatch=stopwatch))
    assert stopwatch.seconds.keys() == {"decode", "sample"}
    assert min(stopwatch.seconds.values()) > 0
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    for path in (text, tmp_path / "none.mp4"):
        with pytest.raises(ClipError, match=path.name):
            list(SlidingWindows(path, Sampling(4), SIZE, window=1.0, hop=1.0))


def test_events_are_found_timed_and_judged(tmp_path, bundle):
    day = film(tmp_path / "day.mp4", [10] * 40 + [250] * 40 + [10] * 40)
    events = tmp_path / "events.csv"
    events.write_text("video,start,end,class\nday.mp4,0,3,dark\n")
    how = VideoAnalysisSettings(window=1.0, hop=0.5, smooth=1, threshold=0.4)
    broken = tmp_path / "broken.mp4"
    broken.write_text("no")
    got = json.loads(json.dumps(analyse_videos(bundle, [day, broken], how, events=events), allow_nan=False))
    row, bad = got["videos"]
    assert "broken.mp4" in bad["error"]
    assert row["stages"].keys() == set(STAGES)
    assert sum(row["shares"].values()) == pytest.approx(1)
    assert row["real_time_factor"] == pytest.approx(sum(row["stages"].values()) / row["seconds"])
    assert row["seconds"] == pytest.approx(12)
    assert row["answers"] == 23
    first, middle, last = (e["class"] for e in row["events"])
    assert first == last == "dark"
    assert middle in ("bright", "green")  # these share their logit on greys
    assert 3 <= row["events"][1]["start"] <= 4 < 8 <= row["events"][1]["end"] <= 9
    alarms = got["alarms"]
    assert (alarms["reported"], alarms["false_alarms"]) == (3, 2)
    assert alarms["false_alarms_per_hour"] == pytest.approx(2 * 3600 / 12)
    assert [r["recall"] for r in alarms["recall"]] == [1]
    quiet = analyse_videos(
        bundle, [day], VideoAnalysisSettings(window=1.0, threshold=0.4, background=("bright", "green")), events=events
    )
    assert quiet["alarms"]["false_alarms"] == 1
    said = format_analysis_table(got)
    assert "real-time factor" in said
    assert "2 of 3 reports are false alarms" in said


def test_how_long_a_clip_is_must_be_known(tmp_path, bundle, bundle_with_samples, ramp):
    with pytest.raises(UserError, match="--window"):
        analyse_videos(bundle, [ramp])
    got = analyse_videos(bundle_with_samples, [ramp])
    assert got["videos"][0]["window"] == pytest.approx(12 / 15, abs=0.1)
    events = tmp_path / "events.csv"
    events.write_text("video,start,end,class\nother.mp4,4,8,bright\n")
    with pytest.raises(UserError, match=r"other\.mp4"):
        analyse_videos(bundle, [ramp], VideoAnalysisSettings(window=1.0), events=events)
    with pytest.raises(UserError, match="no class 'cat'"):
        analyse_videos(bundle, [ramp], VideoAnalysisSettings(window=1.0, background=("cat",)))
    for wrong in ({"hop": 0.0}, {"window": -1.0}, {"smooth": 0}, {"threshold": 2.0}):
        with pytest.raises(UserError):
            VideoAnalysisSettings(**wrong)


def test_views_are_disjoint_and_one_is_the_deployed_protocol(ramp):
    one = decode_views(ramp, Sampling(5), SIZE, 1)
    assert (one[0] == decode_clip(ramp, Sampling(5), SIZE)).all()
    three = [greys_of(view) for view in decode_views(ramp, Sampling(5), SIZE, 3)]
    assert all(a < b < c for a, b, c in zip(*three, strict=True))
    dense = [greys_of(view) for view in decode_views(ramp, Sampling(4, "dense", 2), SIZE, 2)]
    assert dense[0][-1] < dense[1][0]
    with pytest.raises(UserError, match="at least one view"):
        decode_views(ramp, Sampling(5), SIZE, 0)
