"""The metric of the choice, on the validation clips."""

from __future__ import annotations

import numpy as np
import pytest

from skd_bench.metrics.class_averages import compute_class_averages
from skd_bench.stats import paired_difference
from skd_edge.schedule.choice_metric import ChoiceMetric

RNG = np.random.default_rng(0)
LABELS, ONE, OTHER = RNG.integers(3, size=(3, 60))
GROUPS = np.arange(60) // 6


def test_values_are_those_of_the_metrics():
    averages = compute_class_averages(LABELS, ONE)
    found = {m: ChoiceMetric(m, LABELS, GROUPS).compute_value(ONE) for m in ("accuracy", "balanced", "macro-f1")}
    assert found == {
        "accuracy": (LABELS == ONE).mean(),
        "balanced": averages.balanced.value,
        "macro-f1": averages.macro_f1.value,
    }


@pytest.mark.parametrize("metric", ["accuracy", "balanced", "macro-f1"])
def test_differences_are_paired_and_resample_whole_groups(metric):
    grouped, alone = (ChoiceMetric(metric, LABELS, g) for g in (GROUPS, np.arange(60)))
    got = grouped.compute_difference(ONE, OTHER)
    assert got.value == pytest.approx(grouped.compute_value(ONE) - grouped.compute_value(OTHER))
    assert got != alone.compute_difference(ONE, OTHER)
    if metric == "accuracy":
        assert got == paired_difference(ONE == LABELS, OTHER == LABELS, GROUPS.tolist())
