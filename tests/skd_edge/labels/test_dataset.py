"""From a recipe to weak labels: votes on real files, simulated voters, clips that nobody labelled."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from skd_bench.errors import UserError
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.execution.job_graph import build_recipe_job_graph, fingerprint_of
from skd_edge.execution.local_executor import LocalExecutor, _write_pseudo_label_sheet
from skd_edge.labels.audit.label_report import build_label_report
from skd_edge.labels.cleaning.pseudo_labels import PseudoLabels
from skd_edge.labels.dataset import load_training_data
from skd_edge.recipe.schema import Recipe
from skd_edge.report.schema import LabelReport
from skd_edge.run_folder import Run









def test_votes_become_weak_labels(videos, cache):
    material = load_training_data(recipe(videos), cache)
    names, votes = material.clips.train.names, material.votes
    assert "2.mp4" not in names
    assert material.clips.quarantined[0]["path"] == "2.mp4"
    truth = np.array([int(n.split(".")[0]) % 3 for n in names])
    empty = np.array([n in ("0.mp4", "4.mp4") for n in names])
    assert np.array_equal(material.weak_labels < 0, empty)
    assert material.unlabelled_count == 2
    assert (material.weak_labels == truth)[~empty].mean() > 0.85
    assert material.truth is None
    # Row by row the votes are those of the file that bears the name, though one before it was not readable.
    table = {r["path"]: r for r in csv.DictReader((videos / "index.csv").read_text().splitlines())}
    for name, given in zip(names, votes.given, strict=True):
        said = [table[name][column].strip() for column in votes.annotators]
        assert [CLASSES[v] if v >= 0 else "" for v in given] == said
    assert np.array_equal(votes.consensus.hard, material.weak_labels)
    assert np.array_equal(material.clips.train.labels, material.weak_labels)
    by_majority = load_training_data(recipe(videos, labels={"aggregate": "majority"}), cache)
    assert by_majority.votes.consensus.confusion is None




def test_an_unlabelled_clip_has_no_target_of_its_own(videos, cache, tmp_path):
    """Zeros where a job learns from weak labels; a job trains through, and its pseudo-labels cover every clip."""
    torch.set_num_threads(1)  # two threads on a busy machine wait for each other
    told = recipe(videos)
    material = load_training_data(told, cache)
    node = build_recipe_job_graph(told, fingerprint_of(material), told.students)[0]
    with Run(tmp_path / "run", "x: 1") as run:
        engine = LocalExecutor(run, material, told.labels, inference_preprocessing(told.clip)[1])
        targets = engine._compute_targets(SimpleNamespace(labels=None, job=node.spec))
        assert targets.dtype == np.float32
        assert np.array_equal(targets.sum(1), (material.weak_labels >= 0).astype(np.float32))
        assert np.array_equal(
            targets.argmax(1)[material.weak_labels >= 0], material.weak_labels[material.weak_labels >= 0]
        )
        engine.train_job(node)
        pseudo = engine.pseudo_labels(node)
    assert np.allclose(pseudo.targets.sum(1), 1, atol=1e-5)
    assert set(pseudo.why[material.weak_labels < 0]) == {"unlabelled"}


def known(root, **labels):
    """The same clips with a true label each, for noise that the recipe makes."""
    data = {"kind": "csv", "root": root, "label": "truth"} | {s: {"split": [s]} for s in ("train", "val", "test")}
    return Recipe.model_validate(BASE | {"data": data, "labels": labels})


def test_simulated_voters(videos, cache):
    noise = {"kind": "voters", "rate": 0.3, "abstain": 0.5, "voters": 2}
    material = load_training_data(known(videos, noise=noise), cache)
    assert material.votes.annotators == ("voter 1", "voter 2")
    assert np.array_equal(material.weak_labels < 0, (material.votes.given < 0).all(1))
    assert 0 < material.unlabelled_count < 12
    facts = build_label_report(None, material)
    right = material.weak_labels == material.truth
    assert facts["accuracy_before"] == right.mean()  # an unlabelled clip is not right
    assert material.injected_noise_rate == pytest.approx(1 - right[material.weak_labels >= 0].mean())
    assert [a["votes"] for a in facts["annotators"]] == [11, 11]  # 23 readable, 12 left out
    clean = load_training_data(known(videos), cache)
    assert clean.clips.train.hash == material.clips.train.hash
    assert clean.weak_hash != material.weak_hash
    assert clean.votes is None
    assert build_label_report(None, clean)["annotators"] == []


def test_nothing_to_learn_from(videos, cache):
    with pytest.raises(UserError, match=r"none of the 23 training clips has a label; lower labels\.noise\.abstain"):
        load_training_data(known(videos, noise={"kind": "voters", "abstain": 1.0}), cache)


def test_one_clip_that_is_labelled_teaches_nothing(videos: Path, cache: Path) -> None:
    noise = {"kind": "voters", "voters": 1, "abstain": 0.96}
    said = r"every labelled training clip is of class '\w+'; two are needed: lower labels\.noise\.abstain"
    with pytest.raises(UserError, match=said):
        load_training_data(known(videos, noise=noise), cache)  # type: ignore[no-untyped-call]


def test_trusted_labels_of_one_class_teach_nothing(videos: Path, cache: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "audit.csv"
    sheet.write_text("clip,trusted\n" + "".join(f"{i}.mp4,grow\n" for i in range(36)))
    said = r"every labelled training clip is of class 'grow'; two are needed: label some clips of each class"
    with pytest.raises(UserError, match=said):
        load_training_data(known(videos, trusted=sheet), cache)  # type: ignore[no-untyped-call]


def test_a_class_that_no_consensus_names(cache, tmp_path):
    """Two good annotators outvote the only one who ever says 'rare'."""
    lines = ["path,label,anna,ben,guess,split"]
    lines += [f"{i}.mp4,,{c},{c},{'rare' if i < 2 else c},train" for i, c in enumerate("ab" * 20)]
    lines += [f"{s} {c}.mp4,{c},,,,{s}" for s in ("val", "test") for c in ("a", "b", "rare")]
    (tmp_path / "index.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"the votes \(dawid-skene\) agree on class 'rare' for no training clip"):
        load_training_data(recipe(tmp_path), cache)


def test_votes_and_made_noise_exclude_each_other(videos):
    with pytest.raises(ValueError, match=r"labels\.noise\.kind symmetric .* data\.votes"):
        recipe(videos, labels={"noise": {"kind": "symmetric", "rate": 0.2}})
    data = recipe(videos).data.model_dump() | {"votes": ["anna", "anna"]}
    with pytest.raises(ValueError, match="'anna' is named twice"):
        Recipe.model_validate(BASE | {"data": data})
