"""The executor of a run: the local one, one for torchrun, and errors before any data are loaded."""

from __future__ import annotations

import pytest
import torch

from skd_bench.errors import UsageError
from skd_edge.distill.distributed import ProcessGroup
from skd_edge.execution.executors import make_executor_factory
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.execution.parallel_executor import ParallelExecutor
from skd_edge.execution.threads import count_parallel_jobs
from skd_edge.execution.torchrun_executor import TorchrunExecutor
from skd_edge.labels.dataset import TrainingData
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run


class TwoProcesses(ProcessGroup):
    size = 2


@pytest.fixture
def arguments(tiny_clips, tmp_path):
    """The recipe, run folder and training data of a run."""
    clip = {"frames": 4, "size": 16}
    recipe = {"name": "r", "data": {"kind": "generated"}, "clip": clip, "students": [{"name": "s"}]}
    with Run(tmp_path / "run", "x: 1") as run:
        yield Recipe.model_validate(recipe), run, TrainingData(tiny_clips, tiny_clips.train.labels, None, "weak", ())


def test_one_job_at_a_time_is_trained_in_this_process(arguments):
    recipe, run, training_data = arguments
    executor = make_executor_factory("local", torch.get_num_threads(), most_jobs=1)(*arguments)
    assert type(executor) is LocalExecutor
    assert executor.run is run
    assert executor.training_data is training_data
    assert executor.labels == recipe.labels


def test_several_jobs_at_a_time_are_trained_in_processes(arguments):
    executor = make_executor_factory("local", torch.get_num_threads(), most_jobs=3)(*arguments)
    assert isinstance(executor, ParallelExecutor)
    assert executor.most_jobs == 3


def test_the_default_is_a_job_for_every_core(arguments):
    executor = make_executor_factory("local", torch.get_num_threads())(*arguments)
    jobs = count_parallel_jobs(torch.get_num_threads())
    assert getattr(executor, "most_jobs", 1) == jobs


def test_under_torchrun_all_processes_train_a_job_together(arguments):
    group = TwoProcesses()
    executor = make_executor_factory("local", torch.get_num_threads(), process_group=group)(*arguments)
    assert type(executor) is TorchrunExecutor
    assert executor.process_group is group


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("slurm", {}, "unknown engine 'slurm'; choose from local, ray"),
        ("local", {"most_jobs": 0}, "jobs is 0; at least 1 job is trained at a time"),
        ("ray", {"most_jobs": 2}, "--jobs and --engine ray cannot be combined"),
        ("ray", {"process_group": TwoProcesses()}, "torchrun cannot be combined with --engine ray or --jobs"),
        ("local", {"process_group": TwoProcesses(), "most_jobs": 2}, "torchrun cannot be combined"),
    ],
)
def test_wrong_options_are_errors_before_any_data_are_loaded(name, options, message):
    with pytest.raises(UsageError, match=message):
        make_executor_factory(name, 1, **options)
