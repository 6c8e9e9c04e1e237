"""Windows over a long video take the documented frames."""

import pytest

from skd_bench.video.clip import decode_clip
from skd_bench.video.sliding_window import SlidingWindows, Stopwatch, WindowSpacing
from skd_bench.video.types import ClipError, Preprocessing, Sampling

SIZE = Preprocessing(16, 16, "crop", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
RATE = 10


def greys_of(clip):
    """The numbers of the frames of `ramp`, from their grey."""
    return [round(float(frame.mean()) / 4) for frame in clip]


def test_windows_take_the_frames_shown_at_the_middles_of_their_parts(ramp):
    windows = SlidingWindows(ramp, Sampling(4), SIZE, WindowSpacing(2.0, 0.5))
    found = [(start, end, greys_of(clip)) for start, end, clip in windows]
    assert [f[:2] for f in found] == [(k / 2, k / 2 + 2) for k in range(7)]
    for start, _, greys in found:
        want = [int((start + (i + 0.5) * 0.5) * RATE) for i in range(4)]
        assert all(abs(g - w) <= 1 for g, w in zip(greys, want, strict=True)), (start, greys, want)
    assert windows.frames == 50
    assert windows.seconds == pytest.approx(5.0)


def test_one_window_over_the_whole_video_is_the_deployed_clip(ramp):
    [(_, _, clip)] = SlidingWindows(ramp, Sampling(8), SIZE, WindowSpacing(5.0, 5.0))
    assert greys_of(clip) == greys_of(decode_clip(ramp, Sampling(8), SIZE))


def test_frames_of_dense_windows_are_a_stride_apart(ramp):
    windows = SlidingWindows(ramp, Sampling(4, "dense", 3), SIZE, WindowSpacing(1.0, 1.0))
    first = next(iter(windows))
    assert all(abs(g - w) <= 1 for g, w in zip(greys_of(first[2]), [0, 3, 6, 9], strict=True))


def test_a_video_shorter_than_a_window_gives_one_window(ramp):
    assert len(list(SlidingWindows(ramp, Sampling(4), SIZE, WindowSpacing(60.0, 1.0)))) == 1


def test_stages_are_timed_and_errors_name_the_file(tmp_path, ramp):
    stopwatch = Stopwatch()
    list(SlidingWindows(ramp, Sampling(4), SIZE, WindowSpacing(1.0, 1.0), stopwatch=stopwatch))
    assert stopwatch.seconds.keys() == {"decode", "sample"}
    assert min(stopwatch.seconds.values()) > 0
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    for path in (text, tmp_path / "none.mp4"):
        with pytest.raises(ClipError, match=path.name):
            list(SlidingWindows(path, Sampling(4), SIZE, WindowSpacing(1.0, 1.0)))
