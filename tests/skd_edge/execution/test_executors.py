"""The executor of a run: the local one, one for torchrun, and errors before any data are loaded."""

from __future__ import annotations

import pytest
import torch

from skd_bench.errors import UsageError
from skd_edge.distill.distributed import ProcessGroup
from skd_edge.execution.executors import make_executor_factory
from skd_edge.execution.local_executor import LocalExecutor
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


def test_the_local_executor_trains_in_this_process(arguments):
    recipe, run, training_data = arguments
    executor = make_executor_factory("local", threads=torch.get_num_threads())(*arguments)
    assert type(executor) is LocalExecutor
    assert executor.run is run
    assert executor.training_data is training_data
    assert executor.labels == recipe.labels


def test_under_torchrun_all_processes_train_a_job_together(arguments):
    group = TwoProcesses()
    executor = make_executor_factory("local", process_group=group)(*arguments)
    assert type(executor) is TorchrunExecutor
    assert executor.process_group is group


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("slurm", {}, "unknown engine 'slurm'; choose from local, ray"),
        ("local", {"threads": 0}, "threads is 0; a job needs at least 1"),
        ("ray", {"threads": -1}, "threads is -1"),
        ("ray", {"process_group": TwoProcesses()}, "torchrun and --engine ray cannot be combined"),
    ],
)
def test_wrong_options_are_errors_before_any_data_are_loaded(name, options, message):
    with pytest.raises(UsageError, match=message):
        make_executor_factory(name, **options)
