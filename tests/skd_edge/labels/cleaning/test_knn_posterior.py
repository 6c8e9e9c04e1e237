"""Evidence from neighbours: planted noise of both kinds is repaired; a clip's own label is not used as evidence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.distill.views import assign_folds
from skd_edge.labels.cleaning.knn_posterior import compute_posterior, estimate_noise_matrix, knn_class_probabilities
from skd_edge.labels.cleaning.pseudo_labels import estimate_pseudo_labels
from skd_edge.recipe.labels import LabelSettings

N, CLASSES = 1000, 8


@pytest.mark.parametrize(("kind", "rate"), [("symmetric", 0.2), ("symmetric", 0.4), ("classes", 0.4)])
def test_planted_noise_is_repaired(kind, rate, plant_noise):
    truth, weak, q, features = plant_noise(kind, rate)
    pseudo = estimate_pseudo_labels(weak, q, features, LabelSettings())
    assert (weak == truth).mean() == pytest.approx(1 - rate)
    assert (pseudo.hard == truth).mean() > 0.97
    assert pseudo.noise_rate == pytest.approx(rate, abs=0.04)


def test_pseudo_labels_are_better_than_the_network_and_than_the_labels(plant_noise):
    truth, weak, q, features = plant_noise("symmetric", 0.4, right=0.6, spread=1.2)
    right = (estimate_pseudo_labels(weak, q, features, LabelSettings()).hard == truth).mean()
    assert right > (q.argmax(1) == truth).mean() + 0.1
    assert right > (weak == truth).mean() + 0.1


@pytest.mark.parametrize(("kind", "rate"), [("symmetric", 0.0), ("symmetric", 0.4), ("classes", 0.4)])
def test_the_noise_matrix_is_found(kind, rate, plant_noise):
    truth, weak, q, features = plant_noise(kind, rate)
    matrix = estimate_noise_matrix(weak, knn_class_probabilities(weak, q, features))
    counted = np.array([[((truth == a) & (weak == b)).sum() for b in range(CLASSES)] for a in range(CLASSES)])
    assert np.abs(matrix - counted / counted.sum(1, keepdims=True)).max() < 0.12
    assert np.abs(np.diagonal(matrix).mean() - (1 - rate)) < 0.05


def test_a_clips_own_label_is_not_evidence(plant_noise):
    _, weak, q, features = plant_noise("symmetric", 0.4)
    other = weak.copy()
    other[0] = (weak[0] + 1) % CLASSES
    mine, theirs = (knn_class_probabilities(w, q, features)[0] for w in (weak, other))
    assert mine == pytest.approx(theirs, abs=0.01)  # the label has a small effect through the noise matrix only


def test_unlabelled_clips_get_pseudo_labels(plant_noise):
    """A third of the clips have no label; network and neighbours give them one, marked as unlabelled."""
    truth, weak, q, features = plant_noise("symmetric", 0.2)
    weak = np.where(np.arange(N) % 3 == 0, -1, weak)
    pseudo = estimate_pseudo_labels(weak, q, features, LabelSettings())
    none = weak < 0
    assert set(pseudo.why[none]) == {"unlabelled"}
    assert (pseudo.wrong[none] == 1).all()
    assert (pseudo.hard == truth)[none].mean() > 0.9
    assert (pseudo.hard == truth)[~none].mean() > 0.95


def test_folds_and_neighbours_respect_groups():
    groups = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5])
    part = assign_folds(groups, 3)
    assert all(len(set(part[groups == g])) == 1 for g in groups)
    assert set(part) == {0, 1, 2}
    alone = np.random.default_rng((9, 3)).permutation(9) % 3
    assert np.array_equal(assign_folds(np.arange(9), 3), alone)  # without groups, a plain permutation

    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 6)).astype(np.float32)
    weak, q = rng.integers(0, 2, 40), np.full((40, 2), 0.5, np.float32)
    single = knn_class_probabilities(weak, q, features, groups=np.arange(40))
    assert np.array_equal(single, knn_class_probabilities(weak, q, features))
    # Two equal clips, both labelled wrong: each confirms the other's label, unless they are in one group.
    features[:20, 0] += 20
    features[20:, 0] -= 20
    weak = np.repeat([0, 1], 20)
    features[1] = features[0] + 1e-4
    weak[:2] = 1
    pairs = np.arange(40)
    pairs[1] = 0
    assert (
        knn_class_probabilities(weak, q, features, groups=pairs)[0, 0]
        > knn_class_probabilities(weak, q, features)[0, 0]
    )


@pytest.mark.parametrize("method", ["neighbours", "mixture", "confident", "soft"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(1, 60), classes=st.integers(2, 5), missing=st.floats(0, 1))
def test_targets_are_probabilities_for_any_input(method, seed, n, classes, missing):
    """For any share of missing labels and any features."""
    rng = np.random.default_rng(seed)
    weak = np.where(rng.random(n) < missing, -1, rng.integers(0, classes, n))
    q = rng.dirichlet(np.full(classes, rng.choice([0.05, 1.0, 50.0])), n).astype(np.float32)
    features = rng.choice([0.0, 1.0, 1e4]) * rng.normal(size=(n, 5)).astype(np.float32)
    pseudo = estimate_pseudo_labels(weak, q, features.astype(np.float32), LabelSettings(method=method))
    assert np.isfinite(pseudo.targets).all()
    assert (pseudo.targets >= 0).all()
    assert np.allclose(pseudo.targets.sum(1), 1, atol=1e-4)
    assert ((pseudo.why == "unlabelled") == (weak < 0)).all()
    assert 0 <= pseudo.noise_rate <= 1


def test_the_method_soft_ignores_all_labels(plant_noise):
    _, weak, q, features = plant_noise("symmetric", 0.4)
    pseudo = estimate_pseudo_labels(weak, q, features, LabelSettings(method="soft"))
    assert np.allclose(pseudo.targets, q, atol=1e-6)
    assert set(pseudo.why) == {"replaced"}


def test_bayes_rule():
    """Class probabilities and a label with known noise, computed by hand."""
    matrix = np.array([[0.8, 0.2], [0.4, 0.6]])
    predicted = compute_posterior(np.array([0, 1, -1]), np.array([[0.5, 0.5], [0.9, 0.1], [0.3, 0.7]]), matrix)
    assert predicted == pytest.approx(np.array([[2 / 3, 1 / 3], [0.75, 0.25], [0.3, 0.7]]))
