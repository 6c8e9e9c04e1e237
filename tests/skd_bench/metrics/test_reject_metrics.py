import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_bench.errors import UserError
from skd_bench.metrics.accuracy import compute_accuracy
from skd_bench.metrics.reject_metrics import compute_reject_metrics

NAMES = ["a", "b"]


def logits(*shares: float) -> np.ndarray:
    """Two-class logits; `shares` are the probabilities of the second class, clip by clip."""
    return np.log(np.array([[1 - s, s] for s in shares]))


def test_predictions_below_the_threshold_are_not_reported():
    got = compute_reject_metrics(logits(0.9, 0.6, 0.9, 0.1), [1, 1, 0, 0], NAMES, 0.8)
    assert got["answered"] == 0.75
    assert got["right"] == pytest.approx(2 / 3)
    a, b = got["recall"]
    assert (b["support"], b["recall"], b["false_reports"]) == (2, 0.5, 1)
    assert (a["support"], a["recall"], a["false_reports"]) == (2, 0.5, 0)
    assert compute_reject_metrics(logits(0.6), [1], NAMES, 0.8, named=["a"]) == {
        "threshold": 0.8,
        "answered": 0.0,
        "right": None,
        "recall": [{"class": "a", "support": 0, "recall": None, "interval": None, "false_reports": 0}],
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.integers(0, 1)), min_size=1, max_size=30))
def test_a_higher_threshold_never_reports_more(clips):
    shares, labels = zip(*clips, strict=True)
    found = [compute_reject_metrics(logits(*shares), labels, NAMES, t) for t in (0.0, 0.6, 0.9)]
    for low, high in itertools.pairwise(found):
        assert low["answered"] >= high["answered"]
        for a, b in zip(low["recall"], high["recall"], strict=True):
            assert (a["recall"] or 0) >= (b["recall"] or 0)
            assert a["false_reports"] >= b["false_reports"]
    assert found[0]["right"] == pytest.approx(compute_accuracy(logits(*shares), np.array(labels), NAMES).top1.value)


def test_a_wrong_threshold_and_no_clips_are_refused():
    for arguments, words in (((logits(0.5), [0], NAMES, 1.1), "from 0 to 1"), ((logits(), [], NAMES, 0.5), "no clip")):
        with pytest.raises(UserError, match=words):
            compute_reject_metrics(*arguments)


def test_an_unknown_class_is_refused():
    with pytest.raises(UserError, match="unknown class 'c'; choose from a, b"):
        compute_reject_metrics(logits(0.5), [0], NAMES, 0.5, named=["c"])
