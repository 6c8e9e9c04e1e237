"""The choice by accuracy per millisecond (design.md): constraints, then budget or exchange rate.

The bare ratio accuracy / ms crowns the tiniest network, so it is printed and never chosen by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skd_bench.stats import Interval, paired_difference
from skd_edge.recipe.sections import SelectionRule


@dataclass(frozen=True)
class CandidateMetrics:
    """One candidate as the choice sees it.

    Attributes:
        name: unique.
        p50_ms: median single-stream latency on the target, the same for all cascades of a student in one form.
        accuracy: top-1 of the file on the trusted validation clips, 0 to 1.
        correct: ``(N,)`` which validation clips it got right, the same clips for all.
        macro_f1: 0 to 1.
        megabytes: size of the file.
        rejection_reason: why it is out before any comparison (parity, a precision that is not faster), or None.
        joules: of a clip, above the idle machine's; None where they were not measured.
    """

    name: str
    p50_ms: float
    accuracy: float
    correct: NDArray[np.bool_]
    macro_f1: float
    megabytes: float
    rejection_reason: str | None = None
    joules: float | None = None


@dataclass(frozen=True)
class Decision:
    """What was chosen, or None, and for every candidate the reason in words."""

    chosen: str | None
    why: str
    reasons: dict[str, str]
    pareto_front: tuple[str, ...]


def select_candidate(
    candidates: Sequence[CandidateMetrics], rule: SelectionRule, budget_ms: float | None, groups: NDArray[np.int64]
) -> Decision:
    """Choose among measured candidates.

    Args:
        candidates: all of them, measured.
        rule: the recipe's rule.
        budget_ms: the latency budget in milliseconds, or None.
        groups: ``(N,)`` the source video of each validation clip, for the paired interval.
    """
    reasons = {c.name: violation for c in candidates if (violation := _violated_constraint(c, rule, budget_ms))}
    eligible = [c for c in candidates if c.name not in reasons]
    front = find_pareto_front([c for c in candidates if not c.rejection_reason])
    if not eligible:
        fastest = min(candidates, key=lambda c: c.p50_ms, default=None)
        hint = f"; the fastest is {fastest.name} with {fastest.p50_ms:.2f} ms" if fastest else ""
        return Decision(None, f"no candidate meets the constraints{hint}", reasons, front)
    chosen, why = (
        _select_within_budget(eligible, rule, groups, reasons)
        if budget_ms
        else _select_by_exchange_rate(eligible, rule, reasons)
    )
    reasons[chosen.name] = why
    return Decision(chosen.name, why, reasons, front)


def find_pareto_front(candidates: Sequence[CandidateMetrics]) -> tuple[str, ...]:
    """Names on the front of accuracy against milliseconds, fastest first."""
    front: list[CandidateMetrics] = []
    for c in sorted(candidates, key=lambda c: (c.p50_ms, -c.accuracy)):
        if not front or c.accuracy > front[-1].accuracy:
            front.append(c)
    return tuple(c.name for c in front)


def _violated_constraint(c: CandidateMetrics, rule: SelectionRule, budget_ms: float | None) -> str | None:
    """The first constraint that a candidate breaks, in words."""
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
    eligible: list[CandidateMetrics], rule: SelectionRule, groups: NDArray[np.int64], reasons: dict[str, str]
) -> tuple[CandidateMetrics, str]:
    """The most accurate within the budget, unless a faster one is shown to be no worse than the margin.

    Only the front is looked at: what is shown of a candidate depends on whom it errs with, and one that is slower and
    less accurate than another must not win by that.
    """
    best = max(eligible, key=lambda c: (c.accuracy, -c.p50_ms))
    front, as_good = _filter_pareto_front(eligible, reasons), [best]
    for c in front:
        if c is best:
            continue
        gap = _compute_accuracy_gap(best, c, groups)
        points = f"{100 * gap.value:+.1f} points [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
        if 100 * gap.high <= rule.margin:
            as_good.append(c)
            reasons[c.name] = f"as good as {best.name} within {rule.margin:g} points ({best.name} ahead by {points})"
        else:
            reasons[c.name] = f"{best.name} is ahead by {points}: not shown to be within {rule.margin:g} points"
    chosen = min(as_good, key=lambda c: (c.p50_ms, -c.accuracy))
    for c in as_good:
        if c is not chosen:
            reasons[c.name] = f"{chosen.name} is as good within {rule.margin:g} points and faster"
    if chosen is best:
        return best, "the most accurate within the budget; nothing faster is shown to be as good"
    faster = best.p50_ms / chosen.p50_ms
    return (
        chosen,
        f"{faster:.2f} x faster than the most accurate ({best.name}) and no worse by more than {rule.margin:g} points",
    )


def _filter_pareto_front(eligible: list[CandidateMetrics], reasons: dict[str, str]) -> list[CandidateMetrics]:
    """The front of these, fastest first; every other one gets its reason."""
    by_name = {c.name: c for c in eligible}
    front = [by_name[name] for name in find_pareto_front(eligible)]
    for c in eligible:
        if c.name not in {f.name for f in front}:
            reasons[c.name] = "another candidate is as fast and at least as accurate"
    return front


def _compute_accuracy_gap(best: CandidateMetrics, other: CandidateMetrics, groups: NDArray[np.int64]) -> Interval:
    return paired_difference(best.correct.astype(float), other.correct.astype(float), groups.tolist())


def _select_by_exchange_rate(
    eligible: list[CandidateMetrics], rule: SelectionRule, reasons: dict[str, str]
) -> tuple[CandidateMetrics, str]:
    """Walk the front from the fastest, and step up while a step earns its milliseconds."""
    front = _filter_pareto_front(eligible, reasons)
    current = front[0]
    why = "the fastest on the front; no step up earns its milliseconds"
    for step in front[1:]:
        points = 100 * (step.accuracy - current.accuracy)
        ten_percent_steps = max(math.log(step.p50_ms / current.p50_ms) / math.log(1.1), 1e-9)
        points_per_step = points / ten_percent_steps
        if points_per_step < rule.exchange:
            reasons[step.name] = (
                f"earns {points_per_step:.2f} points per +10 % ms over {current.name}; the recipe asks {rule.exchange:g}"
            )
            continue
        reasons[current.name] = f"{step.name} earns {points_per_step:.2f} points per +10 % ms over it"
        why = f"earns {points_per_step:.2f} points per +10 % ms over {current.name} (the recipe asks {rule.exchange:g})"
        current = step
    return current, why
