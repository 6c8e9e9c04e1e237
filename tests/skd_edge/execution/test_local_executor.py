"""The local executor: teachers that were trained elsewhere, equal jobs, diverging jobs, out-of-fold predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from skd_bench.errors import UserError
from skd_bench.integrity.checked_files import describe_files, write_checked_json
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.store.clip_store import ClipDataset
from skd_edge.distill.trainer import build_learner
from skd_edge.distill.views import training_rows
from skd_edge.execution.job_graph import JobFactory, build_recipe_job_graph, fingerprint_of
from skd_edge.execution.job_results import is_out_of_memory
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.labels.dataset import TrainingData, load_training_data
from skd_edge.models.tsm import build_tsm
from skd_edge.recipe.loader import load_recipe
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import JOB_FILE, Run, open_cache, read_journal

RECIPE = """
name: given
data: {kind: generated, train: 40, val: 20, test: 20, frames: 4, size: 16}
clip: {frames: 4, size: 16}
augment: {shift: 1, views: 2}
teacher: {family: resnet, width: 8, depths: [1, 1], checkpoint: teacher.safetensors}
assistants: [{name: assistant, width: 8, depths: [1, 1]}]
students: [{name: small, width: 4, depths: [1, 1]}, {name: twin, width: 8, depths: [1, 1]}]
schedule: {controls: []}
training: {epochs: 1, batch: 20}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    network = build_tsm(recipe.teacher, classes=10, frames=4, size=16, seed=5)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "teacher.safetensors")
    return recipe


def test_a_given_teacher_is_loaded_and_equal_jobs_are_trained_once(recipe, tmp_path):
    training_data = load_training_data(recipe, open_cache())
    jobs = build_recipe_job_graph(recipe, fingerprint_of(training_data), recipe.students)
    assert [job.spec.role for job in jobs][:2] == ["teacher", "student"]
    with Run(tmp_path / "run", "x: 1") as run:
        executor = LocalExecutor(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1])
        done = [executor.train_job(job) for job in jobs]
        given = build_tsm(recipe.teacher, classes=10, frames=4, size=16, seed=5).state_dict()
        assert all((executor.load_network(jobs[0]).state_dict()[k] == v).all() for k, v in given.items())
    assert done[0].curve == []
    assert all(len(d.curve) == 1 for d in done[1:])
    # The student twin has the assistant's architecture: its direct job equals the assistant's, and is trained once.
    names = {d.job.spec.path[-1]: d.job.hash for d in done if len(d.job.spec.path) == 2}
    assert names["twin"] == names["assistant"] != names["small"]
    finished = [e["job"] for e in read_journal(tmp_path / "run") if e["event"] == "job_finished"]
    assert len(finished) == len(set(finished)) == len({n.hash for n in jobs})


@pytest.mark.parametrize(
    ("name", "reader"), [("weights.safetensors", "learner"), ("memory.npy", "learner"), ("val_logits.npy", "parent")]
)
def test_a_damaged_job_is_not_used_by_those_that_require_it(recipe, tmp_path, name, reader):
    """One bit of a number: the file can still be read. Each reader checks it once, in its process."""
    training_data = load_training_data(recipe, open_cache())
    quick = {
        "teacher": recipe.teacher.model_copy(update={"checkpoint": None}),
        "training": recipe.training.model_copy(update={"teacher_epochs": 1, "refine": 1.0}),
    }
    trained = recipe.model_copy(update=quick)
    jobs = build_recipe_job_graph(trained, fingerprint_of(training_data), trained.students)
    learner = next(job for job in jobs if job.labels is not None)
    scout, required = learner.labels, jobs[: jobs.index(learner)]
    with Run(tmp_path / "run", "x: 1") as run:
        executor = LocalExecutor(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1])
        folder = {job: executor.train_job(job).folder for job in required}[scout]
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with Run(tmp_path / "run", "x: 1") as run:
        executor = LocalExecutor(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1])
        with pytest.raises(UserError, match="is missing or was damaged; repeat the command"):
            executor.train_job(learner) if reader == "learner" else executor.load_result(scout, cached=False)
        assert not executor.run.fetch_job(learner.hash)
        assert not (open_cache() / "jobs" / learner.hash).exists()
        # The command repeated: the damaged job is trained again.
        cached = {job: executor.train_job(job).cached for job in (*required, learner)}
        assert [job for job in cached if not cached[job]] == [scout, learner]


def test_a_teacher_of_another_shape_is_an_error(recipe, tmp_path):
    other = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"width": 12})})
    training_data = load_training_data(other, open_cache())
    job = build_recipe_job_graph(other, fingerprint_of(training_data), other.students)[0]
    with Run(tmp_path / "run", "x: 1") as run:
        executor = LocalExecutor(run, training_data, other.labels, inference_preprocessing(other.clip)[1])
        with pytest.raises(UserError, match=r"teacher\.checkpoint .* does not fit the teacher"):
            executor.train_job(job)


def test_a_job_that_diverges_twice_stops_and_the_journal_has_the_reason(recipe, tmp_path, monkeypatch):
    import skd_edge.distill.trainer as module

    whole = module.compute_loss_terms
    monkeypatch.setattr(
        module, "compute_loss_terms", lambda *x: whole(*x) | {"correlation": torch.tensor(float("nan"))}
    )
    training_data = load_training_data(recipe, open_cache())
    teacher, student, *_ = build_recipe_job_graph(recipe, fingerprint_of(training_data), recipe.students)

    def train() -> None:
        with Run(tmp_path / "run", "x: 1") as run:
            executor = LocalExecutor(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1])
            executor.train_job(teacher)
            executor.train_job(student)

    with pytest.raises(UserError, match="correlation"):
        train()
    *_, slowed, stopped = read_journal(tmp_path / "run")
    assert (slowed["event"], slowed["job"], stopped["event"]) == ("slowed_down", student.hash, "stopped")
    assert "'correlation' loss is not finite at step 1" in slowed["reason"]
    assert "also at half the rate; lower training.rate" in stopped["reason"]


def test_each_clip_is_predicted_by_the_network_that_was_not_trained_on_it(
    tiny_clips: ClipDataset, tmp_path: Path
) -> None:
    """Three networks predict their own number for every clip; clips come in pairs of one source video."""
    shape = {"width": 4, "depths": [1, 1]}
    recipe = Recipe.model_validate(
        {
            "name": "folds",
            "data": {"kind": "generated"},
            "clip": {"frames": 4, "size": 16},
            "teacher": shape,
            "students": [{"name": "small", **shape}],
            "labels": {"folds": 3, "method": "soft"},
            "training": {"rounds": 1},
        }
    )
    train = replace(tiny_clips.train, groups=np.arange(48) // 2)
    training_data = TrainingData(replace(tiny_clips, train=train), train.labels, None, "weak", ())
    teacher = JobFactory(recipe, fingerprint_of(training_data)).make_teacher_job()
    assert teacher.labels is not None
    with Run(tmp_path / "run", "x: 1") as run:
        for number, job in enumerate((*teacher.folds, teacher.labels)):
            weights = {k: v.contiguous() for k, v in build_learner(job.spec).state_dict().items()}
            weights["head.weight"].zero_()
            weights["head.bias"][:] = 9 * torch.eye(4)[number]
            folder = run.job_folder(job.hash)
            folder.mkdir(parents=True)
            save_file(weights, folder / "weights.safetensors")
            write_checked_json(folder / JOB_FILE, {"files": describe_files(folder, ["weights.safetensors"])})
        executor = LocalExecutor(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1])
        predicted = executor.pseudo_labels(teacher.labels, teacher.folds).targets.argmax(1)
    assert set(predicted) == {0, 1, 2}
    for number, fold in enumerate(teacher.folds):
        assert not set(np.flatnonzero(predicted == number)) & set(training_rows(fold.spec, train))


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            True,
        ),
        (RuntimeError("could not create a memory object"), True),  # oneDNN
        (RuntimeError("could not execute a primitive"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("could not create a primitive descriptor for a convolution"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_counts_as_too_little_memory(error, is_memory):
    assert is_out_of_memory(error) is is_memory
