"""Chooses the candidate to ship: constraints first, then the budget or the exchange rate of the recipe.

The plain ratio of accuracy to latency always favours the smallest network. Reports print it, but it decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skd_bench.metrics.class_averages import METRIC_NAMES
from skd_edge.recipe.sections import SelectionRule
from skd_edge.schedule.choice_metric import ChoiceMetric


@dataclass(frozen=True)
class CandidateMetrics:
    """The metrics of a candidate that the choice depends on.

    Attributes:
        name: unique name.
        p50_ms: median single-stream latency on the target; equal for all cascades of a student at one deployment.
        score: the recipe's ``choice.metric`` of the file on the N validation clips, in 0..1; it decides.
        predictions: ``(N,)`` predicted class of each validation clip; the same clips for all candidates.
        accuracy: top-1 accuracy on these clips, in 0..1.
        macro_f1: in 0..1.
        megabytes: size of the file.
        rejection_reason: why the candidate cannot be chosen (its parity, or a precision that is not faster), or None.
        joules: energy per clip above the idle machine's; None if it was not measured.
    """

    name: str
    p50_ms: float
    score: float
    predictions: NDArray[np.int64]
    accuracy: float
    macro_f1: float
    megabytes: float
    rejection_reason: str | None = None
    joules: float | None = None


@dataclass(frozen=True)
class Decision:
    """The result of a choice.

    Attributes:
        chosen: name of the chosen candidate, or None.
        why: the reason for the choice, or why there is none.
        reasons: why each candidate was or was not chosen, by name.
        pareto_front: names of the candidates on the front of the metric against latency, fastest first.
    """

    chosen: str | None
    why: str
    reasons: dict[str, str]
    pareto_front: tuple[str, ...]


def select_candidate(
    candidates: Sequence[CandidateMetrics], rule: SelectionRule, budget_ms: float | None, metric: ChoiceMetric
) -> Decision:
    """Choose among measured candidates.

    Args:
        candidates: all measured candidates.
        rule: the recipe's section ``choice``.
        budget_ms: the latency budget in milliseconds, or None.
        metric: the metric of the scores, with the validation clips, for paired intervals.
    """
    reasons = {c.name: violation for c in candidates if (violation := _violated_constraint(c, rule, budget_ms))}
    eligible = [c for c in candidates if c.name not in reasons]
    front = find_pareto_front([c for c in candidates if not c.rejection_reason])
    if not eligible:
        fastest = min(candidates, key=lambda c: c.p50_ms, default=None)
        hint = f"; the fastest is {fastest.name} with {fastest.p50_ms:.2f} ms" if fastest else ""
        return Decision(None, f"no candidate meets the constraints{hint}", reasons, front)
    chosen, why = (
        _select_within_budget(eligible, rule, metric, reasons)
        if budget_ms
        else _select_by_exchange_rate(eligible, rule, metric, reasons)
    )
    reasons[chosen.name] = why
    return Decision(chosen.name, why, reasons, front)


def find_pareto_front(candidates: Sequence[CandidateMetrics]) -> tuple[str, ...]:
    """Names of the candidates on the front of the metric against latency, fastest first."""
    front: list[CandidateMetrics] = []
    for c in sorted(candidates, key=lambda c: (c.p50_ms, -c.score)):
        if not front or c.score > front[-1].score:
            front.append(c)
    return tuple(c.name for c in front)


def _violated_constraint(c: CandidateMetrics, rule: SelectionRule, budget_ms: float | None) -> str | None:
    """The first constraint that a candidate violates, as a sentence; None if it meets all."""
    if c.rejection_reason:
        return c.rejection_reason
    if budget_ms is not None and c.p50_ms > budget_ms:
        return f"{c.p50_ms:.2f} ms is over the budget of {budget_ms:.2f} ms"
    if rule.min_accuracy is not None and c.accuracy < rule.min_accuracy:
        return f"accuracy {c.accuracy:.1%} is below min_accuracy {rule.min_accuracy:.1%}"
    if rule.min_macro_f1 is not None and c.macro_f1 < rule.min_macro_f1:
        return f"macro-F1 {c.macro_f1:.1%} is below min_macro_f1 {rule.min_macro_f1:.1%}"
    if rule.max_megabytes is not None and c.megabytes > rule.max_megabytes:
        return f"{c.megabytes:.2f} MB is over max_megabytes {rule.max_megabytes:.2f}"
    if rule.max_joules is not None and c.joules is None:
        return "its joules were not measured, and the recipe sets max_joules"
    if rule.max_joules is not None and c.joules is not None and c.joules > rule.max_joules:
        return f"{c.joules:.3g} J a clip is over max_joules {rule.max_joules:g}"
    return None


def _select_within_budget(
    eligible: list[CandidateMetrics], rule: SelectionRule, metric: ChoiceMetric, reasons: dict[str, str]
) -> tuple[CandidateMetrics, str]:
    """The best candidate by the metric, unless a faster one is shown to be worse by at most the margin.

    Only candidates on the front are compared. The paired interval is narrow for a candidate that errs on the same clips
    as the best one. Without the front, such a candidate could win against one that is both faster and better.
    """
    best = max(eligible, key=lambda c: (c.score, -c.p50_ms))
    front, as_good = _filter_pareto_front(eligible, metric, reasons), [best]
    for c in front:
        if c is best:
            continue
        gap = metric.compute_difference(best.predictions, c.predictions)
        points = f"{100 * gap.value:+.1f} points [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
        if 100 * gap.high <= rule.margin:
            as_good.append(c)
            reasons[c.name] = f"as good as {best.name} within {rule.margin:g} points ({best.name} ahead by {points})"
        else:
            reasons[c.name] = f"{best.name} is ahead by {points}: not shown to be within {rule.margin:g} points"
    chosen = min(as_good, key=lambda c: (c.p50_ms, -c.score))
    for c in as_good:
        if c is not chosen:
            reasons[c.name] = f"{chosen.name} is as good within {rule.margin:g} points and faster"
    if chosen is best:
        return best, f"{metric.best_text} within the budget; nothing faster is shown to be as good"
    faster = best.p50_ms / chosen.p50_ms
    return (
        chosen,
        f"{faster:.2f} x faster than {metric.best_text} ({best.name}) and no worse by more than {rule.margin:g} points",
    )


def _filter_pareto_front(
    eligible: list[CandidateMetrics], metric: ChoiceMetric, reasons: dict[str, str]
) -> list[CandidateMetrics]:
    """The candidates on the front, fastest first; the reason of each other one is added to ``reasons``."""
    by_name = {c.name: c for c in eligible}
    front = [by_name[name] for name in find_pareto_front(eligible)]
    for c in eligible:
        if c.name not in {f.name for f in front}:
            as_good = "accurate" if metric.metric == "accuracy" else "good"
            reasons[c.name] = f"another candidate is as fast and at least as {as_good}"
    return front


def _select_by_exchange_rate(
    eligible: list[CandidateMetrics], rule: SelectionRule, metric: ChoiceMetric, reasons: dict[str, str]
) -> tuple[CandidateMetrics, str]:
    """Start with the fastest on the front; move to a slower one if its gain is worth the added latency."""
    front = _filter_pareto_front(eligible, metric, reasons)
    current = front[0]
    why = f"the fastest on the front; no slower candidate gains enough {METRIC_NAMES[metric.metric]} for its latency"
    for step in front[1:]:
        points = 100 * (step.score - current.score)
        ten_percent_steps = max(math.log(step.p50_ms / current.p50_ms) / math.log(1.1), 1e-9)
        points_per_step = points / ten_percent_steps
        gain = f"gains {points_per_step:.2f} points per +10 % ms over"
        if points_per_step < rule.exchange:
            reasons[step.name] = f"{gain} {current.name}; the recipe requires {rule.exchange:g}"
            continue
        reasons[current.name] = f"{step.name} {gain} it"
        why = f"{gain} {current.name} (the recipe requires {rule.exchange:g})"
        current = step
    return current, why
