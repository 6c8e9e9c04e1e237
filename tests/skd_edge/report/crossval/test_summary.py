"""Sentences and key numbers of a cross-validation."""

from __future__ import annotations

from skd_edge.report.crossval import summary


def plain(text: str) -> str:
    return text.replace("\u202f", " ")


def test_what_is_read_first(report):
    headline = "80.0 % of the clips of unseen groups are classified correctly (70.0 % balanced), over 2 folds."
    assert plain(summary.format_headline(report)) == headline
    assert "60 clips of 3 groups (person) were divided into 3 folds" in summary.format_meaning(report)
    assert "1 of 3 folds failed, so the figures are of a part of the clips" in summary.format_meaning(report)
    numbers = {n.label: plain(n.value) for n in summary.build_key_numbers(report)}
    assert numbers["Balanced accuracy"] == "70.0 %"
    assert numbers["p50 of the chosen files"] == "2.00–3.00 ms"
    assert numbers["Against the teacher"] == "−10.0 points"
    assert summary.format_choices(report) == "All folds chose the same candidate: teacher>small int8 (2)."


def test_without_a_finished_fold(report):
    nothing = report.model_copy(update={"pooled": [], "folds": report.folds[2:]})
    assert summary.format_headline(nothing) == "No fold of 1 is finished with a network to score."
    assert summary.build_key_numbers(nothing) == []
    assert summary.format_choices(nothing) == ""


def test_folds_that_choose_differently(report):
    other = report.folds[1].model_copy(update={"chosen": "wide fp32"})
    mixed = report.model_copy(update={"folds": [report.folds[0], other]})
    assert summary.format_choices(mixed) == "Chosen in so many folds: teacher>small int8 (1), wide fp32 (1)."
