"""Balanced sampling: expected numbers of draws, equal classes at full balance, and unlabelled clips as a class."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skd_edge.data.sampling import draw_balanced_rows


@given(st.lists(st.integers(0, 4), min_size=2, max_size=200), st.floats(0, 1), st.integers(0, 9))
def test_each_clip_is_drawn_as_often_as_expected(labels, balance, seed):
    targets = np.eye(5, dtype=np.float32)[labels]
    rows = draw_balanced_rows(targets, balance, np.random.default_rng(seed))
    assert len(rows) == len(labels)
    counts = np.bincount(labels, minlength=5)
    weight = np.where(counts > 0, counts, 1)[labels] ** -float(balance)
    expected = weight / weight.sum() * len(labels)
    drawn = np.bincount(rows, minlength=len(labels))
    assert (np.abs(drawn - expected) <= 1 + 1e-6).all()


def test_full_balance_draws_every_class_equally_often():
    labels = np.repeat([0, 1], [380, 20])
    rows = draw_balanced_rows(np.eye(2, dtype=np.float32)[labels], 1.0, np.random.default_rng(0))
    assert abs((labels[rows] == 1).sum() - 200) <= 20
    assert np.array_equal(
        draw_balanced_rows(np.eye(2, dtype=np.float32)[labels], 0.0, np.random.default_rng(1)), np.arange(400)
    )


def test_unlabelled_clips_count_as_one_more_class():
    targets = np.zeros((60, 2), np.float32)
    targets[:40, 0] = 1
    targets[40:50, 1] = 1
    rows = draw_balanced_rows(targets, 1.0, np.random.default_rng(0))
    counts = np.histogram(rows, bins=(0, 40, 50, 60))[0]
    assert np.abs(counts - 20).max() <= 10  # twenty of each class; without balance forty, ten, ten
    assert counts[0] < 30 < 60 - counts[0]


def test_rows_are_sorted_and_depend_on_the_generator():
    targets = np.eye(3, dtype=np.float32)[np.repeat([0, 1, 2], [50, 8, 2])]
    one, same, other = (draw_balanced_rows(targets, 0.7, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(one, np.sort(one))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
