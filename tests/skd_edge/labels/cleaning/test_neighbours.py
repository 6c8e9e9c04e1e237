"""The nearest clips: exact below a number of clips, close to exact above it, and never of the same group."""

from __future__ import annotations

import numpy as np
import pytest

from skd_edge.labels.cleaning import knn_posterior, neighbours
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


def draw_large_groups(clips, classes, groups, offset, spread=0.8, features=16):
    """Clips of a few large groups, each moved by an offset: true classes ``(N,)``, features ``(N, D)``, groups."""
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.arange(clips) % classes)
    group_of = rng.integers(0, groups, clips)
    noise = rng.normal(size=(clips, features))
    x = rng.normal(size=(classes, features))[truth] + spread * noise
    return truth, (x + offset * rng.normal(size=(groups, features))[group_of]).astype(np.float32), group_of


@pytest.mark.parametrize("sizes", [(9200, 5), (9200, 40), (4600, 4600), (4600, 4590, 7), (9200,), (3000, 3000, 3000)])
def test_each_clip_has_as_many_neighbours_as_there_are_clips_of_other_groups(sizes):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    x = draw_unit_vectors(len(groups)) + 2 * draw_unit_vectors(len(sizes), seed=3)[groups]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found = find_neighbours(x, groups, 30)
    exist = np.minimum(len(groups) - np.asarray(sizes)[groups], 30)
    assert np.array_equal(np.isfinite(found.similarity).sum(1), exist)
    rows, columns = np.nonzero(np.isfinite(found.similarity))
    assert (groups[found.rows[rows, columns]] != groups[rows]).all()
    assert all(len(set(of[:n].tolist())) == n for of, n in zip(found.rows, exist, strict=True))


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


@pytest.mark.parametrize(
    ("groups", "offset", "spread", "least"), [(0, 0, 0.8, 0.8), (0, 0, 1.6, 0.8), (4, 2, 0.8, 0.8), (15, 2, 0.8, 0.7)]
)
def test_labels_from_cells_are_at_most_half_a_point_worse_than_the_exact_ones(
    monkeypatch, groups, offset, spread, least
):
    """Where classes overlap much, labels from cells are right more often: neighbours in other classes are left out."""
    clips, classes = 12000, 10
    truth, features, group_of = draw_large_groups(clips, classes, groups or 1, offset, spread, 16 if groups else 32)
    rng = np.random.default_rng(1)
    weak = corrupt_labels(truth, classes, NoiseSettings(kind="symmetric", rate=0.4), 0)
    predicted = np.where(rng.random(clips) < 0.7, truth, rng.integers(0, classes, clips))
    q = 0.5 * rng.dirichlet(np.ones(classes), clips)
    q[np.arange(clips), predicted] += 0.5
    right = []
    for exact_clips in (clips, neighbours._EXACT_CLIPS):
        monkeypatch.setattr(
            knn_posterior, "find_neighbours", lambda *args, n=exact_clips: find_neighbours(*args, exact_clips=n)
        )
        labels = estimate_pseudo_labels(
            weak, q.astype(np.float32), features, LabelSettings(), groups=group_of if groups else None
        ).hard
        right.append((labels == truth).mean())
    assert right[1] > right[0] - 0.005
    assert right[0] > least
