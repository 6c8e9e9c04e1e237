"""The parts of a run's report: job rows with their training curves, and the resolution of the validation clips."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from skd_edge.report import builder

GROUPS = np.arange(8)


def make_job_result(role: str, right: int, curve: list[dict[str, Any]] | None = None) -> Any:
    """A finished job of the network "small" that classifies ``right`` of 8 clips correctly."""
    spec = SimpleNamespace(
        role=role,
        learner=SimpleNamespace(name="small"),
        teacher="aa",
        start=None,
        fold=None,
        path=("teacher", "small"),
        epochs=2,
    )
    correct = np.arange(8) < right
    job = SimpleNamespace(spec=spec, hash="bb")
    return SimpleNamespace(job=job, correct=correct, accuracy=right / 8, seconds=1.0, cached=False, curve=curve or [])


def test_a_job_whose_learning_rate_was_halved_is_reported():
    curve = [
        {"epoch": 1, "loss": 2.0, "terms": {"labels": 2.0}, "accuracy": None},
        {"epoch": 2, "loss": 1.0, "terms": {"labels": 1.0}, "accuracy": 0.5, "pace": 0.5},
    ]
    (row,) = builder.build_job_rows([make_job_result("student", 4, curve)], GROUPS, {})
    assert [(e.epoch, e.loss, e.accuracy, e.terms) for e in row.curve] == [
        (1, 2.0, None, {"labels": 2.0}),
        (2, 1.0, 0.5, {"labels": 1.0}),
    ]


def test_the_gain_of_a_student_is_over_the_same_network_alone():
    student, alone = builder.build_job_rows([make_job_result("student", 6), make_job_result("alone", 4)], GROUPS, {})
    assert (student.gain, student.gain_over) == (pytest.approx(25), "the same network alone")
    assert (alone.gain, alone.gain_over, alone.role) == (None, "", "control")


def test_a_pruned_cascade_has_the_accuracy_of_its_rung():
    path = ("teacher", "small")
    *_, pruned = builder.build_job_rows([make_job_result("rung", 2)], GROUPS, {path: "too slow"})
    assert (pruned.state, pruned.reason, pruned.accuracy, pruned.teacher) == ("pruned", "too slow", 0.25, "aa")
    (untrained,) = builder.build_job_rows([], GROUPS, {path: "too slow"})
    assert (untrained.accuracy, untrained.teacher, untrained.job) == (None, None, "pruned-small")


def test_the_resolution_becomes_finer_with_more_clips():
    few, many = builder.build_resolution(100, 0.8), builder.build_resolution(10_000, 0.8)
    assert few.points > many.points > 0
    assert "100 validation clips" in few.text
