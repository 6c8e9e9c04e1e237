"""The audit of planted noise: wrong labels rank first; rate, matrix and counts of each class are right."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from skd_edge.labels.audit.label_errors import count_class_support, estimate_noise, rank_label_errors
from skd_edge.labels.cleaning.pseudo_labels import estimate_pseudo_labels
from skd_edge.labels.sources.noise_simulation import corrupt_labels
from skd_edge.recipe.labels import LabelSettings, NoiseSettings


def planted(kind="symmetric", rate=0.4, n=1500, classes=6, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(n) % classes)
    weak = corrupt_labels(truth, classes, NoiseSettings(kind=kind, rate=rate), seed)
    predicted = np.where(rng.random(n) < 0.85, truth, rng.integers(0, classes, n))
    q = rng.dirichlet(np.ones(classes), n) * 0.3
    q[np.arange(n), predicted] += 0.7
    features = np.eye(classes)[truth] + 0.35 * rng.normal(size=(n, classes))
    return truth, weak, estimate_pseudo_labels(weak, q.astype(np.float32), features.astype(np.float32), LabelSettings())


@pytest.mark.parametrize("kind", ["symmetric", "classes"])
@pytest.mark.parametrize("rate", [0.2, 0.4])
def test_planted_noise_is_found(kind, rate):
    truth, weak, pseudo = planted(kind, rate)
    ranked = rank_label_errors(weak, pseudo.evidence)
    assert sorted(s.clip for s in ranked) == list(range(len(weak)))
    assert all(a.p_wrong >= b.p_wrong for a, b in itertools.pairwise(ranked))
    assert all(s.proposed != s.label == weak[s.clip] and 0 <= s.confidence <= s.p_wrong <= 1 for s in ranked)
    assert np.mean([truth[s.clip] != s.label for s in ranked[:100]]) >= 0.95
    assert np.mean([truth[s.clip] == s.proposed for s in ranked[:100]]) >= 0.9
    noise = estimate_noise(weak, pseudo.evidence.class_probabilities, np.arange(len(weak)), resamples=40)
    assert abs(noise.rate.value - rate) < 0.03
    assert noise.rate.value == pytest.approx(pseudo.noise_rate, abs=1e-6)
    assert noise.rate.low <= noise.rate.value <= noise.rate.high
    assert np.allclose(noise.matrix.sum(1), 1)
    assert (noise.low <= noise.high).all()
    if kind == "classes":
        assert (noise.matrix[np.arange(6), (np.arange(6) + 1) % 6] > 0.7 * rate).all()


def test_checked_labels_are_neither_ranked_nor_counted_as_noise():
    truth, weak, pseudo = planted()
    trusted = np.zeros(len(weak), bool)
    trusted[: len(weak) // 2] = True
    assert {s.clip for s in rank_label_errors(weak, pseudo.evidence, trusted)} == set(range(len(weak) // 2, len(weak)))
    clean = np.where(trusted, truth, weak)
    half = estimate_noise(clean, pseudo.evidence.class_probabilities, np.arange(len(weak)), trusted, resamples=5)
    assert abs(half.rate.value - 0.4) < 0.05  # not 0.2: only unchecked labels count
    nothing = estimate_noise(clean, pseudo.evidence.class_probabilities, np.arange(len(weak)), np.ones(len(weak), bool))
    assert nothing.rate.value == 0


def test_clips_of_one_video_are_resampled_together():
    _, weak, pseudo = planted(n=600)
    alone, together = (
        estimate_noise(weak, pseudo.evidence.class_probabilities, g, resamples=60).rate
        for g in (np.arange(600), np.arange(600) // 100)
    )
    assert alone.value == together.value
    assert (together.low, together.high) != (alone.low, alone.high)


def test_support_counts_every_class():
    _, weak, pseudo = planted(n=600)
    weak[:30] = -1
    rows = count_class_support(weak, pseudo.evidence, pseudo.hard, None)
    assert sum(r["labelled"] for r in rows) == 570
    assert sum(r["after"] for r in rows) == 600
    assert all(0 <= r["wrong"] <= r["labelled"] and r["trusted"] == 0 for r in rows)
