"""The ledger counts the different files that were scored on a test set."""

from __future__ import annotations

import json
from pathlib import Path

from skd_edge.test_set_ledger import ledger_path, record_test_access


def test_a_file_is_counted_once_for_each_test_set(tmp_path):
    assert record_test_access("set", run=tmp_path, artefact="one") == 1
    assert record_test_access("set", run=tmp_path, artefact="one") == 1
    assert record_test_access("set", run=tmp_path / "other run", artefact="one") == 1
    assert record_test_access("set", run=tmp_path, artefact="two") == 2
    assert record_test_access("other set", run=tmp_path, artefact="two") == 1
    assert record_test_access("set", run=tmp_path, artefact="one") == 2
    rows = [json.loads(line) for line in ledger_path().read_text().splitlines()]
    assert [(r["test"], r["artefact"]) for r in rows] == [("set", "one"), ("set", "two"), ("other set", "two")]
    assert all(r["run"] == str(tmp_path) and r["time"] for r in rows)


def test_incomplete_lines_are_skipped(tmp_path):
    assert record_test_access("set", run=tmp_path, artefact="one") == 1
    with ledger_path().open("a") as file:
        file.write('[1]\n{"time": "2026-')
    assert record_test_access("set", run=tmp_path, artefact="two") == 2
    assert record_test_access("set", run=tmp_path, artefact="two") == 2
    assert len(ledger_path().read_text().splitlines()) == 4


def test_the_place_of_the_ledger(monkeypatch, tmp_path):
    monkeypatch.setenv("SKD_EDGE_LEDGER", str(tmp_path / "deep" / "er" / "l.jsonl"))
    assert record_test_access("set", run=tmp_path, artefact="one") == 1
    assert (tmp_path / "deep" / "er" / "l.jsonl").exists()
    monkeypatch.delenv("SKD_EDGE_LEDGER")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert ledger_path() == tmp_path / "state" / "skd-edge" / "test-looks.jsonl"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert ledger_path() == Path.home() / ".local" / "state" / "skd-edge" / "test-looks.jsonl"
