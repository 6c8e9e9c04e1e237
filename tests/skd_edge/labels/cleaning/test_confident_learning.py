"""Confident learning finds planted errors; labels of absent classes and of a single class are handled."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from skd_bench.errors import UserError
from skd_edge.labels.cleaning.confident_learning import find_label_errors, require_cleanlab
from skd_edge.labels.cleaning.pseudo_labels import estimate_pseudo_labels
from skd_edge.labels.sources.noise_simulation import corrupt_labels
from skd_edge.recipe.labels import LabelSettings, NoiseSettings

N, CLASSES = 1000, 8


def planted(kind: str, rate: float, *, right=0.8, spread=0.6, seed=0):
    """True labels, weak labels, predictions with accuracy ``right``, and features of overlapping classes."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(N) % CLASSES)
    weak = corrupt_labels(truth, CLASSES, NoiseSettings(kind=kind, rate=rate), seed)
    predicted = np.where(rng.random(N) < right, truth, rng.integers(0, CLASSES, N))
    q = 0.5 * rng.dirichlet(np.ones(CLASSES), N)
    q[np.arange(N), predicted] += 0.5
    features = rng.normal(size=(CLASSES, 16))[truth] + spread * rng.normal(size=(N, 16))
    return truth, weak, q.astype(np.float32), features.astype(np.float32)


def test_pseudo_labels_repair_planted_noise():
    truth, weak, q, features = planted("symmetric", 0.2, right=0.97)
    pseudo = estimate_pseudo_labels(weak, q, features, LabelSettings(method="confident"))
    assert (pseudo.hard == truth).mean() > 0.93
    assert set(np.unique(pseudo.wrong)) <= {0.0, np.float32(0.49), 1.0}


def test_most_planted_errors_are_found_and_few_right_labels_are_flagged():
    truth, weak, q, _ = planted("symmetric", 0.2, right=0.97)
    found = find_label_errors(weak, q)
    assert found.shape == (N,)
    assert set(np.unique(found)) <= {0.0, 1.0}
    assert found[weak != truth].mean() > 0.9
    assert found[weak == truth].mean() < 0.05


def test_a_class_without_labels_is_left_out():
    """cleanlab needs a clip of every class; a class that no label names must not change the others' result."""
    _, weak, q, _ = planted("symmetric", 0.2, right=0.97)
    wider = np.pad(q, ((0, 0), (0, 2)))
    assert np.array_equal(find_label_errors(weak, wider), find_label_errors(weak, q))


@pytest.mark.parametrize("n", [1, 40])
def test_labels_of_one_class_are_not_errors(n):
    q = np.random.default_rng(0).dirichlet(np.ones(3), n).astype(np.float32)
    assert find_label_errors(np.full(n, 2), q).tolist() == [0.0] * n


def test_without_cleanlab_the_message_names_the_extra(monkeypatch):
    require_cleanlab()  # it is installed here
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"labels\.method 'confident' needs cleanlab; pip install 'skd-edge\[study\]'"):
        require_cleanlab()
