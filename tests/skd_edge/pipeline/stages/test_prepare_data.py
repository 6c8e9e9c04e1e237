"""Clips are decoded once; the journal counts what was found."""

from __future__ import annotations

import numpy as np

from skd_edge.pipeline.stages.prepare_data import prepare_data
from skd_edge.run_folder import read_journal


def test_the_journal_counts_the_clips(stage_results):
    event = [e for e in read_journal(stage_results.ctx.run.folder) if e["event"] == "clips"][-1]
    found = {key: event[key] for key in ("train", "val", "test", "bad", "unlabelled")}
    assert found == {"train": 120, "val": 40, "test": 40, "bad": 0, "unlabelled": 0}


def test_the_same_recipe_gives_the_same_clips_and_labels(stage_results):
    data = stage_results.data
    again = prepare_data(stage_results.ctx, stage_results.benchmark.recipe)
    assert again.clips.train.hash == data.clips.train.hash
    assert np.array_equal(again.weak_labels, data.weak_labels)
    assert again.weak_hash == data.weak_hash


def test_the_labels_have_the_noise_of_the_recipe(stage_results):
    data = stage_results.data
    assert data.injected_noise_rate == 0.4
    assert (data.weak_labels != data.truth).mean() == 0.4
    clean = stage_results.benchmark.recipe.labels.model_copy(
        update={"noise": type(stage_results.benchmark.recipe.labels.noise)()}
    )
    recipe = stage_results.benchmark.recipe.model_copy(update={"labels": clean})
    assert prepare_data(stage_results.ctx, recipe).injected_noise_rate is None


def test_labels_that_a_person_checked_are_counted(stage_results, tmp_path):
    data, recipe = stage_results.data, stage_results.benchmark.recipe
    names, classes = data.clips.train.names, data.clips.classes
    rows = [f"{names[i]},{classes[data.clips.train.labels[i]]}" for i in range(3)]
    (tmp_path / "checked.csv").write_text("\n".join(["clip,trusted", *rows]) + "\n")
    labels = recipe.labels.model_copy(update={"trusted": tmp_path / "checked.csv"})
    checked = prepare_data(stage_results.ctx, recipe.model_copy(update={"labels": labels}))
    assert np.flatnonzero(checked.trusted).tolist() == [0, 1, 2]
    assert np.array_equal(checked.given_labels[:3], data.clips.train.labels[:3])
    assert np.array_equal(checked.weak_labels, data.weak_labels)
    assert [e["clips"] for e in read_journal(stage_results.ctx.run.folder) if e["event"] == "trusted"][-1] == 3
