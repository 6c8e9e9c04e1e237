"""A run's context: the folder is locked, and classes are known before a clip is decoded."""

from __future__ import annotations

import dataclasses

import pytest

from skd_bench.errors import UsageError, UserError
from skd_edge.data.sources.synthetic import generated_classes
from skd_edge.evaluation.devices import OfflineDevice
from skd_edge.pipeline.context import RunOptions, make_run_device, open_run
from skd_edge.recipe.loader import load_recipe
from skd_edge.recipe.schema import Recipe

RECIPE = Recipe.model_validate(
    {
        "name": "some",
        "data": {"kind": "generated", "train": 20, "val": 10, "test": 10, "frames": 4, "size": 16},
        "clip": {"frames": 4, "size": 16},
        "students": [{"name": "small", "width": 4}],
    }
)


def test_a_run_folder_is_used_by_one_process(tmp_path):
    with open_run(RECIPE, tmp_path / "run", RunOptions()) as ctx:
        assert ctx.run.folder == tmp_path / "run"
        with pytest.raises(UserError), open_run(RECIPE, tmp_path / "run", RunOptions()):
            pass
    with open_run(RECIPE, tmp_path / "run", RunOptions()):  # the lock was released
        pass


def test_the_stored_recipe_may_differ_from_the_one_that_is_used(tmp_path):
    stored = RECIPE.model_copy(update={"seed": 7})
    with open_run(RECIPE, tmp_path / "run", RunOptions(), stored_recipe=stored) as ctx:
        assert ctx.recipe.seed == 0
    assert load_recipe(str(tmp_path / "run" / "recipe.yaml")).seed == 7


def test_classes_are_known_before_clips_are_rendered(tmp_path, own_places):
    """The classes of a generated set are listed from its recipe."""
    with open_run(RECIPE, tmp_path / "run", RunOptions()) as ctx:
        assert ctx.classes == tuple(generated_classes(RECIPE.data))
        assert ctx.exporter.classes == ctx.scorer.classes == ctx.classes
    assert not list(own_places.rglob("*.mp4"))


def test_a_context_cannot_be_changed(tmp_path):
    with open_run(RECIPE, tmp_path / "run", RunOptions()) as ctx:
        with pytest.raises(dataclasses.FrozenInstanceError):
            ctx.recipe = RECIPE
        earlier = ctx.seconds
        assert 0 <= earlier <= ctx.seconds


def test_a_folder_that_is_not_a_run_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError), open_run(RECIPE, tmp_path, RunOptions()):
        pass
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == ["notes.txt"]


def test_an_unknown_engine_is_refused_before_the_folder_is_made(tmp_path):
    with pytest.raises(UsageError), open_run(RECIPE, tmp_path / "run", RunOptions(engine="horse")):
        pass
    assert not (tmp_path / "run").exists()


def test_measurements_of_a_pack_replace_the_device(tmp_path):
    assert make_run_device(RECIPE, tmp_path, RunOptions()).is_local
    offline = make_run_device(RECIPE, tmp_path, RunOptions(measurements=(tmp_path / "RESULT.json",)))
    assert isinstance(offline, OfflineDevice)
