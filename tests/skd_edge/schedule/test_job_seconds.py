"""Seconds of a job: its steps times a paced step, whatever runs beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skd_edge.distill.step_profiler import StepTimes
from skd_edge.execution.job_graph import DatasetFingerprint, build_recipe_job_graph, topological_order
from skd_edge.recipe.schema import Recipe
from skd_edge.schedule.job_seconds import estimate_paced_seconds, estimate_training_seconds, time_jobs, timing_key

RECIPE = Recipe.model_validate(
    {
        "name": "r",
        "data": {"kind": "generated", "frames": 4, "size": 16},
        "clip": {"frames": 4, "size": 16},
        "augment": {"views": 2},
        "teacher": {"family": "resnet", "width": 4, "depths": [1, 1]},
        "students": [{"name": "small", "width": 4, "depths": [1, 1]}],
        "training": {"teacher_epochs": 5, "epochs": 3, "batch": 16, "rounds": 2, "refine": 0.4},
        "schedule": {"controls": []},
    }
)
JOBS = topological_order(build_recipe_job_graph(RECIPE, DatasetFingerprint("d", "w", 10), RECIPE.students))
SPLITS = {"train": 100, "val": 20}


def test_seconds_are_steps_validation_outputs_and_label_predictions():
    """Six steps of an epoch take 6 s; a clip of the teacher 0.1 s, of the student 0.01 s."""
    times = {timing_key(job): StepTimes(1.0, 0.01 if job.spec.learner.name == "small" else 0.1) for job in JOBS}
    student = JOBS[-1]
    assert [job.spec.epochs for job in JOBS] == [5, 2, 2, 3]
    seconds = estimate_paced_seconds(JOBS, times, SPLITS)
    assert seconds[0] == pytest.approx(5 * 6 + 3 * 20 * 0.1)
    labels = 5 * 100 * 0.1  # predictions for four views of the training clips, and features of the clips themselves
    assert seconds[1] == pytest.approx(2 * 6 + 20 * 0.1 + labels)
    assert seconds[2] == pytest.approx(2 * 6 + 20 * 0.1 + labels)
    # The teacher outputs of its two views are among the four that its labels are estimated from.
    assert seconds[3] == pytest.approx(3 * 6 + 2 * 20 * 0.01 + labels)
    alone = estimate_training_seconds(student.spec, times[timing_key(student)], SPLITS)
    assert alone == pytest.approx(3 * 6 + 2 * 20 * 0.01)


def test_jobs_that_differ_in_epochs_and_labels_only_are_timed_once():
    student = JOBS[-1]
    longer = replace(student, spec=replace(student.spec, epochs=9, targets="other"))
    assert timing_key(longer) == timing_key(student)
    kinds = {timing_key(job) for job in JOBS}
    times = time_jobs(RECIPE, [*JOBS, longer], tuple("0123456789"))
    assert times.keys() == kinds
    assert all(t.seconds_per_step > 0 and t.seconds_per_clip > 0 for t in times.values())
