"""Label facts of the report and of the audit: counts that add up, accuracies, annotators, siblings."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from skd_bench.stats import Interval
from skd_edge.execution.finished_jobs import _write_pseudo_label_sheet
from skd_edge.labels.audit.label_errors import NoiseEstimate
from skd_edge.labels.audit.label_report import (
    _compute_sibling_share,
    audit_summary,
    build_label_report,
    count_per_class,
    describe_annotators,
)
from skd_edge.labels.cleaning.pseudo_labels import PseudoLabels, estimate_pseudo_labels
from skd_edge.labels.dataset import load_training_data
from skd_edge.recipe.labels import LabelSettings
from skd_edge.report.schema import LabelReport

CLASSES = ("blink", "grow", "spin_cw")


def test_label_facts_and_the_sheet_of_pseudo_labels(voted_videos, voted_cache, voted_recipe, tmp_path):
    data = load_training_data(voted_recipe(voted_videos), voted_cache)
    n, weak = len(data.weak_labels), data.weak_labels
    targets = np.eye(3, dtype=np.float32)[np.where(weak < 0, 1, weak)]
    why = np.where(weak < 0, "unlabelled", "kept")
    pseudo = PseudoLabels(targets, (weak < 0).astype(np.float32), weak, why, 0.1)
    facts = json.loads(json.dumps(build_label_report(pseudo, data)))
    LabelReport.model_validate(facts)
    assert (facts["unlabelled"], facts["changed"], facts["unchanged"], facts["n"]) == (2, 0, n - 2, n)
    assert facts["accuracy_before"] is None
    assert sum(facts["class_shares_before"].values()) == pytest.approx((n - 2) / n)
    assert sum(facts["class_shares_after"].values()) == pytest.approx(1)
    assert all(e["weak"] in CLASSES for e in facts["examples"])
    quality = {a["name"]: a for a in facts["annotators"]}
    assert quality["anna"]["accuracy"] > 0.85 > quality["guess"]["accuracy"]
    assert quality["guess"]["votes"] == 22  # the accuracy is estimated on every listed clip, also on the unreadable one
    _write_pseudo_label_sheet(tmp_path / "labels.csv", pseudo, data)
    rows = list(csv.DictReader((tmp_path / "labels.csv").read_text().splitlines()))
    assert [r["clip"] for r in rows if r["weak"] == ""] == ["0.mp4", "4.mp4"]
    assert {r["pseudo"] for r in rows if r["weak"] == ""} == {"grow"}
    for row, given, sure in zip(rows, data.votes.given, data.votes.consensus.probabilities, strict=True):
        assert [row[f"vote of {a}"] for a in ("anna", "ben", "guess")] == [CLASSES[v] if v >= 0 else "" for v in given]
        assert float(row["agreed"]) == pytest.approx(sure.max(), abs=1e-4)


@pytest.fixture
def audited(voted_videos, voted_cache, voted_recipe):
    """Training data with votes, and pseudo-labels from a network that is right on every clip."""
    data = load_training_data(voted_recipe(voted_videos), voted_cache)
    truth = np.array([int(name.split(".")[0]) % 3 for name in data.clips.train.names])
    q = np.full((len(truth), 3), 0.05, np.float32)
    q[np.arange(len(truth)), truth] = 0.9
    features = (np.eye(3)[truth] + 0.1 * np.random.default_rng(0).normal(size=(len(truth), 3))).astype(np.float32)
    return data, estimate_pseudo_labels(data.weak_labels, q, features, LabelSettings())


def test_the_audit_counts_every_clip(audited):
    data, pseudo = audited
    found = json.loads(json.dumps(audit_summary(pseudo, data)))
    assert (found["clips"], found["unlabelled"], found["trusted"]) == (len(data.weak_labels), 2, 0)
    assert sum(c["labelled"] for c in found["classes"]) == found["clips"] - 2
    assert sum(c["after"] for c in found["classes"]) == found["clips"]
    assert [c["class"] for c in found["classes"]] == found["noise"]["classes"] == list(CLASSES)
    assert np.allclose(np.sum(found["noise"]["matrix"], axis=1), 1)
    assert (np.array(found["noise"]["low"]) <= np.array(found["noise"]["high"])).all()
    assert found["noise"]["within_parent"] is None  # these classes have no parents
    assert found["known_rate"] is None
    assert found["annotators"] == describe_annotators(data)


def test_trusted_labels_are_counted_apart(audited):
    data, pseudo = audited
    trusted = np.full(len(data.weak_labels), -1)
    trusted[np.flatnonzero(data.weak_labels == 1)[:2]] = 1
    data = replace(data, trusted_labels=trusted)
    assert audit_summary(pseudo, data)["trusted"] == 2
    assert [c["trusted"] for c in count_per_class(pseudo, data)] == [0, 2, 0]


@pytest.mark.parametrize(("sibling", "other", "share"), [(0.2, 0.0, 1.0), (0.0, 0.2, 0.0), (0.3, 0.1, 0.75)])
def test_the_share_of_wrong_labels_within_a_parent(sibling, other, share):
    right = 1 - sibling - other
    matrix = np.array([[right, sibling, other], [sibling, right, other], [0.0, 0.0, 1.0]])
    noise = NoiseEstimate(Interval(0.2, 0.1, 0.3, 0.95), matrix, matrix, matrix)
    assert _compute_sibling_share(noise, ("turn/left", "turn/right", "wave")) == pytest.approx(share)
    assert _compute_sibling_share(noise, ("left", "right", "wave")) is None


def test_labels_without_noise_have_no_wrong_labels_within_a_parent():
    noise = NoiseEstimate(Interval(0.0, 0.0, 0.0, 0.95), np.eye(3), np.eye(3), np.eye(3))
    assert _compute_sibling_share(noise, ("turn/left", "turn/right", "wave")) == 0


def test_without_pseudo_labels_only_the_weak_labels_are_described(audited):
    data, _ = audited
    facts = build_label_report(None, data)
    LabelReport.model_validate(facts)
    assert "changed" not in facts
    assert facts["n"] == len(data.weak_labels)
    assert build_label_report(None, replace(data, truth=data.weak_labels))["accuracy_before"] == 1


def test_no_votes_no_annotators(audited):
    data, _ = audited
    assert describe_annotators(replace(data, votes=None)) == []
