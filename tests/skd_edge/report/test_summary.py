"""Sentences and numbers that the HTML page and the Markdown report share."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from skd_edge.report import summary
from skd_edge.report.formatting import THIN_SPACE
from skd_edge.report.schema import RunReport, parse_report


def make_report(**parts: Any) -> RunReport:
    return parse_report({"schema": 1, "name": "n", **parts})


def test_candidates_are_numbered_chosen_first_then_by_accuracy_then_the_untrained_by_latency() -> None:
    candidates = [
        {"name": "slow", "trained": False, "p50_ms": 9.0},
        {"name": "fast", "trained": False, "p50_ms": 1.0},
        {"name": "weak", "accuracy": 0.5, "p50_ms": 1.0, "eligible": False},
        {"name": "best", "accuracy": 0.9, "p50_ms": 5.0, "on_front": True},
        {"name": "ship", "accuracy": 0.8, "p50_ms": 2.0},
    ]
    numbered = summary.number_candidates(make_report(candidates=candidates, chosen={"name": "ship"}))
    assert [(n.number, n.candidate.name, n.status_label) for n in numbered] == [
        (1, "ship", "chosen"),
        (2, "best", "front"),
        (3, "weak", "ruled out"),
        (4, "fast", "not trained"),
        (5, "slow", "not trained"),
    ]


def test_the_metric_that_decided_orders_candidates_and_is_in_the_headline(sample: ModuleType) -> None:
    candidates = [
        {"name": "lazy", "accuracy": 0.9, "balanced_accuracy": 0.4, "macro_f1": 0.5},
        {"name": "fair", "accuracy": 0.8, "balanced_accuracy": 0.7, "macro_f1": 0.4},
    ]
    for metric, first in (("accuracy", "lazy"), ("balanced", "fair"), ("macro-f1", "lazy")):
        report = make_report(candidates=candidates, metric=metric)
        assert summary.number_candidates(report)[0].candidate.name == first
    report = parse_report(sample.unequal_result())
    assert report.chosen
    assert summary.format_headline(report) == (
        f"Ship {report.chosen.name}: 65.5{THIN_SPACE}% balanced accuracy at {report.chosen.p50_ms:.2f}{THIN_SPACE}ms."
    )
    labels = [n.label for n in summary.build_key_numbers(report)]
    assert labels[:4] == [
        "Accuracy, validation",
        "Accuracy, test",
        "Balanced accuracy, validation",
        "Balanced accuracy, test",
    ]


def test_balanced_accuracy_is_shown_where_classes_are_unequal_or_it_decided() -> None:
    assert not summary.shows_balanced_accuracy(make_report())
    assert not summary.shows_balanced_accuracy(make_report(data={"unequal_classes": False}))
    assert summary.shows_balanced_accuracy(make_report(data={"unequal_classes": True}))
    assert summary.shows_balanced_accuracy(make_report(metric="macro-f1"))


def test_the_chosen_candidate_is_found_by_name() -> None:
    report = make_report(candidates=[{"name": "a"}, {"name": "b"}], chosen={"name": "b"})
    found = summary.find_chosen_candidate(report)
    assert found
    assert found.name == "b"
    assert summary.find_chosen_candidate(make_report(candidates=[{"name": "a"}], chosen={"name": "b"})) is None


def test_the_teacher_is_the_baseline_at_the_start_of_the_chosen_path() -> None:
    baselines = [{"name": "other fp32", "student": "other"}, {"name": "big fp32", "student": "big"}]
    found = summary.find_teacher_baseline(make_report(baselines=baselines, chosen={"name": "c", "path": "big > s"}))
    assert found
    assert found.name == "big fp32"
    assert summary.find_teacher_baseline(make_report()) is None


@pytest.mark.parametrize(
    ("accuracy", "p50_ms", "speed", "points"),
    [
        (0.855, 2.0, "5.0× faster", "2.5 points lost"),
        (0.89, 20.0, "2.0× slower", "1.0 points gained"),
        (0.8803, 10.0, "1.0× faster", "as accurate as the teacher"),
        (None, 5.0, "2.0× faster", "n/a"),
        (0.86, None, "n/a", "2.0 points lost"),
    ],
)
def test_the_chosen_candidate_is_compared_with_the_teacher(
    accuracy: float | None, p50_ms: float | None, speed: str, points: str
) -> None:
    report = make_report(
        baselines=[{"name": "teacher fp32", "student": "teacher", "accuracy": 0.88, "p50_ms": 10.0}],
        chosen={"name": "c", "accuracy": accuracy, "p50_ms": p50_ms},
    )
    last = summary.build_key_numbers(report)[-1]
    assert (last.label, last.value, last.notes) == ("Versus the teacher", speed, (points,))


def test_key_numbers_need_a_chosen_candidate(sample: ModuleType) -> None:
    assert summary.build_key_numbers(parse_report(sample.unlucky_result())) == []
    labels = [n.label for n in summary.build_key_numbers(parse_report(sample.full_result()))]
    assert labels == ["Accuracy, validation", "Accuracy, test", "Latency, p50", "Size", "Versus the teacher"]


def test_the_headline_is_made_from_the_chosen_candidate_if_the_report_has_none() -> None:
    report = make_report(chosen={"name": "a>b int8", "accuracy": 0.8, "p50_ms": 4.0})
    assert summary.format_headline(report).replace(THIN_SPACE, " ") == "Ship a>b int8: 80.0 % at 4.00 ms."
    assert summary.format_headline(make_report()).startswith("Nothing to ship")


def test_without_a_chosen_candidate_the_reasons_are_those_of_the_candidates() -> None:
    candidates = [{"name": str(i), "reason": reason} for i, reason in enumerate(["too slow", "too large", "too slow"])]
    assert summary.format_reason(make_report(candidates=candidates)) == "Reasons: too large; too slow."
    assert summary.format_reason(make_report()) == ""


@pytest.mark.parametrize(
    ("resolution", "sentence"),
    [
        (None, ""),
        ({"text": "as the run wrote it", "points": 3.0}, "as the run wrote it"),
        ({"n": 300}, ""),
        (
            {"n": 300, "points": 4.04},
            "300 validation clips can show differences of about 4.0 points; smaller differences may be chance.",
        ),
    ],
)
def test_the_resolution_is_a_sentence(resolution: dict[str, Any] | None, sentence: str) -> None:
    assert summary.format_resolution(make_report(resolution=resolution)) == sentence


def test_evaluations_of_the_test_set_are_counted() -> None:
    once = summary.format_test_accesses(make_report(test={"looks": 1, "hash": "0123456789abcdef"}))
    assert once == "This test set (0123456789ab) has been evaluated once on this machine."
    often = summary.format_test_accesses(make_report(test={"looks": 4}))
    assert "evaluated 4 times" in often
    assert "more optimistic" in often
    assert summary.format_test_accesses(make_report(test={})) == ""
    assert "not evaluated" in summary.format_test_accesses(make_report())


def test_the_most_frequent_confusions_come_first_and_names_are_filled_in() -> None:
    test = {"confusion": [[5, 1, 0], [3, 9, 2], [0, 0, 4]], "per_class": [{"class": "a"}, {"class": "b"}]}
    report = make_report(test=test)
    assert summary.class_names(report) == ["a", "b", "class 2"]
    assert summary.find_top_confusions(report, 2) == [("b", "a", 3), ("b", "class 2", 2)]
    assert summary.find_top_confusions(make_report()) == []
