"""How often a test set was looked at: different files count, the same file again does not."""

from __future__ import annotations

import json
from pathlib import Path

from skd_edge.test_set_ledger import ledger_path, record_test_access


def test_different_files_count(tmp_path):
    assert record_test_access("set", run=tmp_path, artefact="one") == 1
    assert record_test_access("set", run=tmp_path, artefact="one") == 1
    assert record_test_access("set", run=tmp_path / "other run", artefact="one") == 1
    assert record_test_access("set", run=tmp_path, artefact="two") == 2
    assert record_test_access("other set", run=tmp_path, artefact="two") == 1
    assert record_test_access("set", run=tmp_path, artefact="one") == 2
    rows = [json.loads(line) for line in ledger_path().read_text().splitlines()]
    assert [(r["test"], r["artefact"]) for r in rows] == [("set", "one"), ("set", "two"), ("other set", "two")]
    assert all(r["run"] == str(tmp_path) and r["time"] for r in rows)


def test_a_line_that_was_cut_short_costs_one_look_and_no_run(tmp_path):
    assert record_test_access("set", run=tmp_path, artefact="one") == 1
    with ledger_path().open("a") as file:
        file.write('[1]\n{"time": "2026-')
    assert record_test_access("set", run=tmp_path, artefact="two") == 2
    assert record_test_access("set", run=tmp_path, artefact="two") == 2
    assert len(ledger_path().read_text().splitlines()) == 4


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("SKD_EDGE_LEDGER", str(tmp_path / "deep" / "er" / "l.jsonl"))
    assert record_test_access("set", run=tmp_path, artefact="one") == 1
    assert (tmp_path / "deep" / "er" / "l.jsonl").exists()
    monkeypatch.delenv("SKD_EDGE_LEDGER")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert ledger_path() == tmp_path / "state" / "skd-edge" / "test-looks.jsonl"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert ledger_path() == Path.home() / ".local" / "state" / "skd-edge" / "test-looks.jsonl"
