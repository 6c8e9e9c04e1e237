"""Confident learning finds planted errors; labels of absent classes and of a single class are handled."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from skd_bench.errors import UserError
from skd_edge.labels.cleaning.confident_learning import find_label_errors, require_cleanlab
from skd_edge.labels.cleaning.pseudo_labels import estimate_pseudo_labels
from skd_edge.recipe.labels import LabelSettings

N, CLASSES = 1000, 8


def test_pseudo_labels_repair_planted_noise(plant_noise):
    truth, weak, q, features = plant_noise("symmetric", 0.2, right=0.97)
    pseudo = estimate_pseudo_labels(weak, q, features, LabelSettings(method="confident"))
    assert (pseudo.hard == truth).mean() > 0.93
    assert set(np.unique(pseudo.wrong)) <= {0.0, np.float32(0.49), 1.0}


def test_most_planted_errors_are_found_and_few_right_labels_are_flagged(plant_noise):
    truth, weak, q, _ = plant_noise("symmetric", 0.2, right=0.97)
    found = find_label_errors(weak, q)
    assert found.shape == (N,)
    assert set(np.unique(found)) <= {0.0, 1.0}
    assert found[weak != truth].mean() > 0.9
    assert found[weak == truth].mean() < 0.05


def test_a_class_without_labels_is_left_out(plant_noise):
    """cleanlab needs a clip of every class; a class that no label names must not change the others' result."""
    _, weak, q, _ = plant_noise("symmetric", 0.2, right=0.97)
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
