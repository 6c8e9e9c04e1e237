"""The local engine: a teacher that was trained elsewhere, one job under two names, opinions that are out-of-fold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from skd_bench.errors import UserError
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.store.clip_store import ClipDataset
from skd_edge.distill.trainer import build_learner, training_rows
from skd_edge.execution.job_graph import JobFactory, build_recipe_job_graph, fingerprint_of
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.labels.dataset import TrainingData, load_training_data
from skd_edge.models.tsm import build_tsm
from skd_edge.recipe.loader import load_recipe
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, open_cache, read_journal

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


def test_a_given_teacher_is_not_trained_and_teaches(recipe, tmp_path):
    material = load_training_data(recipe, open_cache())
    nodes = build_recipe_job_graph(recipe, fingerprint_of(material), recipe.students)
    assert [n.spec.role for n in nodes][:2] == ["teacher", "student"]
    with Run(tmp_path / "run", "x: 1") as run:
        engine = LocalExecutor(run, material, recipe.labels, inference_preprocessing(recipe.clip)[1])
        done = [engine.train_job(node) for node in nodes]
        given = build_tsm(recipe.teacher, classes=10, frames=4, size=16, seed=5).state_dict()
        assert all((engine.load_network(nodes[0]).state_dict()[k] == v).all() for k, v in given.items())
    assert done[0].curve == []
    assert all(len(d.curve) == 1 for d in done[1:])
    # The twin by the direct path has the assistant's shape: one job, trained once, found under both names.
    names = {d.job.spec.path[-1]: d.job.hash for d in done if len(d.job.spec.path) == 2}
    assert names["twin"] == names["assistant"] != names["small"]
    finished = [e["job"] for e in read_journal(tmp_path / "run") if e["event"] == "job_finished"]
    assert len(finished) == len(set(finished)) == len({n.hash for n in nodes})


def test_a_teacher_of_another_shape_is_refused(recipe, tmp_path):
    other = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"width": 12})})
    material = load_training_data(other, open_cache())
    node = build_recipe_job_graph(other, fingerprint_of(material), other.students)[0]
    with Run(tmp_path / "run", "x: 1") as run:
        engine = LocalExecutor(run, material, other.labels, inference_preprocessing(other.clip)[1])
        with pytest.raises(UserError, match=r"teacher\.checkpoint .* does not fit the teacher"):
            engine.train_job(node)


def test_a_job_that_diverges_twice_stops_and_the_journal_says_why(recipe, tmp_path, monkeypatch):
    import skd_edge.distill.trainer as module

    whole = module.compute_loss_terms
    monkeypatch.setattr(
        module, "compute_loss_terms", lambda *x: whole(*x) | {"correlation": torch.tensor(float("nan"))}
    )
    material = load_training_data(recipe, open_cache())
    teacher, student, *_ = build_recipe_job_graph(recipe, fingerprint_of(material), recipe.students)

    def train() -> None:
        with Run(tmp_path / "run", "x: 1") as run:
            engine = LocalExecutor(run, material, recipe.labels, inference_preprocessing(recipe.clip)[1])
            engine.train_job(teacher)
            engine.train_job(student)

    with pytest.raises(UserError, match="correlation"):
        train()
    *_, slowed, stopped = read_journal(tmp_path / "run")
    assert (slowed["event"], slowed["job"], stopped["event"]) == ("slowed_down", student.hash, "stopped")
    assert "'correlation' loss is not finite at step 1" in slowed["reason"]
    assert "also at half the rate; lower training.rate" in stopped["reason"]


def test_the_opinion_of_a_clip_is_that_of_the_network_that_never_saw_it(
    tiny_clips: ClipDataset, tmp_path: Path
) -> None:
    """Three networks that say their own number of whatever they see; clips come in pairs of one source video."""
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
    material = TrainingData(replace(tiny_clips, train=train), train.labels, None, "weak", ())
    teacher = JobFactory(recipe, fingerprint_of(material)).make_teacher_job()
    assert teacher.labels is not None
    with Run(tmp_path / "run", "x: 1") as run:
        for number, node in enumerate((*teacher.folds, teacher.labels)):
            weights = {k: v.contiguous() for k, v in build_learner(node.spec).state_dict().items()}
            weights["head.weight"].zero_()
            weights["head.bias"][:] = 9 * torch.eye(4)[number]
            run.job_folder(node.hash).mkdir(parents=True)
            save_file(weights, run.job_folder(node.hash) / "weights.safetensors")
        engine = LocalExecutor(run, material, recipe.labels, inference_preprocessing(recipe.clip)[1])
        said = engine.pseudo_labels(teacher.labels, teacher.folds).targets.argmax(1)
    assert set(said) == {0, 1, 2}
    for number, fold in enumerate(teacher.folds):
        assert not set(np.flatnonzero(said == number)) & set(training_rows(fold.spec, train))
