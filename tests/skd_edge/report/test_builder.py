"""The parts of a run's report: job rows with their training curves, and the resolution of the validation clips."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from skd_bench.metrics.class_averages import compute_metric
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


def val_clips(labels: Any, groups: Any) -> Any:
    class Clips(SimpleNamespace):
        def __len__(self) -> int:
            return len(self.labels)

    return Clips(labels=np.asarray(labels), groups=np.asarray(groups))


def resolution(metric: Any, labels: Any, predictions: Any, groups: Any) -> Any:
    best = compute_metric(metric, labels, predictions, np.asarray(groups).tolist())
    return builder.build_resolution(metric, val_clips(labels, groups), best)


def test_64_clips_at_88_percent_are_known_to_8_points() -> None:
    labels = np.arange(64) % 2
    got = resolution("accuracy", labels, np.where(np.arange(64) < 56, labels, 1 - labels), np.arange(64))
    assert (got.n, got.groups) == (64, 64)
    assert got.points == pytest.approx(8.1, abs=0.1)
    assert got.text.startswith("With 64 validation clips, an accuracy of 88% is known to about ±8.1 points. ")


def test_unequal_classes_and_few_groups_show_less():
    labels = np.repeat([0, 1, 2], [100, 10, 10])
    predictions = np.where(np.arange(120) % 5 > 0, labels, (labels + 1) % 3)
    alone = np.arange(120)
    accuracy, balanced = (resolution(m, labels, predictions, alone) for m in ("accuracy", "balanced"))
    assert balanced.points > 1.4 * accuracy.points
    assert "a balanced accuracy of 80%" in balanced.text
    shuffled = np.random.default_rng(0).permutation(120)
    one_group_errs = np.where(np.arange(120) % 6 == 0, (labels + 1) % 3, labels)
    together = resolution("accuracy", labels[shuffled], one_group_errs[shuffled], (np.arange(120) % 6)[shuffled])
    assert together.points > 2 * resolution("accuracy", labels, one_group_errs, alone).points
    assert "With 120 validation clips of 6 groups, an accuracy" in together.text
    assert resolution("macro-f1", labels, predictions, alone).text.startswith(
        "With 120 validation clips, a macro-F1 of"
    )


def test_the_resolution_becomes_finer_with_more_clips():
    few, many = (
        builder.build_resolution("accuracy", val_clips(np.zeros(n, int), np.arange(n)), None) for n in (100, 10_000)
    )
    assert few.points > many.points > 0
    assert "100 validation clips" in few.text
