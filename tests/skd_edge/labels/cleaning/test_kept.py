"""Pseudo-labels on disk are the very same, and what cannot be read is estimated again."""

from __future__ import annotations

import numpy as np

from skd_edge.labels.cleaning.pseudo_label_files import read_pseudo_labels, write_pseudo_labels
from skd_edge.labels.cleaning.pseudo_labels import estimate_pseudo_labels
from skd_edge.recipe.labels import LabelSettings


def test_the_very_same(tmp_path):
    rng = np.random.default_rng(0)
    q = rng.dirichlet(np.ones(3), 60).astype(np.float32)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    made = estimate_pseudo_labels(rng.integers(-1, 3, 60), q, features, LabelSettings())
    write_pseudo_labels(tmp_path / "labels" / "x.npz", made)
    kept = read_pseudo_labels(tmp_path / "labels" / "x.npz")
    assert kept is not None
    assert made.evidence is not None
    assert kept.evidence is not None
    for name in ("targets", "wrong", "weak", "why"):
        assert getattr(kept, name).tobytes() == np.asarray(getattr(made, name)).tobytes(), name
    for name in ("opinion", "doubt", "instead"):
        assert np.array_equal(getattr(kept.evidence, name), getattr(made.evidence, name)), name
    assert kept.noise_rate == made.noise_rate


def test_nothing_there_or_half_of_it(tmp_path):
    assert read_pseudo_labels(tmp_path / "none.npz") is None
    write_pseudo_labels(
        tmp_path / "x.npz",
        estimate_pseudo_labels(
            np.zeros(30, int), np.full((30, 2), 0.5, np.float32), np.zeros((30, 2), np.float32), LabelSettings()
        ),
    )
    (tmp_path / "half.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:200])
    assert read_pseudo_labels(tmp_path / "half.npz") is None
