"""The one rule for time: missing, repeated, odd and negative timestamps, and clocks that jump."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.video.stream.clock import ClockRule, find_last_duration, iter_stamps, iter_times

RULE = ClockRule(duration=40, longest=10_000, tick=0.001)


def times_of(stamps, rule=RULE, **how):
    pairs = [(stamp, position) for position, stamp in enumerate(stamps)]
    found = list(iter_times(pairs, rule, **how))
    assert [position for _, position in found] == list(range(len(stamps)))
    return [time for time, _ in found]


@pytest.mark.parametrize(
    ("stamps", "times"),
    [
        ([], []),
        ([7], [0]),
        ([100, 140, 180], [0, 40, 80]),
        ([-80, -40, 0], [0, 40, 80]),
        ([0, 40, 1000, 1010], [0, 40, 1000, 1010]),  # a variable frame rate is not a fault
        ([None, None, None], [0, 40, 80]),
        ([0, 30, None, 90, 120], [0, 30, 60, 90, 120]),
        ([0, 40, 40, 120, 160], [0, 40, 80, 120, 160]),  # repeated: between its neighbours
        ([0, 40, 40, 80, 120], [0, 40, 60, 80, 120]),
        ([0, 40, 999_999, 120, 160], [0, 40, 80, 120, 160]),  # one odd timestamp costs one frame
        ([0, 40, 5000, 120, 160], [0, 40, 80, 120, 160]),
        ([0, 40, -999, 120, 160], [0, 40, 80, 120, 160]),
        ([0, 40, 60_080, 60_120, 60_160], [0, 40, 80, 120, 160]),  # the clock jumps forward, and goes on from there
        ([60_000, 60_040, 0, 40, 80], [0, 40, 80, 120, 160]),  # and backward
        ([0, 30, 60, 0, 30, 60, 0, 30], [0, 30, 60, 90, 120, 150, 180, 210]),
        ([5, 5, 5, 5], [0, 40, 80, 120]),
        ([None, None, 500, 540], [0, 40, 80, 120]),
    ],
)
def test_times_follow_the_timestamps_and_go_on_where_these_fail(stamps, times):
    assert times_of(stamps) == times


def test_a_camera_does_not_wait_for_the_next_picture():
    taken = []

    def camera():
        for number in range(4):
            taken.append(number)
            yield 1000 + 40 * number, number

    for time, number in iter_times(camera(), RULE, live=True):
        assert time == 40 * number
        assert taken[-1] == number


@given(st.lists(st.one_of(st.none(), st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 400)), max_size=30))
def test_times_never_run_backward(stamps):
    times = times_of(stamps)
    assert times[:1] in ([], [0])
    assert all(0 <= b - a <= RULE.longest for a, b in itertools.pairwise(times))


@given(st.lists(st.integers(1, RULE.longest), max_size=30), st.integers(-(1 << 40), 1 << 40))
def test_a_clock_that_runs_is_believed(gaps, start):
    stamps = np.cumsum([start, *gaps]).tolist()
    assert times_of(stamps) == [stamp - start for stamp in stamps]


def test_the_last_picture_lasts_as_declared_or_as_long_as_those_before():
    assert find_last_duration([0, 40, 80], 500, RULE) == 500
    assert find_last_duration([0, 40, 80, 400], 0, RULE) == 40
    assert find_last_duration([0, 40, 80], RULE.longest + 1, RULE) == 40
    assert find_last_duration([0], 0, RULE) == RULE.duration


@dataclass
class Stamped:
    pts: int | None
    dts: int | None


@pytest.mark.parametrize(
    ("pts", "dts", "stamps"),
    [
        ([0, 40, 80], [9, 9, 9], [0, 40, 80]),
        ([None, None, None], [0, 40, 80], [0, 40, 80]),
        ([None, None], [None, None], [None, None]),
        ([0, None, 80], [9, 9, 9], [0, None, 80]),  # a decoding time between presentation times would be early
    ],
)
def test_decoding_times_are_used_where_there_are_no_others(pts, dts, stamps):
    frames = [Stamped(*both) for both in zip(pts, dts, strict=True)]
    assert [stamp for stamp, _ in iter_stamps(frames)] == stamps
    assert [stamp for stamp, _ in iter_stamps(frames, trusts_presentation=False)] == dts


@pytest.mark.parametrize(("name", "seconds"), [("v.ts", 10), ("v.mp4", 108_000), ("v.mkv", 108_000)])
def test_only_containers_for_broadcast_change_their_clock(tmp_path, write, name, seconds):
    path = write(tmp_path / name, [np.zeros((32, 32, 3), np.uint8)] * 4, rate=20)
    with av.open(str(path)) as container:
        rule = ClockRule.of(container, container.streams.video[0])
        assert rule.longest * rule.tick == pytest.approx(seconds)
        assert rule.duration * rule.tick == pytest.approx(0.05)
