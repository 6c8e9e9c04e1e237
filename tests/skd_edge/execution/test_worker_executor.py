"""A worker opens the clips itself: if it finds others than the run, it trains nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skd_bench.errors import UserError
from skd_edge.execution.job_graph import build_recipe_job_graph, fingerprint_of
from skd_edge.execution.parallel_executor import ParallelExecutor
from skd_edge.execution.worker_executor import train_in_worker
from skd_edge.labels.dataset import load_training_data
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, open_cache, read_journal

SHAPE = {"width": 4, "depths": [1]}
RECIPE = Recipe.model_validate(
    {
        "name": "r",
        "data": {"kind": "generated", "train": 40, "val": 20, "test": 20, "frames": 4, "size": 16},
        "clip": {"frames": 4, "size": 16},
        "teacher": {**SHAPE, "family": "resnet"},
        "students": [{"name": "small", **SHAPE}],
        "labels": {"optimise": False},
        "schedule": {"controls": []},
        "training": {"teacher_epochs": 1, "epochs": 1, "batch": 20},
    }
)


@pytest.fixture
def context_and_job(tmp_path):
    training_data = load_training_data(RECIPE, open_cache())
    with Run(tmp_path / "run", "x: 1") as run:
        context = ParallelExecutor(RECIPE, run, training_data, most_jobs=2).worker_context
    return context, build_recipe_job_graph(RECIPE, fingerprint_of(training_data), RECIPE.students)[0]


def test_a_worker_sends_the_events_and_the_progress_of_its_job(context_and_job):
    context, job = context_and_job
    events = []
    result = train_in_worker(context, job, events.append)
    assert result.job is job
    assert {event.job_hash for event in events} == {job.hash}
    assert [event.name for event in events if event.name] == ["job_started", "job_finished"]
    assert events[0].details == {}  # the job begins
    assert [e.details["accuracy"] for e in events if e.name is None and "terms" in e.details] == [result.accuracy]
    assert read_journal(context.folder) == []  # only the process that holds the run writes it


def test_a_worker_that_finds_other_clips_trains_nothing(context_and_job):
    context, job = context_and_job
    other = replace(context, key="other", data_fingerprint="other clips")
    with pytest.raises(UserError, match="finds other clips than the process that started the run"):
        train_in_worker(other, job, lambda event: None)
    assert not (context.folder / "jobs").exists()
