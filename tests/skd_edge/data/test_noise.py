"""Label noise made by a recipe: exactly as much as asked, the same for the same seed."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.data.noise import corrupt
from skd_edge.recipe import Noise


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 300),
    classes=st.integers(2, 12),
    rate=st.floats(0, 1),
    kind=st.sampled_from(["symmetric", "classes"]),
    seed=st.integers(0, 2**31 - 1),
)
def test_exactly_the_rate_is_wrong(n, classes, rate, kind, seed):
    labels = np.random.default_rng(seed).integers(0, classes, n)
    before = labels.copy()
    noisy = corrupt(labels, classes, Noise(kind=kind, rate=rate), seed)
    assert (noisy != labels).sum() == round(rate * n)
    assert ((noisy >= 0) & (noisy < classes)).all()
    assert np.array_equal(labels, before)
    assert np.array_equal(noisy, corrupt(labels, classes, Noise(kind=kind, rate=rate), seed))
    if kind == "classes":
        wrong = noisy != labels
        assert np.array_equal(noisy[wrong], (labels[wrong] + 1) % classes)


def test_symmetric_noise_reaches_every_other_class_alike():
    labels = np.zeros(6000, np.int64)
    counts = np.bincount(corrupt(labels, 4, Noise(kind="symmetric", rate=0.5), 0), minlength=4)
    assert counts[0] == 3000
    assert np.abs(counts[1:] - 1000).max() < 5 * np.sqrt(1000)


def test_the_seed_says_which():
    labels, noise = np.zeros(100, np.int64), Noise(kind="symmetric", rate=0.4)
    assert not np.array_equal(corrupt(labels, 3, noise, 0), corrupt(labels, 3, noise, 1))


def test_no_noise_is_a_copy():
    labels = np.arange(5)
    kept = corrupt(labels, 5, Noise(kind="none", rate=0.9), 0)
    assert np.array_equal(kept, labels)
    assert kept is not labels
