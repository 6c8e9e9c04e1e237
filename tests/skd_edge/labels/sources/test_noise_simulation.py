"""Simulated label noise: exactly the requested rate, equal for equal seeds."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.labels.sources.noise_simulation import (
    compute_voter_error_rates,
    corrupt_labels,
    simulate_votes,
)
from skd_edge.recipe.labels import NoiseSettings


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
    noisy = corrupt_labels(labels, classes, NoiseSettings(kind=kind, rate=rate), seed)
    assert (noisy != labels).sum() == round(rate * n)
    assert ((noisy >= 0) & (noisy < classes)).all()
    assert np.array_equal(labels, before)
    assert np.array_equal(noisy, corrupt_labels(labels, classes, NoiseSettings(kind=kind, rate=rate), seed))
    if kind == "classes":
        wrong = noisy != labels
        assert np.array_equal(noisy[wrong], (labels[wrong] + 1) % classes)


def test_symmetric_noise_is_uniform_over_the_other_classes():
    labels = np.zeros(6000, np.int64)
    counts = np.bincount(corrupt_labels(labels, 4, NoiseSettings(kind="symmetric", rate=0.5), 0), minlength=4)
    assert counts[0] == 3000
    assert np.abs(counts[1:] - 1000).max() < 5 * np.sqrt(1000)


def test_the_seed_decides_which_labels_are_wrong():
    labels, noise = np.zeros(100, np.int64), NoiseSettings(kind="symmetric", rate=0.4)
    assert not np.array_equal(corrupt_labels(labels, 3, noise, 0), corrupt_labels(labels, 3, noise, 1))


def test_no_noise_is_a_copy():
    labels = np.arange(5)
    copied = corrupt_labels(labels, 5, NoiseSettings(kind="none", rate=0.9), 0)
    assert np.array_equal(copied, labels)
    assert copied is not labels


def test_unlabelled_clips_stay_unlabelled():
    labels = np.array([0, -1, 1, -1, 2, 0, 1, 2])
    for kind in ("symmetric", "classes"):
        noisy = corrupt_labels(labels, 3, NoiseSettings(kind=kind, rate=0.5), 0)
        assert np.array_equal(noisy < 0, labels < 0)
        assert (noisy != labels).sum() == 3
    votes = simulate_votes(labels, 3, NoiseSettings(kind="voters", rate=0.5), 0)
    assert (votes[labels < 0] == -1).all()


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 200),
    classes=st.integers(2, 8),
    rate=st.floats(0, 1),
    abstain=st.floats(0, 1),
    voters=st.integers(1, 7),
    seed=st.integers(0, 2**31 - 1),
)
def test_annotators_err_and_abstain_exactly_at_their_rates(n, classes, rate, abstain, voters, seed):
    labels = np.random.default_rng(seed).integers(0, classes, n)
    noise = NoiseSettings(kind="voters", rate=rate, abstain=abstain, voters=voters)
    votes, rates = simulate_votes(labels, classes, noise, seed), compute_voter_error_rates(noise)
    assert votes.shape == (n, voters)
    assert votes.min(initial=0) >= -1
    assert votes.max(initial=-1) < classes
    left_out = (votes < 0).sum(0)
    assert (left_out == round(abstain * n)).all()
    wrong = ((votes != labels[:, None]) & (votes >= 0)).sum(0)
    assert wrong.tolist() == [round(r * (n - round(abstain * n))) for r in rates]
    assert np.isclose(rates.mean(), rate)
    assert ((rates >= 0) & (rates <= 1)).all()
    assert np.array_equal(votes, simulate_votes(labels, classes, noise, seed))


def test_annotators_differ_and_have_habitual_errors():
    labels = np.zeros(4000, np.int64)
    votes = simulate_votes(labels, 5, NoiseSettings(kind="voters", rate=0.4, abstain=0.0), 3)
    shares = [np.bincount(v, minlength=5) / 4000 for v in votes.T]
    assert np.allclose([1 - s[0] for s in shares], [0.1, 0.25, 0.4, 0.55, 0.7])
    for share in shares:  # half of the errors go to one class, the rest to all four equally
        assert np.allclose(np.sort(share[1:])[::-1] / share[1:].sum(), [0.625, 0.125, 0.125, 0.125], atol=0.06)
