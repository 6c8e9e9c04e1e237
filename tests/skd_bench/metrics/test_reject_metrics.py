import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_bench.errors import UserError
from skd_bench.metrics.accuracy import compute_accuracy
from skd_bench.metrics.agreement import compute_agreement
from skd_bench.metrics.reject_metrics import compute_reject_metrics
from skd_bench.stats import wilson_interval

NAMES = ["a", "b"]


def logits(*shares: float) -> np.ndarray:
    """Probability of the second class, clip by clip."""
    return np.log(np.array([[1 - s, s] for s in shares]))


def test_an_unsure_answer_is_no_report():
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


def test_what_is_no_threshold_is_refused():
    for arguments, said in (((logits(0.5), [0], NAMES, 1.1), "from 0 to 1"), ((logits(), [], NAMES, 0.5), "no clip")):
        with pytest.raises(UserError, match=said):
            compute_reject_metrics(*arguments)


def test_two_files_on_the_same_clips():
    got = compute_agreement(logits(0.9, 0.9, 0.1, 0.1), logits(0.9, 0.1, 0.9, 0.1), [1, 1, 1, 0])
    assert got["agreement"] == 0.5
    assert got["difference"] == 0
    assert (got["only_this"], got["only_reference"], got["n"]) == (1, 1, 4)
    assert got["mcnemar"] == 1
    grouped = compute_agreement(logits(0.9, 0.9), logits(0.1, 0.1), [1, 1], groups=["one", "one"])
    assert grouped["difference"] == 1
    with pytest.raises(ValueError, match="same clips"):
        compute_agreement(logits(0.5), logits(0.5, 0.5), [0])


def test_the_reliability_diagram_holds_every_clip():
    got = compute_accuracy(logits(0.55, 0.55, 0.95, 0.95), [0, 1, 1, 1], NAMES)
    assert [(p["n"], round(p["confidence"], 2), p["accuracy"]) for p in got.reliability] == [
        (2, 0.55, 0.5),
        (2, 0.95, 1),
    ]
    gap = sum(p["n"] * abs(p["confidence"] - p["accuracy"]) for p in got.reliability) / 4
    assert gap == pytest.approx(got.ece)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(5, 10, 0.2366, 0.7634), (0, 10, 0, 0.2775), (10, 10, 0.7225, 1)]
)
def test_wilsons_interval(hits, n, low, high):
    assert wilson_interval(hits, n) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    with pytest.raises(ValueError, match="hits <= n"):
        wilson_interval(n + 1, n)
