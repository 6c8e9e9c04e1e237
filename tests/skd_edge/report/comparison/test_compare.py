"""Comparing sources: different devices, baselines, exit codes, and labels of sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from skd_bench.errors import UsageError, UserError
from skd_edge.cli import main as cli
from skd_edge.report.comparison.compare import compare_sources, make_source_labels


def test_different_devices_are_refused_unless_forced(tmp_path: Path, bench_json: Any) -> None:
    paths = [
        bench_json(tmp_path / "a.json", 4.0),
        bench_json(tmp_path / "b.json", 2.0, device=bench_json.device | {"cpu": "Other"}),
    ]
    with pytest.raises(UserError, match=r"cpu: Test CPU and Other.*--force"):
        compare_sources(paths)
    forced = compare_sources(paths, force=True).text
    assert "another device" in forced
    assert "do not compare" in forced
    assert "0.50 ×" not in forced


def test_a_stored_comparison_can_be_a_baseline(tmp_path: Path, bench_json: Any) -> None:
    stored = tmp_path / "baseline.json"
    compare_sources([bench_json(tmp_path / "old.json", 4.0)], store=stored)
    new = bench_json(tmp_path / "new.json", 4.6)
    failed = compare_sources([new], baseline=stored, rules=["p90_ms>+10%", "bytes>+0"])
    assert failed.failed
    assert "1 of 2 checks failed" in failed.text
    assert "4.8 -" in failed.text
    assert "+15 %" in failed.text
    passed = compare_sources([new], baseline=stored, rules=["p90_ms>+20%"], as_json=True)
    assert not passed.failed
    assert json.loads(passed.text)["gate"]["judged"] == 1
    with pytest.raises(UserError, match="different devices"):
        compare_sources(
            [bench_json(tmp_path / "x.json", 4.0, device=bench_json.device | {"cpu": "Other"})], baseline=stored
        )


def test_the_command_exits_with_1_and_prints_the_failed_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bench_json: Any
) -> None:
    old, new = bench_json(tmp_path / "old.json", 4.0), bench_json(tmp_path / "new.json", 5.0)
    assert cli.run(["report", str(new), "--baseline", str(old), "--fail-if", "p50_ms>+10%"]) == 1
    assert "p50\\_ms 4 -" in capsys.readouterr().out
    assert cli.run(["report", str(new), "--baseline", str(old), "--fail-if", "p50_ms>+30%"]) == 0
    assert cli.run(["report", str(new), "--baseline", str(old), "--fail-if", "speed>1"]) == 2
    assert "choose from accuracy, p50_ms, p90_ms" in capsys.readouterr().err
    assert cli.run(["report"]) == 2


def test_labels_are_as_short_as_possible() -> None:
    assert make_source_labels([Path("/a/x"), Path("/b/y")]) == ["x", "y"]
    assert make_source_labels([Path("/a/run/bundle"), Path("/b/run/bundle")]) == ["a/run/bundle", "b/run/bundle"]
    with pytest.raises(UsageError, match="given twice"):
        make_source_labels([Path("/a"), Path("/a")])
