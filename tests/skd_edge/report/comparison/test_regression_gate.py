"""Rules: their meaning, texts that are not rules, and rows that cannot be checked."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.errors import UsageError, UserError
from skd_edge.report.comparison.regression_gate import GateResult, evaluate_rules, parse_rule
from skd_edge.report.comparison.schema import Comparison


def make_comparison(**rows: dict[str, float]) -> Comparison:
    made = [{"source": "s", "name": name, "metrics": metrics} for name, metrics in rows.items()]
    return Comparison.model_validate(
        {"schema": 1, "sources": [{"label": "s", "path": "p", "kind": "bench"}], "rows": made}
    )


def evaluate(rule: str, now: float, before: float) -> GateResult:
    return evaluate_rules(make_comparison(a={"x": now}), [parse_rule(rule)], make_comparison(a={"x": before}))


@pytest.mark.parametrize(
    ("rule", "now", "before", "fails"),
    [
        ("x>+10%", 1.11, 1.0, True),
        ("x>+10%", 1.09, 1.0, False),
        ("x>=+50%", 1.5, 1.0, True),
        ("x<-1%", 0.98, 1.0, True),
        ("x<-1%", 1.5, 1.0, False),
        ("x < -0.01", 0.78, 0.80, True),
        ("x < -0.01", 0.795, 0.80, False),
        ("x>2", 3.0, 3.0, True),
        ("x<=2", 3.0, 3.0, False),
    ],
)
def test_a_rule_fails_beyond_its_limit(rule: str, now: float, before: float, fails: bool) -> None:
    found = evaluate(rule, now, before)
    assert bool(found.failures) is fails
    assert found.check_count == 1


@given(st.floats(0.1, 100), st.floats(0.1, 100), st.integers(0, 300))
def test_percentages_are_of_the_baseline(now: float, before: float, percent: int) -> None:
    change = 100 * (now - before) / before
    if abs(change - percent) > 1e-6:
        assert bool(evaluate(f"x>+{percent}%", now, before).failures) is (change > percent)


@pytest.mark.parametrize(
    "text", ["", "x", "x>", ">1", "x>10%", "x==1", "x>1 or 1", "__import__('os')>1", "x>1e999", "x>+nan", "x>1;y>2"]
)
def test_text_that_is_not_a_rule_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="--fail-if"):
        parse_rule(text)


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_rule(text).metric.isidentifier()


def test_a_metric_that_only_the_baseline_has_fails() -> None:
    now = make_comparison(a={"y": 1.0}, b={"x": 1.0})
    found = evaluate_rules(now, [parse_rule("x>+10%")], make_comparison(a={"x": 1.0}, b={"x": 1.0}))
    assert [f.row.name for f in found.failures] == ["a"]
    assert "not measured any more" in found.failures[0].why


def test_new_and_missing_files_are_notes() -> None:
    found = evaluate_rules(
        make_comparison(a={"x": 1.0}, new={"x": 9.0}),
        [parse_rule("x>+1%")],
        make_comparison(a={"x": 1}, gone={"x": 1}),
    )
    assert not found.failures
    assert any("new" in note and "does not have this file" in note for note in found.notes)
    assert any("gone" in note for note in found.notes)


def test_a_rule_that_cannot_be_checked_is_an_error() -> None:
    with pytest.raises(UserError, match="could not be checked on any row"):
        evaluate_rules(make_comparison(new={"x": 1.0}), [parse_rule("x>+1%")], make_comparison(a={"x": 1.0}))
    with pytest.raises(UsageError, match="needs --baseline"):
        evaluate_rules(make_comparison(a={"x": 1.0}), [parse_rule("x>+1%")], None)
    with pytest.raises(UsageError, match="choose from x"):
        evaluate_rules(make_comparison(a={"x": 1.0}), [parse_rule("y>1")], None)
