import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from skd_bench.errors import UserError
from skd_bench.metrics.event_metrics import VideoEvent, match_events, poisson_interval, read_events


def test_a_report_matches_an_event_of_the_same_video_class_and_time():
    truth = [VideoEvent("a", 10, 12, "fall"), VideoEvent("a", 50, 51, "fall"), VideoEvent("a", 60, 61, "run")]
    reports = [
        VideoEvent("a", 11, 14, "fall"),
        VideoEvent("a", 12, 13, "fall"),  # starts when the event has ended
        VideoEvent("b", 10, 12, "fall"),
        VideoEvent("a", 60, 61, "fall"),
    ]
    got = match_events(reports, truth, 2.0)
    assert got["false_alarms"] == 3
    assert got["false_alarms_per_hour"] == 1.5
    assert got["interval"][0] < 1.5 < got["interval"][1]
    assert [(r["class"], r["events"], r["found"], r["recall"]) for r in got["recall"]] == [
        ("fall", 2, 1, 0.5),
        ("run", 1, 0, 0.0),
    ]


def test_no_reports_give_an_upper_bound_of_the_false_alarm_rate():
    got = match_events([], [], 10.0)
    assert got["false_alarms_per_hour"] == 0
    assert got["interval"] == [0, pytest.approx(0.3689, abs=1e-4)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3000))
def test_the_poisson_interval_is_that_of_garwood(count):
    low, high = poisson_interval(count)
    assert low == pytest.approx(chi2.ppf(0.025, 2 * count) / 2 if count else 0, rel=1e-6)
    assert high == pytest.approx(chi2.ppf(0.975, 2 * count + 2) / 2, rel=1e-6)


def test_events_are_read_and_errors_give_the_row(tmp_path):
    table = tmp_path / "events.csv"
    table.write_text("video,start,end,class\nfolder/a.mp4,1.5,2,fall\n")
    assert read_events(table, ["fall"]) == [VideoEvent("a.mp4", 1.5, 2.0, "fall")]
    for row, words in (
        ("a,2,1,fall", "needs 0 <= start < end"),
        ("a,x,1,fall", "row 2"),
        ("a,0,1,cat", "unknown class 'cat'"),
        ("a,0", "an event needs video"),
        ("a,nan,1,fall", "needs 0 <= start < end"),
    ):
        table.write_text(f"video,start,end,class\n{row}\n")
        with pytest.raises(UserError, match=words):
            read_events(table, ["fall"])
    with pytest.raises(UserError, match="cannot read"):
        read_events(tmp_path / "none.csv", [])
