"""Labels by keyword rules on made-up titles: exact coverage and error rate, conflicts that the heavier rule wins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.labels.sources.keyword_rules import rule_votes
from skd_edge.labels.sources.made_up_titles import (
    draw_rule_weights,
    label_by_titles,
    make_keyword_rules,
    make_up_titles,
)
from skd_edge.recipe.labels import NoiseSettings


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 120),
    classes=st.integers(2, 12),
    rate=st.floats(0, 1),
    abstain=st.floats(0, 1),
    conflicts=st.floats(0, 1),
    seed=st.integers(0, 2**31 - 1),
)
def test_coverage_and_error_rate_are_exact(n, classes, rate, abstain, conflicts, seed):
    labels = np.random.default_rng(seed).integers(-1, classes, n)
    noise = NoiseSettings(kind="keyword-rules", rate=rate, abstain=abstain, conflicts=conflicts)
    names, known = [f"{i}.mp4" for i in range(n)], int((labels >= 0).sum())
    weak = label_by_titles(names, labels, [f"c{i}" for i in range(classes)], noise, seed)
    assert (weak[labels < 0] == -1).all()
    labelled = known - round(abstain * known)
    assert (weak >= 0).sum() == labelled
    assert (weak != labels)[weak >= 0].sum() == round(rate * labelled)
    assert np.array_equal(weak, label_by_titles(names, labels, [f"c{i}" for i in range(classes)], noise, seed))


def test_conflicts_are_titles_with_keywords_of_two_classes():
    labels, noise = np.arange(400) % 5, NoiseSettings(kind="keyword-rules", rate=0.3, conflicts=0.5, abstain=0.0)
    weights = draw_rule_weights(5, 0)
    titles = make_up_titles(labels, weights, noise, 0)
    keywords = [[word for word in title if word.startswith("keyword")] for title in titles]
    two = [i for i, found in enumerate(keywords) if len({word[:-1] for word in found}) == 2]
    assert len(two) > 0.3 * len(labels)
    rules = make_keyword_rules([str(c) for c in range(5)], weights)
    names = [str(i) for i in range(len(titles))]
    votes = rule_votes(rules, names, {n: {"title": " ".join(t)} for n, t in zip(names, titles, strict=True)})["rules"]
    for i in two:  # the class with the heavier rule wins
        named = {int(word.removeprefix("keyword")[:-1]) for word in keywords[i]}
        assert int(votes[i]) == max(named, key=lambda c: weights[c])


@pytest.mark.parametrize("seed", [0, 1])
def test_a_class_is_often_confused_with_the_same_class(seed):
    labels, noise = np.zeros(900, np.int64), NoiseSettings(kind="keyword-rules", rate=0.5, conflicts=0.0, abstain=0.0)
    weak = label_by_titles([str(i) for i in range(900)], labels, list("abcdef"), noise, seed)
    counts = np.bincount(weak[weak != 0], minlength=6)[1:] / 450
    assert counts.max() > 0.5
    assert counts.min() > 0.04
