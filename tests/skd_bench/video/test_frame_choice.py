"""Positions that are chosen from the times of pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.video.frame_choice import Timetable, choose_positions
from skd_bench.video.types import WHOLE_FILE, ClipSpan, Sampling


def table(times, end, tick=0.001):
    return Timetable(np.asarray(times, np.int64), end, tick)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.integers(1, 20))
def test_uniform_takes_the_picture_shown_at_each_middle(durations, frames):
    bounds = np.cumsum([0, *durations]) * 1000  # so that the two ticks by which containers round do not matter
    chosen = choose_positions(table(bounds[:-1], int(bounds[-1])), Sampling(frames), WHOLE_FILE)
    for part, position in enumerate(chosen):
        middle = (2 * part + 1) * bounds[-1] / (2 * frames)
        assert bounds[position] <= middle + 2 < bounds[position + 1] + 4


def test_a_picture_without_duration_is_never_chosen():
    assert choose_positions(table([0, 100, 100, 200], 300), Sampling(3), WHOLE_FILE) == [0, 2, 3]


def test_a_span_starts_with_the_picture_that_is_still_shown():
    times = table(range(0, 1000, 100), 1000)
    assert choose_positions(times, Sampling(2), ClipSpan(0.25, 0.45)) == [3, 4]
    assert choose_positions(times, Sampling(1), ClipSpan(0.21, 0.22)) == [2]
    assert choose_positions(times, Sampling(2), ClipSpan(0.8)) == [8, 9]


@pytest.mark.parametrize(
    ("times", "span", "message"),
    [
        (table([0, 100], 200), ClipSpan(0.2, 0.3), "is empty, or starts after the end"),
        (table([0, 1], 2, None), ClipSpan(0.2, 0.3), "stores no timestamps"),
    ],
)
def test_a_span_that_is_not_there_is_refused(times, span, message):
    with pytest.raises(ValueError, match=message):
        choose_positions(times, Sampling(2), span)
