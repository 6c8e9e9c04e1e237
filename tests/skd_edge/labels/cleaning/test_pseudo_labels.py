"""Pseudo-labels: planted noise is repaired, clean labels stay, and no class loses all clips."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.labels.cleaning.pseudo_labels import PseudoLabels, estimate_pseudo_labels
from skd_edge.labels.sources.noise_simulation import corrupt_labels
from skd_edge.recipe.labels import LabelSettings, NoiseSettings

SETTINGS = LabelSettings()


@pytest.fixture(autouse=True)
def quiet():
    """The fit of the mixture may warn about few distinct values; a run does not show such warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def predict(predicted: np.ndarray, classes: int, confidence: float, rng: np.random.Generator) -> np.ndarray:
    """Probabilities whose largest is at ``predicted``, with about the value ``confidence``."""
    q = rng.dirichlet(np.ones(classes), len(predicted)) * (1 - confidence)
    q[np.arange(len(predicted)), predicted] += confidence
    return (q / q.sum(1, keepdims=True)).astype(np.float32)


def make_features(truth: np.ndarray, classes: int, rng: np.random.Generator, spread: float = 0.3) -> np.ndarray:
    """Features scattered around a centre for each class."""
    centres = rng.normal(size=(classes, 16))
    return (centres[truth] + spread * rng.normal(size=(len(truth), 16))).astype(np.float32)


def planted(rate: float, *, n=800, classes=8, right=0.9, seed=0):
    """True labels, weak labels with symmetric noise, predictions of a good network, and its features."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(n) % classes)
    weak = corrupt_labels(truth, classes, NoiseSettings(kind="symmetric", rate=rate), seed)
    predicted = np.where(rng.random(n) < right, truth, rng.integers(0, classes, n))
    return truth, weak, predict(predicted, classes, 0.7, rng), make_features(truth, classes, rng)


def check(pseudo: PseudoLabels, n: int, classes: int) -> None:
    assert pseudo.targets.shape == (n, classes)
    assert pseudo.targets.dtype == np.float32
    assert np.isfinite(pseudo.targets).all()
    assert np.allclose(pseudo.targets.sum(1), 1, atol=1e-5)
    assert (pseudo.targets >= 0).all()
    assert ((pseudo.wrong >= 0) & (pseudo.wrong <= 1)).all()
    assert set(pseudo.why) <= {"kept", "replaced", "uncertain", "guarded"}


@pytest.mark.parametrize("prototypes", [True, False])
@pytest.mark.parametrize("rate", [0.2, 0.4])
def test_planted_noise_is_mostly_repaired(rate, prototypes):
    truth, weak, q, features = planted(rate)
    pseudo = estimate_pseudo_labels(weak, q, features, LabelSettings(method="mixture", prototypes=prototypes))
    check(pseudo, 800, 8)
    before, after = (weak == truth).mean(), (pseudo.hard == truth).mean()
    assert before == pytest.approx(1 - rate)
    assert after > before + 0.4 * rate
    assert 0.5 * rate < pseudo.noise_rate < 1.2 * rate
    wrong = weak != truth
    assert (pseudo.hard == truth)[~wrong].mean() > 0.9
    assert pseudo.wrong[wrong].mean() > 0.55
    assert pseudo.wrong[~wrong].mean() < 0.2


def test_prototypes_help_where_the_network_errs():
    truth, weak, q, features = planted(0.4, right=0.75)
    plain, sharpened = (
        estimate_pseudo_labels(weak, q, features, LabelSettings(method="mixture", prototypes=p)) for p in (False, True)
    )
    assert (sharpened.hard == truth).mean() >= (plain.hard == truth).mean()


def test_clean_labels_with_a_confident_right_network_stay():
    rng = np.random.default_rng(0)
    weak = rng.permutation(np.arange(400) % 5)
    pseudo = estimate_pseudo_labels(weak, predict(weak, 5, 0.95, rng), make_features(weak, 5, rng), SETTINGS)
    assert np.array_equal(pseudo.hard, weak)
    assert set(pseudo.why) == {"kept"}
    assert pseudo.noise_rate < 0.02
    assert pseudo.targets[np.arange(400), weak].min() > 0.9


def test_uniform_predictions_change_no_label():
    rng = np.random.default_rng(0)
    weak = rng.integers(0, 4, 200)
    pseudo = estimate_pseudo_labels(weak, np.full((200, 4), 0.25, np.float32), make_features(weak, 4, rng), SETTINGS)
    assert np.array_equal(pseudo.hard, weak)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 80),
    classes=st.integers(2, 6),
    share=st.floats(0, 1),
    sharpness=st.floats(0.05, 5),
    prototypes=st.booleans(),
)
def test_a_class_retains_its_share_for_any_predictions(seed, n, classes, share, sharpness, prototypes):
    """Rows sum to 1, and each class retains its share of clips with at least half of the weight on the weak label."""
    rng = np.random.default_rng(seed)
    weak = rng.integers(0, classes, n)
    q = rng.dirichlet(np.full(classes, sharpness), n).astype(np.float32)
    features = rng.normal(size=(n, 5)).astype(np.float32)
    pseudo = estimate_pseudo_labels(
        weak, q, features, LabelSettings(method="mixture", min_class_share=share, prototypes=prototypes)
    )
    check(pseudo, n, classes)
    own = pseudo.targets[np.arange(n), weak]
    for c in np.unique(weak):
        members = weak == c
        assert (own[members] >= 0.5 - 1e-6).sum() >= share * members.sum() - 1e-9
    again = estimate_pseudo_labels(
        weak, q, features, LabelSettings(method="mixture", min_class_share=share, prototypes=prototypes)
    )
    assert np.array_equal(pseudo.targets, again.targets)


def test_a_class_that_the_network_never_predicts_retains_its_share():
    """The network predicts class 0 for every clip; the other classes retain their share."""
    rng = np.random.default_rng(0)
    weak = np.arange(300) % 3
    q = predict(np.zeros(300, np.int64), 3, 0.97, rng)
    pseudo = estimate_pseudo_labels(
        weak, q, make_features(np.zeros(300, np.int64), 3, rng), LabelSettings(min_class_share=0.3)
    )
    for c in (1, 2):
        assert (pseudo.hard[weak == c] == c).sum() >= 30


def test_a_class_share_of_1_retains_every_label():
    _, weak, q, features = planted(0.4)
    pseudo = estimate_pseudo_labels(weak, q, features, LabelSettings(min_class_share=1.0))
    assert np.array_equal(pseudo.hard, weak)
    assert (pseudo.why == "guarded").sum() > 200


def test_a_rare_class_retains_clips():
    """Six of 800 clips are of a ninth class that the network never predicts."""
    truth, weak, q, features = planted(0.4)
    rng = np.random.default_rng(1)
    rare = rng.permutation(800)[:6]
    truth[rare] = weak[rare] = 8
    q = np.pad(q, ((0, 0), (0, 1)))
    features[rare] = rng.normal(4, 0.3, (6, 16))
    pseudo = estimate_pseudo_labels(weak, q, features, SETTINGS)
    check(pseudo, 800, 9)
    assert (pseudo.hard[rare] == 8).sum() >= 2


def test_a_clip_without_a_prediction_retains_its_weak_label():
    """A row of zeros is not a prediction: batches leave out the last few clips of an epoch."""
    _, weak, q, features = planted(0.4)
    q[::10] = 0
    pseudo = estimate_pseudo_labels(weak, q, features, SETTINGS)
    check(pseudo, 800, 8)
    assert np.array_equal(pseudo.hard[::10], weak[::10])
    assert set(pseudo.why[::10]) == {"kept"}


@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_all_labels_equal(n):
    rng = np.random.default_rng(0)
    weak = np.full(n, 1)
    for q in (rng.dirichlet(np.ones(3), n), np.full((n, 3), 1 / 3), np.eye(3)[np.zeros(n, int)]):
        pseudo = estimate_pseudo_labels(
            weak, q.astype(np.float32), rng.normal(size=(n, 4)).astype(np.float32), SETTINGS
        )
        check(pseudo, n, 3)


def test_features_without_any_variance():
    _, weak, q, features = planted(0.4, n=100, classes=4)
    check(estimate_pseudo_labels(weak, q, np.zeros_like(features), SETTINGS), 100, 4)
