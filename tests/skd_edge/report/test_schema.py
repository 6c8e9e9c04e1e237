"""Reading report.json: absent fields get a default, wrong fields a clear message."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from skd_bench.errors import UserError
from skd_edge.report.schema import SCHEMA_VERSION, load_report, parse_report


def test_every_field_of_the_sample_is_read(sample: ModuleType) -> None:
    raw = sample.full_result()
    read = parse_report(raw).model_dump(mode="json", by_alias=True)
    raw["schema_version"] = raw["schema"]
    assert set(raw) - {"schema_version"} == set(read)
    assert read["candidates"][0]["p50_interval"] == raw["candidates"][0]["p50_interval"]
    assert read["jobs"][1]["curve"] == raw["jobs"][1]["curve"]
    assert read["test"]["per_class"] == raw["test"]["per_class"]
    assert read["chosen"]["path"] == ["teacher", "assistant", "wide"]


def test_null_means_absent(sample: ModuleType) -> None:
    empty = parse_report(dict.fromkeys(sample.full_result()) | {"schema": 1, "name": "n"})
    assert empty == parse_report(sample.minimal_result() | {"name": "n"})


def test_numbers_that_are_not_finite_become_unknown() -> None:
    raw = {"name": "a", "accuracy": float("nan"), "interval": [0.1, float("inf")], "path": "teacher > wide"}
    one = parse_report({"schema": 1, "name": "n", "candidates": [raw], "latency_samples": {"a": [1.0, None]}})
    assert one.candidates[0].accuracy is None
    assert one.candidates[0].interval is None
    assert one.candidates[0].path == ["teacher", "wide"]
    assert one.latency_samples == {"a": [1.0]}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "holds a list, not the object"),
        ({"name": "n"}, "schema: Field required"),
        ({"schema": SCHEMA_VERSION + 1, "name": "n", "version": "9.9"}, "written by a newer version (9.9)"),
        ({"schema": 1, "name": "n", "candidates": [{"name": "c", "p50_ms": "fast"}]}, "candidates.0.p50_ms"),
        ({"schema": 1, "name": "n", "jobs": 3}, "jobs: Input should be a valid list"),
    ],
)
def test_errors_name_the_file_and_the_field(raw: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_report(raw, source="x/report.json")
    assert message in str(caught.value)
    assert "x/report.json" in str(caught.value)


def test_the_error_for_a_folder_without_a_report_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no report\.json.*run `skd-edge compress`"):
        load_report(tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"schema": 1', "[" * 100_000, "\x00"])
def test_a_file_that_is_not_json_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(UserError, match=r"report\.json is not valid JSON"):
        load_report(tmp_path)


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"cannot read .*report\.json"):
        load_report(tmp_path)


def test_deep_nesting_is_an_error() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(UserError, match="nested too deeply"):
        parse_report({"schema": 1, "name": "n", "device": deep})


def test_a_report_read_from_its_file_equals_the_original(sample: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(sample.full_result()))
    assert load_report(tmp_path) == parse_report(sample.full_result())
