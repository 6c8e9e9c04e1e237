"""Rules for CI, such as `p90_ms>+10%`, which are checked for every row, against a baseline if necessary.

A rule is one metric, one comparison and one number. It is parsed by a regular expression, and no part of it is
evaluated as code.

    p90_ms>+10%      fails if p90 is more than 10 % above that of the baseline
    accuracy<-0.01   fails if the accuracy is more than 0.01 below that of the baseline
    p99_ms>8         fails if p99 is above 8 ms; needs no baseline
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
    """The condition under which a row fails.

    Attributes:
        text: The rule as given.
        metric: Name of the metric.
        compare: `<`, `<=`, `>` or `>=`.
        number: The limit, with its sign: of the change if `change` is set, otherwise of the value.
        change: Whether the rule is on the change against the baseline.
        percent: Whether the change is in percent of the value of the baseline.
    """

    text: str
    metric: str
    compare: str
    number: float
    change: bool
    percent: bool

    def is_broken_by(self, value: float) -> bool:
        """Whether a value (or a change, if `change` is set) is beyond the limit, so that the row fails."""
        return bool(_OPERATORS[self.compare](value, self.number))


@dataclass(frozen=True)
class RuleFailure:
    """A row that does not meet a rule, and the reason as a sentence."""

    rule: Rule
    row: ComparisonRow
    why: str


@dataclass(frozen=True)
class GateResult:
    """The result of all rules.

    Attributes:
        failures: The rows that failed.
        check_count: Number of checks: pairs of a rule and a row that could be checked.
        notes: Rows that could not be checked, with the reason, and files that are in the baseline only.
    """

    failures: list[RuleFailure]
    check_count: int
    notes: list[str]


def parse_rule(text: str) -> Rule:
    """Parse a rule.

    Args:
        text: The rule, such as "p90_ms>+10%".

    Raises:
        UsageError: It is not a rule; the message explains the format.
    """
    match = _RULE_PATTERN.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--fail-if {text!r} is not a rule; a rule is a metric, one of < <= > >=, and a number: 'p90_ms>+10%' or "
            "'accuracy<-0.01' (change against the baseline), or 'p99_ms>8' (the value itself)"
        )
    metric, compare, sign, number, percent = match.groups()
    if percent and not sign:
        raise UsageError(
            f"--fail-if {text!r}: a percentage is a change, so it needs a sign; write {metric}{compare}+{number}%"
        )
    value = float(number) * (-1 if sign in ("-", "−") else 1)
    return Rule(text.strip(), metric, compare, value, bool(sign), bool(percent))


def evaluate_rules(comparison: Comparison, rules: Sequence[Rule], baseline: Comparison | None) -> GateResult:
    """Check every row against every rule.

    Args:
        comparison: The rows to check.
        rules: The rules, see `parse_rule`.
        baseline: The rows against which changes are computed; needed if a rule is on a change.

    Returns:
        The failures, the number of checks, and notes.

    Raises:
        UsageError: A rule needs a baseline and there is none, or it names a metric that no row has.
        UserError: No row could be checked against a rule; a rule without effect must not pass.
    """
    known = comparison.metric_names()
    for rule in rules:
        if rule.metric not in known:
            raise UsageError(f"--fail-if {rule.text!r}: unknown metric {rule.metric!r}; choose from {', '.join(known)}")
        if rule.change and baseline is None:
            raise UsageError(f"--fail-if {rule.text!r} is on a change, so it needs --baseline FILE")
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
                notes.append(f"{rule.text}: {row.name} ({row.source}) not checked: {reason}")
        if not evaluated_rows:
            raise UserError(
                f"--fail-if {rule.text!r} could not be checked on any row: {'; '.join(notes[-len(comparison.rows) :])}"
            )
        check_count += evaluated_rows
    missing = sorted(set(baseline_rows) - {row.name for row in comparison.rows})
    notes += [f"in the baseline only: {', '.join(missing)}"] if missing else []
    return GateResult(failures, check_count, notes)


def _evaluate_row(rule: Rule, row: ComparisonRow, baseline_row: ComparisonRow | None) -> tuple[str, bool | None]:
    """The reason as a sentence, and whether the row fails; None if the rule cannot be checked on this row."""
    value = row.metrics.get(rule.metric)
    if not rule.change:
        if value is None:
            return f"{rule.metric} was not measured", None
        return f"{rule.metric} is {value:.4g}", rule.is_broken_by(value)
    if baseline_row is None:
        return "the baseline does not have this file", None
    old = baseline_row.metrics.get(rule.metric)
    if old is None:
        return f"the baseline has no {rule.metric}", None
    if value is None:  # fails, so that dropping a measurement does not make the check pass
        return f"{rule.metric} was {old:.4g} in the baseline and is not measured any more", True
    if rule.percent and old == 0:
        return f"{rule.metric} is 0 in the baseline, so a change in percent is not defined", None
    change = 100 * (value - old) / abs(old) if rule.percent else value - old
    unit = " %" if rule.percent else ""
    reason = f"{rule.metric} {old:.4g} -> {value:.4g} ({change:+.3g}{unit})"
    return reason + _format_interval_overlap(rule.metric, row, baseline_row), rule.is_broken_by(change)


def _format_interval_overlap(metric: str, row: ComparisonRow, baseline_row: ComparisonRow) -> str:
    a, b = row.intervals.get(metric), baseline_row.intervals.get(metric)
    if a is None or b is None:
        return ""
    return (
        "; their 95 % intervals overlap" if a[0] <= b[1] and b[0] <= a[1] else "; their 95 % intervals do not overlap"
    )
