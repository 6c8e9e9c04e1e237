"""Every weak source becomes a voter: labels, rules, tables of probabilities, a bundle, an ONNX file; and trust."""

from __future__ import annotations

import csv

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from skd_bench.errors import UserError
from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.sources.registry import list_clips
from skd_edge.execution.job_graph import fingerprint_of
from skd_edge.labels.cleaning.pseudo_labels import estimate_pseudo_labels
from skd_edge.labels.csv_files import write_sheet
from skd_edge.labels.dataset import load_training_data
from skd_edge.labels.sources.annotators import add_annotators, read_trusted_labels, resolve_class_prior
from skd_edge.recipe.labels import LabelSettings
from skd_edge.recipe.schema import Recipe
from skd_export.bundle.writer import ModelFile, write_bundle

CLASSES = ("blink", "grow", "spin_cw")
BASE = {
    "name": "v",
    "clip": {"frames": 4, "size": 16},
    "teacher": {"width": 4, "depths": [1]},
    "students": [{"name": "s", "width": 4, "depths": [1]}],
}


@pytest.fixture(scope="module")
def videos(film, tmp_path_factory):
    """Real files with a label that is wrong for every fifth, a title, and one that is no video."""
    root = tmp_path_factory.mktemp("sources")
    rows = []
    for i in range(30):
        name, split = CLASSES[i % 3], "train" if i < 21 else ("val", "test")[i % 2]
        film(root / f"{i}.mp4", name, seed=i, frames=4, size=16)
        label = CLASSES[(i + 1) % 3] if split == "train" and i % 5 == 0 else name
        rows.append([f"{i}.mp4", label, f"a {name.replace('_', ' ')} film" if i % 2 else "untitled", split])
    (root / "7.mp4").write_bytes(b"no video")
    with (root / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "title", "split"], *rows])
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A real ONNX file that answers class 2 of its three classes to every clip, 2 nats ahead."""
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    shape = ["B", 3, 4, 16, 16]
    nodes = [
        helper.make_node("ReduceMean", ["clip"], ["mean"], axes=[1, 2, 3, 4], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nought"]),
        helper.make_node("Unsqueeze", ["nought", "last"], ["column"]),
        helper.make_node("Add", ["column", "bias"], ["logits"]),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("last", TensorProto.INT64, [1], [1]),
        helper.make_tensor("bias", TensorProto.FLOAT, [1, 3], [0.0, 0.0, 2.0]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("clip", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 3])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def recipe(root, **labels):
    data = {"kind": "csv", "root": root} | {s: {"split": [s]} for s in ("train", "val", "test")}
    return Recipe.model_validate(BASE | {"data": data, "labels": labels})


RULES = [{"label": c, "any": [c.replace("_", " ")], "within": ["title"]} for c in CLASSES]


def test_label_rules_and_a_table_vote_together(videos, cache, tmp_path):
    table = [
        ["clip", *CLASSES],
        *([f"{i}.mp4", *("0.8" if c == i % 3 else "0.1" for c in range(3))] for i in range(12)),
    ]
    table[3][1:] = ["", "", ""]  # clip 2 has no prediction
    table[5][1:] = ["0.34", "0.33", "0.33"]  # and of clip 4 the model is not sure
    write_sheet(tmp_path / "p.csv", table[0], table[1:])
    made = recipe(videos, rules=RULES, models=[{"name": "zoo", "table": tmp_path / "p.csv", "at_least": 0.5}])
    material = load_training_data(made, cache)
    assert material.votes.annotators == ("label", "rules", "zoo")
    for name, (label, rules, zoo) in zip(material.clips.train.names, material.votes.given.tolist(), strict=True):
        i = int(name.split(".")[0])
        assert label == ((i + 1) % 3 if i % 5 == 0 else i % 3)
        assert rules == (i % 3 if i % 2 else -1)
        assert zoo == (i % 3 if i < 12 and i not in (2, 4) else -1)
    truth = np.array([int(n.split(".")[0]) % 3 for n in material.clips.train.names])
    alone = load_training_data(recipe(videos), cache)
    assert (material.weak_labels == truth).mean() > (alone.weak_labels == truth).mean()
    assert material.weak_hash != alone.weak_hash


def test_a_model_runs_on_the_clips_and_is_asked_once(videos, cache, model, tmp_path):
    names = ["grow", "stranger", "spin_cw"]
    preprocess = Preprocessing(16, 16, "crop", (0.45,) * 3, (0.225,) * 3)
    bundle = write_bundle(
        tmp_path / "b",
        name="old",
        classes=names,
        sampling=Sampling(4, "uniform", 2),
        preprocess=preprocess,
        models=[ModelFile(model, "fp32", "s", ["s"])],
        licences={},
        created_by="a test",
    )
    judges = [
        {"name": "file", "onnx": model},
        {"name": "bundle", "bundle": bundle},
        {"name": "strange", "onnx": model, "classes": ["grow", "spin_cw", "stranger"]},
        {"name": "unsure", "onnx": model, "at_least": 0.9},
    ]
    asked, made = [], recipe(videos, models=judges)

    def voters():
        listing = list_clips(made.data, seed=0, cache=cache)
        view = inference_preprocessing(made.clip)
        return add_annotators(listing, made, view, cache, progress=lambda done, total: asked.append((done, total)))

    listing = voters()
    assert listing.annotators == ("label", "file", "bundle", "strange", "unsure")
    said = {e.name: e.votes[1:] for e in listing.entries if e.split == "train"}
    assert len(said) == 21
    assert said.pop("7.mp4") == ("", "", "", "")  # no video
    assert set(said.values()) == {("spin_cw", "spin_cw", "", "")}
    assert asked[-1] == (21, 21)
    asked.clear()
    assert voters() == listing
    assert not asked


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"rules": [{"label": "grwo", "any": ["x"]}]}, "did you mean 'grow'"),
        ({"rules": [{"label": "grow", "any": ["x"], "within": ["tags"]}]}, "no column 'tags'"),
        ({"rules": [{"label": "grow", "any": ["x"], "voter": "label"}]}, "two voters are called 'label'"),
        ({"models": [{"name": "m", "onnx": "nowhere.onnx"}]}, "does not exist"),
        ({"prior": {"grow": 1.0}, "rules": RULES}, "no share for class 'blink'"),
    ],
)
def test_what_cannot_be_is_said(videos, cache, labels, says):
    with pytest.raises(UserError, match=says):
        load_training_data(recipe(videos, **labels), cache)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clip,grow\n0.mp4,2.5\n", "from 0 to 1"),
        ("clip,grow\n0.mp4,much\n", "a number from 0 to 1"),
        ("clip,grow\n0.mp4,1\n0.mp4,1\n", "second time"),
        ("clip,other\n0.mp4,1\n", "none of the data's classes"),
        ("clip,grow\n", "no probabilities"),
    ],
)
def test_a_table_of_predictions_that_is_none(videos, cache, tmp_path, text, says):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        load_training_data(recipe(videos, models=[{"name": "m", "table": tmp_path / "p.csv"}]), cache)


# ------------------------------------------------------------------------------------------ what is trusted
def test_trusted_labels_replace_the_weak_ones_and_name_other_jobs(videos, cache, tmp_path):
    write_sheet(
        tmp_path / "t.csv",
        ["rank", "clip", "trusted"],
        [["1", "0.mp4", "blink"], ["2", "1.mp4", ""], ["3", "29.mp4", "grow"]],
    )
    plain, checked = (load_training_data(recipe(videos, **k), cache) for k in ({}, {"trusted": tmp_path / "t.csv"}))
    assert plain.trusted is None
    assert plain.weak_labels[0] == 1
    assert checked.weak_labels[0] == 0
    assert np.flatnonzero(checked.trusted).tolist() == [0]
    assert np.array_equal(checked.weak_labels[1:], plain.weak_labels[1:])
    assert fingerprint_of(checked).weak_labels_hash != fingerprint_of(plain).weak_labels_hash
    assert fingerprint_of(checked).clips_hash == fingerprint_of(plain).clips_hash  # no clip is decoded again


def test_a_trusted_file_that_does_not_fit(tmp_path):
    file = tmp_path / "t.csv"
    for rows, says in (
        ([["a", "grwo"]], "did you mean 'grow'"),
        ([["a", "grow"], ["a", "blink"]], "keep one"),
        ([["elsewhere", "grow"]], "none of them is a training clip"),
    ):
        write_sheet(file, ["clip", "trusted"], rows)
        with pytest.raises(UserError, match=says):
            read_trusted_labels(file, ["a", "b"], CLASSES)
    assert read_trusted_labels(None, ["a"], CLASSES).tolist() == [-1]


@pytest.mark.parametrize("method", ["neighbours", "mixture", "soft"])
def test_the_optimiser_keeps_what_is_trusted(method):
    rng = np.random.default_rng(0)
    n, classes = 300, 4
    truth = rng.integers(0, classes, n)
    weak = np.where(rng.random(n) < 0.3, (truth + 1) % classes, truth)
    q = np.full((n, classes), 0.05, np.float32)
    q[np.arange(n), truth] = 0.85
    features = (np.eye(classes)[truth] + 0.1 * rng.normal(size=(n, classes))).astype(np.float32)
    trusted = rng.random(n) < 0.3  # also labels that everything else speaks against
    pseudo = estimate_pseudo_labels(weak, q, features, LabelSettings(method=method), trusted)
    assert np.array_equal(pseudo.hard[trusted], weak[trusted])
    assert (pseudo.targets.max(1)[trusted] == 1).all()
    assert set(pseudo.why[trusted]) == {"trusted"}
    nobody = estimate_pseudo_labels(weak, q, features, LabelSettings(method=method), np.zeros(n, bool))
    assert np.array_equal(
        nobody.targets, estimate_pseudo_labels(weak, q, features, LabelSettings(method=method)).targets
    )


def test_a_known_prior_is_scaled():
    assert resolve_class_prior(LabelSettings(prior={"b": 3, "a": 1}), ("a", "b")).tolist() == [0.25, 0.75]
    assert resolve_class_prior(LabelSettings(), ("a", "b")) is None
