"""The first process broadcasts each job to the others, and only the first writes the run folder."""

from __future__ import annotations

from queue import Queue

import pytest

from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.distributed import ProcessGroup
from skd_edge.execution.job_graph import build_recipe_job_graph, fingerprint_of
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.execution.torchrun_executor import TorchrunExecutor, run_worker_rank
from skd_edge.labels.dataset import load_training_data
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, open_cache, read_journal


class Broadcast(ProcessGroup):
    """A group in one process that notes what the first process broadcasts; batches are not divided."""

    def __init__(self):
        self.sent = []

    def broadcast(self, value):
        self.sent.append(value)
        return value


class Receiver(ProcessGroup):
    """The group as another process sees it: `broadcast` returns what the first process has sent."""

    rank = 1

    def __init__(self, sent):
        self.queue = Queue()
        for value in sent:
            self.queue.put(value)

    def broadcast(self, value):
        assert value is None  # only the first process has something to send
        return self.queue.get_nowait()


@pytest.fixture(scope="module")
def recipe():
    shape = {"width": 4, "depths": [1]}
    return Recipe.model_validate(
        {
            "name": "r",
            "data": {"kind": "generated", "train": 40, "val": 20, "test": 20, "frames": 4, "size": 16},
            "clip": {"frames": 4, "size": 16},
            "teacher": {**shape, "family": "resnet"},
            "students": [{"name": "small", **shape}],
            "labels": {"optimise": False},
            "schedule": {"controls": []},
            "training": {"teacher_epochs": 1, "epochs": 1, "batch": 20},
        }
    )


def test_jobs_are_broadcast_and_trained_as_by_the_local_executor(recipe, tmp_path):
    training_data = load_training_data(recipe, open_cache())
    jobs = build_recipe_job_graph(recipe, fingerprint_of(training_data), recipe.students)
    group = Broadcast()
    with Run(tmp_path / "run", "x: 1") as run:
        first = TorchrunExecutor(recipe, run, training_data, group)
        results = list(first.train_all(jobs))
        assert group.sent == jobs
        again = [first.train_job(job) for job in jobs]
        assert all(result.cached for result in again)
        assert group.sent == jobs  # a finished job needs no other process
        local = LocalExecutor(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1])
        for job in jobs:
            own = local.train_network(job).network.state_dict()
            assert all((own[name] == tensor).all() for name, tensor in first.load_network(job).state_dict().items())
    assert [result.job for result in results] == jobs


def test_another_process_trains_each_job_until_none_and_writes_no_journal(recipe, tmp_path):
    training_data = load_training_data(recipe, open_cache())
    jobs = build_recipe_job_graph(recipe, fingerprint_of(training_data), recipe.students)
    with Run(tmp_path / "run", "x: 1") as run:
        list(TorchrunExecutor(recipe, run, training_data, Broadcast()).train_all(jobs))
    journal, files = read_journal(run.folder), {f for f in run.folder.rglob("*") if f.is_file()}
    group = Receiver([*jobs, None])
    run_worker_rank(group, recipe, run.folder)
    assert group.queue.empty()
    assert read_journal(run.folder) == journal
    left = {f.name for f in run.folder.rglob("*") if f.is_file() and f not in files}
    assert left <= {"state.pt"}


def test_without_jobs_the_other_processes_load_no_data(recipe, tmp_path, own_places):
    run_worker_rank(Receiver([None]), recipe, tmp_path / "run")
    assert not (own_places / "stores").exists()
    assert not (own_places / "generated").exists()
