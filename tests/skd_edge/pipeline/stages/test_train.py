"""Out of memory: the network's batches are halved once, which is another job; the second time is an error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import skd_edge.execution.local_executor as engines
from skd_bench.errors import UserError
from skd_edge.execution.job_graph import build_recipe_job_graph, fingerprint_of
from skd_edge.labels.dataset import load_training_data
from skd_edge.pipeline.context import RunOptions, open_run
from skd_edge.pipeline.results import UntrainedBenchmark
from skd_edge.pipeline.stages.train import train
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import open_cache, read_journal

RECIPE = Recipe.model_validate(
    {
        "name": "memory",
        "data": {"kind": "generated", "train": 40, "val": 20, "test": 20, "frames": 4, "size": 16},
        "clip": {"frames": 4, "size": 16},
        "augment": {"shift": 1, "views": 2},
        "labels": {"optimise": False},
        "teacher": {"family": "resnet", "width": 4, "depths": [1, 1]},
        "students": [{"name": "small", "width": 4, "depths": [1, 1]}],
        "schedule": {"controls": []},
        "training": {"epochs": 1, "teacher_epochs": 1, "batch": 20},
    }
)


@pytest.mark.parametrize("make", [lambda: torch.empty(1 << 60), lambda: np.empty(1 << 55, np.uint8)])
def test_failed_allocations_are_recognised(make):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        make()
    assert engines.is_out_of_memory(caught.value)
    assert not engines.is_out_of_memory(RuntimeError("shapes do not match"))


def test_halved_once_and_remembered(tmp_path, monkeypatch):
    whole = engines.train_job

    def too_large(job, *args, **kw):
        if job.learner.name == "small" and job.training.accumulate < 2:
            torch.empty(1 << 60)
        return whole(job, *args, **kw)

    monkeypatch.setattr(engines, "train_job", too_large)
    material = load_training_data(RECIPE, open_cache())
    benchmark = UntrainedBenchmark(RECIPE, {}, {}, {}, None, RECIPE.students, {})

    def run_it(name):
        with open_run(RECIPE, tmp_path / name, RunOptions(jobs=1)) as ctx:
            return train(ctx, benchmark, material).job_results

    finished = run_it("run")
    (student,) = [f for f in finished if f.job.spec.role == "student"]
    assert student.job.spec.training.accumulate == 2
    assert student.job.hash not in {
        n.hash for n in build_recipe_job_graph(RECIPE, fingerprint_of(material), RECIPE.students)
    }
    assert student.job.teacher.spec.training.accumulate == 1
    (event,) = [e for e in read_journal(tmp_path / "run") if e["event"] == "halved"]
    assert event["learner"] == "small"
    # The same run again: the whole batches are not tried a second time.
    before = len(read_journal(tmp_path / "run"))
    assert [f.job.hash for f in run_it("run")] == [f.job.hash for f in finished]
    assert {e["event"] for e in read_journal(tmp_path / "run")[before:]} == {"job_cached"}

    monkeypatch.setattr(engines, "train_job", lambda *a, **k: torch.empty(1 << 60))
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "other cache"))
    with pytest.raises(UserError, match=r"job teacher does not fit .* lower training\.batch"):
        run_it("other")
