"""The gate of a team's CI: rules such as `p90_ms>+10%`, judged row by row against a stored baseline.

A rule is one metric, one comparison and one number. It is read by a regular expression and nothing else: nothing in
it is ever evaluated as code.

    p90_ms>+10%      fails where p90 is more than 10 % above the baseline's
    accuracy<-0.01   fails where accuracy is more than 0.01 below the baseline's
    p99_ms>8         fails where p99 is above 8; needs no baseline
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass

from skd_bench.errors import UsageError, UserError
from skd_edge.report.comparison.schema import Comparison, ComparisonRow

_RULE_PATTERN = re.compile(
    r"\s*([A-Za-z]\w*)\s*(<=|>=|<|>)\s*([+\-−]?)\s*(\d{1,12}(?:\.\d{0,12})?)\s*(%?)\s*", re.ASCII
)
_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Rule:
    """When a row fails.

    Attributes:
        text: As given.
        metric: Its name.
        compare: One of `<`, `<=`, `>`, `>=`.
        number: The limit, signed: of the change where `change`, else of the level.
        change: Whether the change against the baseline is judged.
        percent: Whether the change is in percent of the baseline.
    """

    text: str
    metric: str
    compare: str
    number: float
    change: bool
    percent: bool

    def is_broken_by(self, value: float) -> bool:
        """Whether a level, or a change, is beyond the limit."""
        return bool(_OPERATORS[self.compare](value, self.number))


@dataclass(frozen=True)
class RuleFailure:
    """A row that a rule fails, and why, in words."""

    rule: Rule
    row: ComparisonRow
    why: str


@dataclass(frozen=True)
class GateResult:
    """What the gate found: failures, how many rows each rule judged, and what could not be judged."""

    failures: list[RuleFailure]
    check_count: int
    notes: list[str]


def parse_rule(text: str) -> Rule:
    """Read one rule.

    Raises:
        UsageError: It is none; says how one looks.
    """
    match = _RULE_PATTERN.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--fail-if {text!r} is no rule; a rule is METRIC, one of < <= > >=, and a number: 'p90_ms>+10%' (against "
            "the baseline), 'accuracy<-0.01' (against the baseline) or 'p99_ms>8' (the level itself)"
        )
    metric, compare, sign, number, percent = match.groups()
    if percent and not sign:
        raise UsageError(
            f"--fail-if {text!r}: a percentage is a change, so it needs a sign: {metric}{compare}+{number}%"
        )
    value = float(number) * (-1 if sign in ("-", "−") else 1)
    return Rule(text.strip(), metric, compare, value, bool(sign), bool(percent))


def evaluate_rules(comparison: Comparison, rules: Sequence[Rule], baseline: Comparison | None) -> GateResult:
    """Judge every row by every rule.

    Args:
        comparison: What is judged.
        rules: See `parse_rule`.
        baseline: What changes are counted from; needed by a rule with a sign.

    Raises:
        UsageError: A rule needs a baseline and there is none, or names a metric that no row has.
        UserError: A rule found no row that it could judge: a gate that judges nothing must not pass.
    """
    known = comparison.metric_names()
    for rule in rules:
        if rule.metric not in known:
            raise UsageError(
                f"--fail-if {rule.text!r}: there is no metric {rule.metric!r}; there are: {', '.join(known)}"
            )
        if rule.change and baseline is None:
            raise UsageError(f"--fail-if {rule.text!r} judges a change, so it needs --baseline FILE")
    baseline_rows = {row.name: row for row in baseline.rows} if baseline else {}
    failures: list[RuleFailure] = []
    notes: list[str] = []
    check_count = 0
    for rule in rules:
        evaluated_rows = 0
        for row in comparison.rows:
            reason, broken = _evaluate_row(rule, row, baseline_rows.get(row.name))
            evaluated_rows += broken is not None
            if broken:
                failures.append(RuleFailure(rule, row, reason))
            elif broken is None:
                notes.append(f"{rule.text}: {row.name} ({row.source}) not judged: {reason}")
        if not evaluated_rows:
            raise UserError(f"--fail-if {rule.text!r} judged nothing: {'; '.join(notes[-len(comparison.rows) :])}")
        check_count += evaluated_rows
    missing = sorted(set(baseline_rows) - {row.name for row in comparison.rows})
    notes += [f"in the baseline and not here: {', '.join(missing)}"] if missing else []
    return GateResult(failures, check_count, notes)


def _evaluate_row(rule: Rule, row: ComparisonRow, baseline_row: ComparisonRow | None) -> tuple[str, bool | None]:
    """The reason in words, and whether the row fails; None where it cannot be judged."""
    value = row.metrics.get(rule.metric)
    if not rule.change:
        if value is None:
            return f"{rule.metric} was not measured", None
        return f"{rule.metric} is {value:.4g}", rule.is_broken_by(value)
    if baseline_row is None:
        return "the baseline has no such file", None
    old = baseline_row.metrics.get(rule.metric)
    if old is None:
        return f"the baseline has no {rule.metric}", None
    if value is None:  # what was known once and is not any more must not pass in silence
        return f"{rule.metric} was {old:.4g} and is not measured any more", True
    if rule.percent and old == 0:
        return f"{rule.metric} was 0: there is no percentage of it", None
    change = 100 * (value - old) / abs(old) if rule.percent else value - old
    unit = " %" if rule.percent else ""
    reason = f"{rule.metric} {old:.4g} -> {value:.4g} ({change:+.3g}{unit})"
    return reason + _format_interval_overlap(rule.metric, row, baseline_row), rule.is_broken_by(change)


def _format_interval_overlap(metric: str, row: ComparisonRow, baseline_row: ComparisonRow) -> str:
    a, b = row.intervals.get(metric), baseline_row.intervals.get(metric)
    if a is None or b is None:
        return ""
    return "; their 95 % intervals overlap" if a[0] <= b[1] and b[0] <= a[1] else "; their 95 % intervals are apart"
