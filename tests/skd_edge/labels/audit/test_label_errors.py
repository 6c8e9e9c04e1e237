"""What an audit finds of planted noise: the wrong labels first, the rate, the matrix, the support of each class."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from skd_edge.labels.audit.label_errors import noise_of, support, suspects
from skd_edge.labels.class_hierarchy import collapse, parents
from skd_edge.labels.cleaning.pseudo_labels import optimise
from skd_edge.labels.sources.noise_simulation import corrupt
from skd_edge.recipe.labels import Labels, Noise


def planted(kind="symmetric", rate=0.4, n=1500, classes=6, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(n) % classes)
    weak = corrupt(truth, classes, Noise(kind=kind, rate=rate), seed)
    said = np.where(rng.random(n) < 0.85, truth, rng.integers(0, classes, n))
    q = rng.dirichlet(np.ones(classes), n) * 0.3
    q[np.arange(n), said] += 0.7
    features = np.eye(classes)[truth] + 0.35 * rng.normal(size=(n, classes))
    return truth, weak, optimise(weak, q.astype(np.float32), features.astype(np.float32), Labels())


@pytest.mark.parametrize("kind", ["symmetric", "classes"])
@pytest.mark.parametrize("rate", [0.2, 0.4])
def test_planted_noise_is_found(kind, rate):
    truth, weak, pseudo = planted(kind, rate)
    ranked = suspects(weak, pseudo.evidence)
    assert sorted(s.clip for s in ranked) == list(range(len(weak)))
    assert all(a.wrong >= b.wrong for a, b in itertools.pairwise(ranked))
    assert all(s.proposed != s.label == weak[s.clip] and 0 <= s.confidence <= s.wrong <= 1 for s in ranked)
    assert np.mean([truth[s.clip] != s.label for s in ranked[:100]]) >= 0.95
    assert np.mean([truth[s.clip] == s.proposed for s in ranked[:100]]) >= 0.9
    noise = noise_of(weak, pseudo.evidence.opinion, np.arange(len(weak)), resamples=40)
    assert abs(noise.rate.value - rate) < 0.03
    assert noise.rate.value == pytest.approx(pseudo.noise_rate, abs=1e-6)
    assert noise.rate.low <= noise.rate.value <= noise.rate.high
    assert np.allclose(noise.matrix.sum(1), 1)
    assert (noise.low <= noise.high).all()
    if kind == "classes":
        assert (noise.matrix[np.arange(6), (np.arange(6) + 1) % 6] > 0.7 * rate).all()


def test_what_a_person_checked_is_neither_doubted_nor_counted():
    truth, weak, pseudo = planted()
    trusted = np.zeros(len(weak), bool)
    trusted[: len(weak) // 2] = True
    assert {s.clip for s in suspects(weak, pseudo.evidence, trusted)} == set(range(len(weak) // 2, len(weak)))
    clean = np.where(trusted, truth, weak)
    half = noise_of(clean, pseudo.evidence.opinion, np.arange(len(weak)), trusted, resamples=5)
    assert abs(half.rate.value - 0.4) < 0.05  # not a fifth: it is that of the labels nobody checked
    nothing = noise_of(clean, pseudo.evidence.opinion, np.arange(len(weak)), np.ones(len(weak), bool))
    assert nothing.rate.value == 0


def test_clips_of_one_video_are_resampled_together():
    _, weak, pseudo = planted(n=600)
    alone, together = (noise_of(weak, pseudo.evidence.opinion, g, resamples=60).rate
                       for g in (np.arange(600), np.arange(600) // 100))  # fmt: skip
    assert alone.value == together.value
    assert (together.low, together.high) != (alone.low, alone.high)


def test_support_counts_every_class():
    _, weak, pseudo = planted(n=600)
    weak[:30] = -1
    rows = support(weak, pseudo.evidence, pseudo.hard, None)
    assert sum(r["labelled"] for r in rows) == 570
    assert sum(r["after"] for r in rows) == 600
    assert all(0 <= r["wrong"] <= r["labelled"] and r["trusted"] == 0 for r in rows)


def test_class_names_with_parents():
    names, of = parents(("punch/left", "wave", "punch/right"))
    assert names == ("punch", "wave")
    assert of.tolist() == [0, 1, 0]
    up = collapse([[5, 1, 4], [1, 8, 1], [3, 0, 7]], ("punch/left", "wave", "punch/right"))
    assert up.confusion == ((19, 1), (2, 8))
    assert up.support == (20, 10)
    assert up.accuracy == 27 / 30
    assert parents(("a", "b")) is None
    assert parents(("a/1", "a/2")) is None
