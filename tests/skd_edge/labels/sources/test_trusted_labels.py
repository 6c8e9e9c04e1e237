"""Checked labels: beside the weak ones, never of validation or test clips; what cannot be used is named once."""

from __future__ import annotations

import numpy as np
import pytest

from skd_bench.errors import UserError
from skd_edge.data.csv_files import write_sheet
from skd_edge.execution.job_graph import fingerprint_of
from skd_edge.labels.dataset import load_training_data
from skd_edge.labels.sources.trusted_labels import describe_coverage, draw_trusted_labels, read_decisions
from skd_edge.recipe.schema import Recipe

CLASSES = ("blink", "grow", "spin_cw")


@pytest.fixture
def sheet(tmp_path):
    """Writes a CSV of checked labels."""

    def make(*rows):
        return write_sheet(tmp_path / "t.csv", ["clip", "trusted"], rows)

    return make


def test_a_checked_clip_retains_its_weak_label_beside_the_checked_one(videos, cache, recipe, sheet):
    file = sheet(["0.mp4", "blink"], ["1.mp4", ""], ["2.mp4", "spin_cw"])
    plain, checked = (load_training_data(recipe(videos, **k), cache) for k in ({}, {"trusted": file}))
    assert plain.trusted is None
    assert plain.given_labels is plain.weak_labels
    assert np.array_equal(checked.weak_labels, plain.weak_labels)  # the source's labels, also of checked clips
    assert checked.weak_labels[0] == 1
    assert checked.given_labels[0] == 0
    assert np.flatnonzero(checked.trusted).tolist() == [0, 2]
    assert np.array_equal(checked.given_labels[1:], plain.weak_labels[1:])
    assert fingerprint_of(checked).weak_labels_hash != fingerprint_of(plain).weak_labels_hash
    assert fingerprint_of(checked).clips_hash == fingerprint_of(plain).clips_hash  # so that no clip is decoded again


def test_what_cannot_be_used_is_named_once_and_the_run_goes_on(videos, cache, recipe, sheet):
    file = sheet(
        ["0.mp4", "blink"],
        ["2.mp4", "grwo"],
        ["5.mp4", "gorw"],
        ["elsewhere.mp4", "grow"],
        ["3.mp4", "blink"],
        ["3.mp4", "grow"],
        ["4.mp4", "grow"],
    )
    data = load_training_data(recipe(videos, trusted=file), cache)
    assert np.flatnonzero(data.trusted).tolist() == [0, 4]
    notes = [note.removeprefix(f"{file}: ") for note in data.label_notes]
    assert notes == [
        "1 clips have two different labels (first: 3.mp4, line 7); not used",
        "2 labels are no class of the data (first: 'grwo' of 2.mp4; did you mean 'grow'?); not used",
        "1 clips are no training clips of this recipe (first: elsewhere.mp4); not used",
        "no clip of 1 of 3 classes was checked (spin_cw); check some of each class",
    ]


def test_checked_clips_of_one_class_only_are_named(videos, cache, recipe, sheet):
    data = load_training_data(recipe(videos, trusted=sheet(["0.mp4", "blink"], ["3.mp4", "blink"])), cache)
    assert data.label_notes == (
        "all checked clips are of class 'blink': they tell nothing about other classes; check some of each",
    )
    assert describe_coverage(np.array([0, 1, 2, -1]), CLASSES) == ()
    assert describe_coverage(np.full(4, -1), CLASSES) == ()


def test_a_file_without_any_usable_label_is_an_error(videos, cache, recipe, sheet):
    with pytest.raises(UserError, match=r"no checked label that can be used: 1 clips are no training clips"):
        load_training_data(recipe(videos, trusted=sheet(["elsewhere.mp4", "grow"])), cache)


@pytest.mark.parametrize(("clip", "split"), [("23.mp4", "test"), ("24.mp4", "val")])
def test_validation_and_test_clips_are_refused(videos, cache, recipe, sheet, clip, split):
    with pytest.raises(UserError, match=f"{clip} is a {split} clip; clips that are trained on cannot be scored"):
        load_training_data(recipe(videos, trusted=sheet(["0.mp4", "blink"], [clip, "blink"])), cache)


def test_a_decision_in_an_audit_sheet_must_be_clear(sheet):
    assert read_decisions(sheet(["a", "grow"], ["b", ""])) == {"a": "grow"}
    with pytest.raises(UserError, match=r"t\.csv:3: a has another label here"):
        read_decisions(sheet(["a", "grow"], ["a", "blink"]))


# ------------------------------------------------------------------------------------------ drawn for studies
def test_so_many_of_each_class_are_drawn_by_the_seed():
    labels = np.array([0] * 30 + [1] * 20 + [2] * 3 + [-1] * 10)
    forbidden = np.zeros(len(labels), bool)
    forbidden[:10] = True
    drawn = draw_trusted_labels(labels, 5, 0, forbidden)
    assert np.bincount(drawn[drawn >= 0]).tolist() == [5, 5, 3]
    assert np.array_equal(drawn[drawn >= 0], labels[drawn >= 0])
    assert (drawn[:10] == -1).all()
    assert np.array_equal(drawn, draw_trusted_labels(labels, 5, 0, forbidden))
    assert not np.array_equal(drawn, draw_trusted_labels(labels, 5, 1, forbidden))


def test_a_study_draws_the_same_clips_for_every_method_and_rate(videos, cache, recipe):
    noise = {"kind": "symmetric", "rate": 0.5}
    made = recipe(videos, noise=noise, trusted_per_class=2)
    data = load_training_data(made, cache)
    assert np.bincount(data.trusted_labels[data.trusted]).tolist() == [2, 2, 2]
    assert np.array_equal(data.given_labels[data.trusted], data.truth[data.trusted])
    assert not np.array_equal(data.weak_labels[data.trusted], data.truth[data.trusted])
    other = load_training_data(recipe(videos, noise=noise | {"rate": 0.2}, trusted_per_class=2), cache)
    assert np.array_equal(other.trusted_labels, data.trusted_labels)


def test_listed_labels_of_unknown_quality_are_not_drawn(recipe):
    with pytest.raises(ValueError, match="trusted_per_class takes listed labels as checked ones"):
        recipe("videos", trusted_per_class=5)


def test_a_group_with_validation_clips_is_refused(film, cache, tmp_path):
    """The recipe's own rules put clips of one group into several splits."""
    lines = ["path,label,split,actor"]
    for i in range(12):
        film(tmp_path / f"{i}.mp4", CLASSES[i % 2], seed=i, frames=4, size=16)
        lines.append(f"{i}.mp4,{CLASSES[i % 2]},{('train', 'train', 'train', 'val', 'val', 'test')[i // 2]},{i % 7}")
    (tmp_path / "index.csv").write_text("\n".join(lines))
    checked = write_sheet(tmp_path / "t.csv", ["clip", "trusted"], [["1.mp4", "grow"]])
    data = {"kind": "csv", "root": tmp_path, "group": "actor"}
    data |= {s: {"split": [s]} for s in ("train", "val", "test")}
    base = {
        "name": "g",
        "clip": {"frames": 4, "size": 16},
        "teacher": {"width": 4, "depths": [1]},
        "students": [{"name": "s", "width": 4, "depths": [1]}],
    }
    with pytest.raises(UserError, match=r"1\.mp4 is in group '1', which has (val|test) clips"):
        load_training_data(Recipe.model_validate(base | {"data": data, "labels": {"trusted": checked}}), cache)
    noise = {"noise": {"kind": "symmetric", "rate": 0.5}, "trusted_per_class": 5}
    drawn = load_training_data(Recipe.model_validate(base | {"data": data, "labels": noise}), cache)
    held_out = {i % 7 for i in range(6, 12)}
    assert all(int(n[0]) % 7 not in held_out for n, t in zip(drawn.clips.train.names, drawn.trusted, strict=True) if t)
