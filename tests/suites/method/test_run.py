"""The study's rows: their seconds are steps times a paced step."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from skd_edge.distill.step_profiler import StepTimes
from skd_edge.execution.job_results import JobResult
from skd_edge.labels.dataset import load_training_data
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import open_cache
from skd_edge.schedule.job_seconds import timing_key

RECIPE = Recipe.model_validate(
    {
        "name": "tiny",
        "data": {"kind": "generated", "train": 100, "val": 20, "test": 20, "frames": 4, "size": 16},
        "clip": {"frames": 4, "size": 16},
        "teacher": {"family": "resnet", "width": 4, "depths": [1, 1]},
        "students": [{"name": "small", "width": 4, "depths": [1, 1]}],
        "training": {"teacher_epochs": 1, "epochs": 2, "batch": 16},
    }
)


def test_seconds_of_a_row_are_steps_times_a_paced_step(suites, monkeypatch, tmp_path):
    """A step of two seconds, a validated clip of half a second: whatever this machine needs for them."""
    from bench.suites.method import run

    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(run, "make_recipe", lambda *column: RECIPE)
    row = run.find_row("no KD")
    (job,) = run.list_jobs(RECIPE, load_training_data(RECIPE, open_cache()), row)
    found = run.measure("generated", "clean", row, 0, tmp_path / "runs", {timing_key(job): StepTimes(2.0, 0.5)})
    assert found["seconds"] == found["student_seconds"] == 2 * (100 // 16) * 2.0 + 20 * 0.5
    paces = run.pace_rows([("generated", "clean", "no KD", 0), ("generated", "clean", "KD", 0)])
    assert len(paces) == 3  # the student alone and with a teacher, and the teacher
    assert timing_key(job) in paces


def test_seconds_of_a_searched_job_are_steps_times_a_paced_step(suites, monkeypatch, tmp_path):
    from bench.suites.method import run
    from bench.suites.search.regret import Study

    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    (job,) = run.list_jobs(RECIPE, load_training_data(RECIPE, open_cache()), run.find_row("no KD"))
    right, predictions = np.zeros(20, bool), np.zeros(20, np.int64)
    measured = JobResult(job, tmp_path, 0.5, 12345.0, False, [], right, predictions)
    study = SimpleNamespace(paces={timing_key(job): StepTimes(2.0, 0.5)}, splits={"train": 100, "val": 20})
    assert Study._with_paced_seconds(study, measured).seconds == 2 * (100 // 16) * 2.0 + 20 * 0.5
