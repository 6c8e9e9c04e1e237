"""The models of a comparison: order of metrics, JSON, unknown keys."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from skd_edge.report.comparison.schema import METRIC_DESCRIPTIONS, Comparison

SOURCE = {"label": "s", "path": "p", "kind": "run"}


def test_metrics_are_in_the_order_of_columns_and_unknown_ones_follow_by_name() -> None:
    rows = [
        {"source": "s", "name": "a", "metrics": {"zeta": 1, "p99_ms": 2, "accuracy": 0.5}},
        {"source": "s", "name": "b", "metrics": {"alpha": 1, "bytes": 2}},
    ]
    comparison = Comparison.model_validate({"schema": 1, "sources": [SOURCE], "rows": rows})
    names = comparison.metric_names()
    assert names == ["accuracy", "p99_ms", "bytes", "alpha", "zeta"]
    assert [n for n in METRIC_DESCRIPTIONS if n in names] == names[:3]


def test_a_comparison_read_from_json_equals_the_original() -> None:
    row = {"source": "s", "name": "a", "metrics": {"p50_ms": 2.5}, "intervals": {"p50_ms": [2.0, 3.0]}}
    comparison = Comparison.model_validate({"schema": 1, "sources": [SOURCE], "rows": [row | {"unknown": 1}]})
    text = comparison.model_dump_json(by_alias=True)
    assert '"schema":1' in text
    assert "unknown" not in text
    assert Comparison.model_validate_json(text) == comparison


@pytest.mark.parametrize("change", [{"schema": 0}, {"kind": "accuracy"}, {"rows": None}, {"sources": [{"label": "s"}]}])
def test_other_content_is_not_a_comparison(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Comparison.model_validate({"schema": 1, "sources": [SOURCE], "rows": []} | change)
