"""Votes of existing models: bundles, ONNX files and tables of probabilities; abstentions, and files that do not fit."""

from __future__ import annotations

import shutil

import onnx
import pytest

from skd_bench.errors import UserError
from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.data.csv_files import write_sheet
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.sources.registry import list_clips
from skd_edge.labels.dataset import load_training_data
from skd_edge.labels.sources.annotators import add_annotators
from skd_edge.labels.sources.model_annotators import model_votes
from skd_edge.recipe.labels import ModelAnnotator
from skd_export.bundle.writer import ModelFile, write_bundle

CLASSES = ("blink", "grow", "spin_cw")


@pytest.fixture
def clips(videos, cache, recipe):
    """The training clips, and their preprocessing."""
    loaded = recipe(videos)
    entries = [e for e in list_clips(loaded.data, seed=0, cache=cache).entries if e.split == "train"]
    return entries, inference_preprocessing(loaded.clip)


def test_a_model_runs_on_the_clips_only_once(videos, cache, recipe, model, tmp_path):
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
    models = [
        {"name": "file", "onnx": model},
        {"name": "bundle", "bundle": bundle},
        {"name": "strange", "onnx": model, "classes": ["grow", "spin_cw", "stranger"]},
        {"name": "unsure", "onnx": model, "at_least": 0.9},
    ]
    progress_calls, loaded = [], recipe(videos, models=models)

    def list_with_votes():
        listing = list_clips(loaded.data, seed=0, cache=cache)
        preprocessing = inference_preprocessing(loaded.clip)
        return add_annotators(
            listing, loaded, preprocessing, cache, progress=lambda done, total: progress_calls.append((done, total))
        )

    listing = list_with_votes()
    assert listing.annotators == ("label", "file", "bundle", "strange", "unsure")
    votes = {e.name: e.votes[1:] for e in listing.entries if e.split == "train"}
    assert len(votes) == 21
    assert votes.pop("7.mp4") == ("", "", "", "")  # not a video
    assert set(votes.values()) == {("spin_cw", "spin_cw", "", "")}
    assert progress_calls[-1] == (21, 21)
    progress_calls.clear()
    assert list_with_votes() == listing
    assert not progress_calls


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clip,grow\n0.mp4,2.5\n", "from 0 to 1"),
        ("clip,grow\n0.mp4,much\n", "a number from 0 to 1"),
        ("clip,grow\n0.mp4,1\n0.mp4,1\n", "has a second row"),
        ("clip,other\n0.mp4,1\n", "none of the data's classes"),
        ("clip,grow\n", "contains no probabilities"),
    ],
)
def test_a_table_that_does_not_hold_probabilities(videos, cache, recipe, tmp_path, text, words):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        load_training_data(recipe(videos, models=[{"name": "m", "table": tmp_path / "p.csv"}]), cache)


@pytest.mark.parametrize(
    ("probabilities", "at_least", "vote"),
    [
        (("0.2", "0.5", "0.3"), 0.0, "grow"),
        (("0.2", "0.5", "0.3"), 0.5, "grow"),
        (("0.2", "0.5", "0.3"), 0.51, ""),
        (("0.4", "0.4", "0.2"), 0.0, "blink"),
        (("", "", ""), 0.0, ""),
    ],
)
def test_the_vote_is_the_most_probable_class(clips, tmp_path, probabilities, at_least, vote):
    entries, preprocessing = clips
    path = write_sheet(
        tmp_path / "p.csv", ["clip", *CLASSES], [["0.mp4", *probabilities], ["other.mp4", "1", "0", "0"]]
    )
    annotator = ModelAnnotator(name="m", table=path, at_least=at_least)
    votes = model_votes(annotator, entries, CLASSES, preprocessing)
    assert votes == [vote if e.name == "0.mp4" else "" for e in entries]  # clips without a row abstain


def test_a_class_that_the_data_does_not_have_abstains(clips, tmp_path):
    entries, preprocessing = clips
    rows = [[e.name, *(("0.9", "0.1") if i % 2 else ("0.1", "0.9"))] for i, e in enumerate(entries)]
    path = write_sheet(tmp_path / "p.csv", ["clip", "stranger", "grow"], rows)
    votes = model_votes(ModelAnnotator(name="m", table=path), entries, CLASSES, preprocessing)
    assert votes == ["" if i % 2 else "grow" for i in range(len(entries))]


def test_an_onnx_file_that_does_not_fit_the_clips(clips, model):
    entries, (sampling, preprocess) = clips
    with pytest.raises(UserError, match=r"takes input of shape .* but the recipe's clips have shape \(3, 2, 16, 16\)"):
        model_votes(ModelAnnotator(name="m", onnx=model), entries, CLASSES, (Sampling(2), preprocess))
    with pytest.raises(UserError, match="returns 3 logits, but 2 classes are given"):
        model_votes(ModelAnnotator(name="m", onnx=model, classes=CLASSES[:2]), entries, CLASSES, (sampling, preprocess))


@pytest.fixture
def split_model(model, tmp_path):
    """The same network with its last weights in a second file, which no hash covers; ONNX Runtime runs it."""
    path, network = tmp_path / "split.onnx", onnx.load(model)
    bias = network.graph.initializer[2]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias), bias.name))  # raw bytes can be moved
    onnx.save(network, path, save_as_external_data=True, location="weights.data", size_threshold=0)
    return path


@pytest.fixture
def bundle_of(clips, tmp_path):
    """Writes a bundle of one file, for the clips."""
    _, (sampling, preprocess) = clips

    def write(file):
        return write_bundle(
            tmp_path / "b",
            name="old",
            classes=list(CLASSES),
            sampling=sampling,
            preprocess=preprocess,
            models=[ModelFile(file, "fp32", "s", ["s"])],
            licences={},
            created_by="a test",
        )

    return write


def test_an_onnx_file_that_reads_another_file(clips, split_model):
    entries, preprocessing = clips
    annotator = ModelAnnotator(name="m", onnx=split_model)
    with pytest.raises(UserError, match=r"labels\.models: .*split\.onnx reads its tensors from another file"):
        model_votes(annotator, entries, CLASSES, preprocessing)


def test_a_bundle_whose_file_reads_another_file(clips, split_model, bundle_of):
    entries, preprocessing = clips
    bundle = bundle_of(split_model)
    shutil.copy(split_model.with_name("weights.data"), bundle)
    with pytest.raises(UserError, match="reads its tensors from another file"):
        model_votes(ModelAnnotator(name="m", bundle=bundle), entries, CLASSES, preprocessing)


def test_a_bundle_whose_file_was_changed(clips, model, bundle_of):
    entries, preprocessing = clips
    bundle = bundle_of(model)
    [file] = bundle.rglob("*.onnx")
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(UserError, match="is not the file in the manifest"):
        model_votes(ModelAnnotator(name="m", bundle=bundle), entries, CLASSES, preprocessing)
