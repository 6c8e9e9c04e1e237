"""The choice follows the recipe's rule, and uses the validation clips only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from skd_bench.metrics.accuracy import compute_accuracy
from skd_bench.stats import Interval
from skd_edge.pipeline.stages.select import select
from skd_edge.run_folder import read_journal


def with_choice(results, **changes):
    """The benchmark of a run whose recipe has another choice."""
    recipe = results.benchmark.recipe
    choice = recipe.choice.model_copy(update=changes)
    return replace(results.benchmark, recipe=recipe.model_copy(update={"choice": choice}))


def choose(results, evaluated=None, **changes):
    benchmark = with_choice(results, **changes)
    return select(results.ctx, benchmark, results.data, evaluated or results.evaluated)


def test_the_most_accurate_within_the_budget_is_chosen(stage_results):
    decision = stage_results.decision
    best = max(result.accuracy.top1.value for result in stage_results.evaluated.results.values())
    chosen = stage_results.evaluated.find(decision.chosen)
    assert stage_results.evaluated.results[chosen].accuracy.top1.value == best
    assert decision.reasons.keys() == {c.name for c in stage_results.evaluated.results}
    last = [e for e in read_journal(stage_results.ctx.run.folder) if e["event"] == "chosen"][-1]
    assert (last["name"], last["why"]) == (decision.chosen, decision.why)


def test_an_accuracy_that_nothing_reaches_chooses_nothing(stage_results):
    decision = choose(stage_results, min_accuracy=0.9999)
    assert decision.chosen is None
    assert decision.why


def test_a_rejected_file_is_not_chosen(stage_results):
    results = stage_results.evaluated.results
    chosen = stage_results.evaluated.find(stage_results.decision.chosen)
    rejected = replace(results[chosen], rejection_reason="its logits differ")
    evaluated = replace(stage_results.evaluated, results={**results, chosen: rejected})
    decision = choose(stage_results, evaluated)
    assert decision.chosen != chosen.name
    assert "its logits differ" in decision.reasons[chosen.name]


def test_a_precision_that_is_not_faster_counts_only_where_size_is_limited(stage_results):
    results = {
        c: replace(result, not_faster_reason="no faster" if c.deployment.precision == "int8" else None)
        for c, result in stage_results.evaluated.results.items()
    }
    evaluated = replace(stage_results.evaluated, results=results)
    int8 = [c.name for c in results if c.deployment.precision == "int8"]
    by_speed = choose(stage_results, evaluated)
    assert all("no faster" in by_speed.reasons[name] for name in int8)
    by_size = choose(stage_results, evaluated, max_megabytes=1000.0)
    assert not any("no faster" in by_size.reasons[name] for name in int8)


def test_a_limit_of_joules_needs_their_measurement(stage_results):
    measured = {
        c: replace(result, latency=replace(result.latency, joules=Interval(0.5, 0.4, 0.6)))
        for c, result in stage_results.evaluated.results.items()
    }
    evaluated = replace(stage_results.evaluated, results=measured)
    assert choose(stage_results, evaluated, max_joules=1.0).chosen is not None
    assert choose(stage_results, evaluated, max_joules=0.1).chosen is None


def test_the_metric_of_the_recipe_decides(stage_results):
    """The candidate whose predictions are best for the metric is chosen, if no latency matters."""
    clips = stage_results.data.clips.val
    right, lazy = clips.labels.copy(), np.full(len(clips), np.bincount(clips.labels).argmax())
    right[clips.labels == 0] = 1  # one class is never found
    shares = [right, lazy, *([lazy] * len(stage_results.evaluated.results))]
    names = list(stage_results.evaluated.results)
    results = {}
    for (c, result), predictions in zip(stage_results.evaluated.results.items(), shares, strict=False):
        logits = np.eye(len(stage_results.data.clips.classes))[predictions]
        accuracy = compute_accuracy(logits, clips.labels, stage_results.data.clips.classes)
        results[c] = replace(result, predictions=predictions, accuracy=accuracy, rejection_reason=None)
    evaluated = replace(stage_results.evaluated, results=results)
    for metric in ("balanced", "macro-f1"):
        decision = choose(stage_results, evaluated, metric=metric, budget=None, exchange=0.0)
        assert decision.chosen == names[0].name
        score = results[names[0]].accuracy.metric_interval(metric).value
        assert score < 1
