"""From a recipe to weak labels: votes on real files, simulated annotators, clips without a label, trusted labels."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from skd_bench.errors import UserError
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.execution.job_graph import build_recipe_job_graph, fingerprint_of
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.labels.audit.label_report import build_label_report
from skd_edge.labels.dataset import load_training_data
from skd_edge.run_folder import Run


def test_votes_become_weak_labels(voted_videos, voted_cache, voted_recipe):
    data = load_training_data(voted_recipe(voted_videos), voted_cache)
    names, votes = data.clips.train.names, data.votes
    assert "2.mp4" not in names
    assert data.clips.quarantined[0]["path"] == "2.mp4"
    truth = np.array([int(n.split(".")[0]) % 3 for n in names])
    empty = np.array([n in ("0.mp4", "4.mp4") for n in names])
    assert np.array_equal(data.weak_labels < 0, empty)
    assert data.unlabelled_count == 2
    assert (data.weak_labels == truth)[~empty].mean() > 0.85
    assert data.truth is None
    # The votes of each row belong to the file of that name, although a clip before it is unreadable.
    table = {r["path"]: r for r in csv.DictReader((voted_videos / "index.csv").read_text().splitlines())}
    for name, given in zip(names, votes.given, strict=True):
        listed = [table[name][column].strip() for column in votes.annotators]
        assert [data.clips.classes[v] if v >= 0 else "" for v in given] == listed
    assert np.array_equal(votes.consensus.hard, data.weak_labels)
    assert np.array_equal(data.clips.train.labels, data.weak_labels)
    by_majority = load_training_data(voted_recipe(voted_videos, labels={"aggregate": "majority"}), voted_cache)
    assert by_majority.votes.consensus.confusion is None


def test_an_unlabelled_clip_has_no_target_of_its_own(voted_videos, voted_cache, voted_recipe, tmp_path):
    """Its target is zero if a job trains on weak labels; the job can be trained, and pseudo-labels cover every clip."""
    torch.set_num_threads(1)  # two threads on a busy machine wait for each other
    recipe = voted_recipe(voted_videos)
    data = load_training_data(recipe, voted_cache)
    job = build_recipe_job_graph(recipe, fingerprint_of(data), recipe.students)[0]
    with Run(tmp_path / "run", "x: 1") as run:
        engine = LocalExecutor(run, data, recipe.labels, inference_preprocessing(recipe.clip)[1])
        targets = engine._compute_targets(SimpleNamespace(labels=None, spec=job.spec))
        assert targets.dtype == np.float32
        assert np.array_equal(targets.sum(1), (data.weak_labels >= 0).astype(np.float32))
        assert np.array_equal(targets.argmax(1)[data.weak_labels >= 0], data.weak_labels[data.weak_labels >= 0])
        engine.train_job(job)
        pseudo = engine.pseudo_labels(job)
    assert np.allclose(pseudo.targets.sum(1), 1, atol=1e-5)
    assert set(pseudo.why[data.weak_labels < 0]) == {"unlabelled"}


@pytest.fixture
def labelled_recipe(voted_recipe):
    """Makes a recipe of the same clips with their true labels, for noise that the recipe adds."""

    def make(root, **labels):
        data = {"kind": "csv", "root": root, "label": "truth"} | {s: {"split": [s]} for s in ("train", "val", "test")}
        return voted_recipe(root, data=data, labels=labels)

    return make


def test_simulated_annotators(voted_videos, voted_cache, labelled_recipe):
    noise = {"kind": "voters", "rate": 0.3, "abstain": 0.5, "voters": 2}
    data = load_training_data(labelled_recipe(voted_videos, noise=noise), voted_cache)
    assert data.votes.annotators == ("voter 1", "voter 2")
    assert np.array_equal(data.weak_labels < 0, (data.votes.given < 0).all(1))
    assert 0 < data.unlabelled_count < 12
    facts = build_label_report(None, data)
    right = data.weak_labels == data.truth
    assert facts["accuracy_before"] == right.mean()  # an unlabelled clip counts as wrong
    assert data.injected_noise_rate == pytest.approx(1 - right[data.weak_labels >= 0].mean())
    assert [a["votes"] for a in facts["annotators"]] == [11, 11]  # 23 readable, 12 left out
    clean = load_training_data(labelled_recipe(voted_videos), voted_cache)
    assert clean.clips.train.hash == data.clips.train.hash
    assert clean.weak_hash != data.weak_hash
    assert clean.votes is None
    assert build_label_report(None, clean)["annotators"] == []


def test_no_labelled_clip_is_an_error(voted_videos, voted_cache, labelled_recipe):
    with pytest.raises(UserError, match=r"none of the 23 training clips has a label; lower labels\.noise\.abstain"):
        load_training_data(labelled_recipe(voted_videos, noise={"kind": "voters", "abstain": 1.0}), voted_cache)


def test_a_single_labelled_clip_is_an_error(voted_videos, voted_cache, labelled_recipe):
    noise = {"kind": "voters", "voters": 1, "abstain": 0.96}
    message = r"every labelled training clip is of class '\w+'; two classes are needed: lower labels\.noise\.abstain"
    with pytest.raises(UserError, match=message):
        load_training_data(labelled_recipe(voted_videos, noise=noise), voted_cache)


def test_trusted_labels_of_one_class_only_are_an_error(voted_videos, voted_cache, labelled_recipe, tmp_path):
    sheet = tmp_path / "audit.csv"
    sheet.write_text("clip,trusted\n" + "".join(f"{i}.mp4,grow\n" for i in (*range(18), *range(30, 36))))
    message = r"every labelled training clip is of class 'grow'; two classes are needed: label some clips of each class"
    with pytest.raises(UserError, match=message):
        load_training_data(labelled_recipe(voted_videos, trusted=sheet), voted_cache)


def test_a_class_that_loses_every_vote_is_an_error(voted_cache, voted_recipe, tmp_path):
    """Two good annotators outvote the only one who ever votes for 'rare'."""
    lines = ["path,label,anna,ben,guess,split"]
    lines += [f"{i}.mp4,,{c},{c},{'rare' if i < 2 else c},train" for i, c in enumerate("ab" * 20)]
    lines += [f"{s} {c}.mp4,{c},,,,{s}" for s in ("val", "test") for c in ("a", "b", "rare")]
    (tmp_path / "index.csv").write_text("\n".join(lines))
    with pytest.raises(
        UserError, match=r"no training clip has the label 'rare' after the votes are aggregated \(dawid-skene\)"
    ):
        load_training_data(voted_recipe(tmp_path), voted_cache)


def test_votes_and_simulated_noise_exclude_each_other(voted_videos, voted_recipe):
    with pytest.raises(ValueError, match=r"labels\.noise\.kind symmetric .* data\.votes"):
        voted_recipe(voted_videos, labels={"noise": {"kind": "symmetric", "rate": 0.2}})
    data = voted_recipe(voted_videos).data.model_dump() | {"votes": ["anna", "anna"]}
    with pytest.raises(ValueError, match="'anna' is named twice"):
        voted_recipe(voted_videos, data=data)


@pytest.fixture
def generated_recipe(voted_recipe):
    """Makes a recipe of a small generated set with this noise."""

    def make(**labels):
        data = {"kind": "generated", "train": 200, "val": 20, "test": 20, "frames": 4, "size": 16}
        return voted_recipe("", data=data, labels=labels)

    return make


def test_the_weak_model_is_fitted_on_clips_that_are_in_no_split(voted_cache, generated_recipe):
    noise = {"kind": "model", "rate": 0.75, "held_out": 0.3}
    data = load_training_data(generated_recipe(noise=noise), voted_cache)
    every = load_training_data(generated_recipe(), voted_cache)
    assert (len(every.clips.train), len(data.clips.train)) == (200, 140)
    assert set(data.clips.train.names) < set(every.clips.train.names)
    rows = [every.clips.train.names.index(name) for name in data.clips.train.names]
    assert np.array_equal(data.clips.train.clips, every.clips.train.clips[rows])
    assert np.array_equal(data.truth, every.clips.train.labels[rows])
    assert data.clips.train.hash != every.clips.train.hash
    assert (data.clips.val.hash, data.clips.test.hash) == (every.clips.val.hash, every.clips.test.hash)
    assert data.injected_noise_rate == pytest.approx(0.75, abs=0.03)
    again = load_training_data(generated_recipe(noise=noise), voted_cache)
    assert (again.weak_hash, again.clips.train.hash) == (data.weak_hash, data.clips.train.hash)
    clean = load_training_data(generated_recipe(noise=noise | {"rate": 0.0}), voted_cache)
    assert clean.clips.train.hash == data.clips.train.hash  # an upper bound on the same clips
    assert clean.injected_noise_rate == 0


def test_keyword_rules_leave_clips_unlabelled(voted_cache, generated_recipe):
    noise = {"kind": "keyword-rules", "rate": 0.25, "abstain": 0.2}
    data = load_training_data(generated_recipe(noise=noise), voted_cache)
    assert data.unlabelled_count == 40
    assert data.injected_noise_rate == 0.25
