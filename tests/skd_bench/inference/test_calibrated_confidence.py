"""Temperature scaling: the confidence agrees with the accuracy, and no prediction changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_bench.errors import UserError
from skd_bench.inference.calibrated_confidence import compute_confidence, fit_temperature, read_temperature
from skd_bench.metrics.accuracy import softmax


def draw_labelled_logits(seed, count, classes, scale):
    """Logits whose softmax is the true probability of each label, multiplied by ``scale``."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((count, classes))
    labels = (softmax(logits).cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return scale * logits, labels


@settings(max_examples=25)
@given(st.integers(0, 99), st.integers(2, 12), st.sampled_from([0.25, 1.0, 3.0, 8.0]))
def test_the_scale_of_the_logits_is_found(seed, classes, scale):
    logits, labels = draw_labelled_logits(seed, 3000, classes, scale)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(scale, rel=0.2)
    confidence = compute_confidence(logits, temperature)
    assert confidence.mean() == pytest.approx((logits.argmax(axis=1) == labels).mean(), abs=0.04)
    # An equal shift of all logits changes nothing, and a factor changes the temperature by the factor.
    assert fit_temperature(logits + 7, labels) == pytest.approx(temperature, rel=2e-3)
    assert fit_temperature(2 * logits, labels) == pytest.approx(2 * temperature, rel=2e-3)


def test_no_other_temperature_is_more_likely():
    logits, labels = draw_labelled_logits(1, 400, 5, 3.0)
    best = fit_temperature(logits, labels)

    def loss(temperature):
        return -np.log(softmax(logits / temperature)[np.arange(400), labels]).mean()

    assert all(loss(best) <= loss(other) for other in np.geomspace(0.1, 50, 200))


def test_extreme_logits_stay_within_the_range():
    right = np.eye(3) * 1e4
    assert fit_temperature(right, [0, 1, 2]) <= np.exp(4) + 0.01
    assert fit_temperature(right, [1, 2, 0]) == pytest.approx(np.exp(4), rel=1e-3)
    assert np.isfinite(compute_confidence(right, 0.02)).all()


@pytest.mark.parametrize("raw", [0, -1.0, float("nan"), float("inf"), "2", True, [1]])
def test_a_temperature_of_a_manifest_is_checked(raw):
    with pytest.raises(UserError, match="it must be a number above 0"):
        read_temperature({"temperature": raw})


def test_a_file_without_a_temperature():
    assert read_temperature({}) is None
    assert read_temperature({"temperature": 2}) == 2.0
