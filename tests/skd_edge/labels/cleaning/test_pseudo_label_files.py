"""The file of pseudo-labels: what is read equals what was written; a damaged file reads as None."""

from __future__ import annotations

import numpy as np

from skd_edge.labels.cleaning.pseudo_label_files import read_pseudo_labels, write_pseudo_labels
from skd_edge.labels.cleaning.pseudo_labels import PseudoLabels, estimate_pseudo_labels
from skd_edge.recipe.labels import LabelSettings


def test_what_is_read_equals_what_was_written(tmp_path):
    rng = np.random.default_rng(0)
    q = rng.dirichlet(np.ones(3), 60).astype(np.float32)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    estimated = estimate_pseudo_labels(rng.integers(-1, 3, 60), q, features, LabelSettings())
    write_pseudo_labels(tmp_path / "labels" / "x.npz", estimated)
    stored = read_pseudo_labels(tmp_path / "labels" / "x.npz")
    assert stored is not None
    assert estimated.evidence is not None
    assert stored.evidence is not None
    for name in ("targets", "wrong", "weak", "why"):
        assert getattr(stored, name).tobytes() == np.asarray(getattr(estimated, name)).tobytes(), name
    for name in ("class_probabilities", "p_wrong", "alternative"):
        assert np.array_equal(getattr(stored.evidence, name), getattr(estimated.evidence, name)), name
    assert stored.noise_rate == estimated.noise_rate


def test_a_missing_or_truncated_file_reads_as_none(tmp_path):
    assert read_pseudo_labels(tmp_path / "none.npz") is None
    write_pseudo_labels(
        tmp_path / "x.npz",
        estimate_pseudo_labels(
            np.zeros(30, int), np.full((30, 2), 0.5, np.float32), np.zeros((30, 2), np.float32), LabelSettings()
        ),
    )
    whole = (tmp_path / "x.npz").read_bytes()
    for damaged in (b"", whole[:200], whole[:-1], whole[:300] + bytes([whole[300] ^ 1]) + whole[301:]):
        (tmp_path / "half.npz").write_bytes(damaged)
        assert read_pseudo_labels(tmp_path / "half.npz") is None


def test_pseudo_labels_without_evidence(tmp_path):
    weak = np.array([0, 1, -1])
    why = np.array(["kept", "kept", "unlabelled"])
    plain = PseudoLabels(np.full((3, 2), 0.5, np.float32), np.zeros(3, np.float32), weak, why, 0.25)
    write_pseudo_labels(tmp_path / "x.npz", plain)
    stored = read_pseudo_labels(tmp_path / "x.npz")
    assert stored is not None
    assert stored.evidence is None
    assert stored.noise_rate == 0.25
    assert stored.why.tolist() == why.tolist()


def test_a_file_of_another_kind_reads_as_none(tmp_path):
    np.savez(tmp_path / "x.npz", targets=np.zeros((2, 2)))
    assert read_pseudo_labels(tmp_path / "x.npz") is None
    (tmp_path / "y.npz").write_text("not a zip file")
    assert read_pseudo_labels(tmp_path / "y.npz") is None
