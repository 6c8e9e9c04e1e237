"""The nearest clips: exact below a number of clips, close to exact above it, and never of the same group."""

from __future__ import annotations

import numpy as np
import pytest

from skd_edge.labels.cleaning import knn_posterior
from skd_edge.labels.cleaning.neighbours import find_neighbours
from skd_edge.labels.cleaning.pseudo_labels import estimate_pseudo_labels
from skd_edge.labels.sources.noise_simulation import corrupt_labels
from skd_edge.recipe.labels import LabelSettings, NoiseSettings


def draw_unit_vectors(clips, features=16, seed=0):
    x = np.random.default_rng(seed).normal(size=(clips, features)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def list_nearest(x, groups, count):
    """By comparing all clips: rows of the ``count`` nearest clips of other groups."""
    similarity = x @ x.T
    similarity[groups[:, None] == groups] = -np.inf
    return np.argsort(-similarity, axis=1)[:, :count]


@pytest.mark.parametrize("clips_per_group", [1, 7])
def test_few_clips_have_their_exact_neighbours_of_other_groups(clips_per_group):
    x, groups = draw_unit_vectors(300), np.arange(300) // clips_per_group
    found = find_neighbours(x, groups, 10)
    assert np.array_equal(found.rows, list_nearest(x, groups, 10))
    assert np.allclose(found.similarity, np.take_along_axis(x @ x.T, found.rows, 1), atol=1e-6)


@pytest.mark.parametrize("exact_clips", [1000, 10])
def test_a_large_group_leaves_fewer_neighbours(exact_clips):
    groups = np.zeros(400, np.int64)
    groups[:3] = 1  # three clips face 397 of one group
    found = find_neighbours(draw_unit_vectors(400), groups, 10, exact_clips=exact_clips)
    assert np.isfinite(found.similarity[:3]).all()
    assert set(np.unique(np.isfinite(found.similarity[3:]).sum(1))) <= {0, 1, 2, 3}
    rows, columns = np.nonzero(np.isfinite(found.similarity))
    assert (groups[found.rows[rows, columns]] != groups[rows]).all()


def test_the_search_by_cells_finds_most_of_the_nearest_and_is_repeatable():
    rng = np.random.default_rng(1)
    x = draw_unit_vectors(40, 32)[rng.integers(0, 40, 6000)] + 0.15 * draw_unit_vectors(6000, 32, seed=2)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    groups = np.arange(6000)
    exact, cells = find_neighbours(x, groups, 30), find_neighbours(x, groups, 30, exact_clips=100)
    shared = [len(set(a) & set(b)) for a, b in zip(exact.rows, cells.rows, strict=True)]
    assert np.mean(shared) > 0.9 * 30
    assert all(len(set(rows)) == 30 for rows in cells.rows)
    assert np.array_equal(cells.rows, find_neighbours(x, groups, 30, exact_clips=100).rows)


@pytest.mark.parametrize("spread", [0.8, 1.6])
def test_labels_from_cells_are_at_most_half_a_point_worse_than_the_exact_ones(monkeypatch, spread):
    """Where classes overlap much, labels from cells are right more often: neighbours in other classes are left out."""
    clips, classes = 6000, 10
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.arange(clips) % classes)
    weak = corrupt_labels(truth, classes, NoiseSettings(kind="symmetric", rate=0.4), 0)
    predicted = np.where(rng.random(clips) < 0.7, truth, rng.integers(0, classes, clips))
    q = 0.5 * rng.dirichlet(np.ones(classes), clips)
    q[np.arange(clips), predicted] += 0.5
    features = rng.normal(size=(classes, 32))[truth] + spread * rng.normal(size=(clips, 32))
    right = []
    for exact_clips in (clips, 100):
        monkeypatch.setattr(
            knn_posterior, "find_neighbours", lambda *args, n=exact_clips: find_neighbours(*args, exact_clips=n)
        )
        labels = estimate_pseudo_labels(weak, q.astype(np.float32), features.astype(np.float32), LabelSettings()).hard
        right.append((labels == truth).mean())
    assert right[1] > right[0] - 0.005
    assert right[0] > 0.8
