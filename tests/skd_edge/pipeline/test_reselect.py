"""Choosing again among a run's candidates: without training, without measuring, and without the test set."""

from __future__ import annotations

import json
import shutil

import pytest

from skd_bench.errors import UsageError, UserError
from skd_edge.pipeline.reselect import reselect
from skd_edge.run_files.journal import JOURNAL_FILE, append_event
from skd_edge.run_folder import read_journal


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of a finished run, with its cache and a copy of its ledger."""
    monkeypatch.setenv("SKD_EDGE_CACHE", str(finished.cache))
    monkeypatch.setenv("SKD_EDGE_LEDGER", str(shutil.copy(finished.ledger, tmp_path / "looks.jsonl")))
    return shutil.copytree(finished.folder, tmp_path / "run")


def test_another_rule_chooses_another_file_without_the_test_set(finished, run, tmp_path):
    before = read_journal(run)
    recipe, report = (run / "recipe.yaml").read_text(), (run / "report.json").read_text()
    decision = reselect(run, ["choice.margin=100"])
    rows = [r for r in finished.report["candidates"] if r["on_front"]]
    assert (
        decision.chosen == min(rows, key=lambda r: r["p50_ms"])["name"]
    )  # all accuracies are within the margin, so the fastest
    news = {e["event"] for e in read_journal(run)[len(before) :]}
    assert "chosen" in news
    assert not news & {"job_started", "job_finished", "confirmed"}
    assert (tmp_path / "looks.jsonl").read_text() == finished.ledger.read_text()
    assert ((run / "recipe.yaml").read_text(), (run / "report.json").read_text()) == (recipe, report)


def test_a_confirmed_choice_is_stored_in_the_run_and_counted_once(finished, run, tmp_path):
    decision = reselect(run, ["choice.margin=100"], confirm=True)
    report = json.loads((run / "report.json").read_text())
    assert report["chosen"]["name"] == decision.chosen
    assert "margin: 100" in (run / "recipe.yaml").read_text()
    looks = {json.loads(line)["artefact"] for line in (tmp_path / "looks.jsonl").read_text().splitlines()}
    assert report["test"]["looks"] == len(looks) <= 2
    same = {r["name"]: (r["accuracy"], r["p50_ms"]) for r in finished.report["candidates"] if r["trained"]}
    assert {r["name"]: (r["accuracy"], r["p50_ms"]) for r in report["candidates"] if r["trained"]} == same
    assert any(job["state"] == "pruned" and "not trained" in job["reason"] for job in report["jobs"])


def test_jobs_of_other_runs_in_the_cache_are_not_candidates(finished, run):
    """Another run trained more cascades of the same recipe; only files of one session are compared."""
    events = read_journal(run)
    mine = next(e["job"] for e in events if e["event"] == "job_finished" and e["role"] == "student")
    (run / JOURNAL_FILE).unlink()
    for event in events:
        if event.get("job") != mine:
            append_event(run, event["event"], {key: value for key, value in event.items() if key != "event"})
    shutil.rmtree(run / "jobs" / mine)
    decision = reselect(run, ["choice.margin=100"])
    dropped = (
        {r["name"] for r in finished.report["candidates"] if r["trained"]} - set(decision.reasons) - {decision.chosen}
    )
    assert dropped
    assert not (run / "jobs" / mine).exists()


@pytest.mark.parametrize(
    ("name", "old", "new"), [(JOURNAL_FILE, b"job_finished", b"job_finishes"), ("recipe.yaml", b"seed: 0", b"seed: 1")]
)
def test_a_damaged_run_is_an_error(run, name, old, new):
    content = (run / name).read_bytes()
    assert old in content
    (run / name).write_bytes(content.replace(old, new))
    with pytest.raises(UserError, match="repeat the skd-edge compress command"):
        reselect(run, ["choice.margin=100"])


def test_a_damaged_job_is_fetched_from_the_cache_or_an_error(finished, run, tmp_path):
    """A student that is missing without a word would be a choice among fewer."""
    expected = reselect(run, ["choice.margin=100"])
    student = next(e["job"] for e in read_journal(run) if e["event"] == "job_finished" and e["role"] == "student")
    weights, in_cache = run / "jobs" / student / "weights.safetensors", finished.cache / "jobs" / student
    damaged = weights.read_bytes()[:-1] + b"\x7f"
    weights.write_bytes(damaged)
    assert reselect(run, ["choice.margin=100"]) == expected
    weights.unlink()  # it is now a link to the cache's file
    weights.write_bytes(damaged)
    in_cache.rename(tmp_path / "away")
    try:
        with pytest.raises(UserError, match=f"{student}, a job that the run had finished, is missing or was damaged"):
            reselect(run, ["choice.margin=100"])
    finally:
        (tmp_path / "away").rename(in_cache)


def test_a_journal_that_was_cut_hides_no_candidate(run):
    expected = reselect(run, ["choice.margin=100"])
    lines = (run / JOURNAL_FILE).read_bytes().splitlines(keepends=True)
    (run / JOURNAL_FILE).write_bytes(b"".join(lines[:3]))
    assert reselect(run, ["choice.margin=100"]) == expected


def test_a_rule_that_nothing_meets_leaves_no_bundle_of_an_earlier_one(run):
    assert (run / "bundle").exists()
    decision = reselect(run, ["choice.min_accuracy=0.9999"], confirm=True)
    assert decision.chosen is None
    assert not (run / "bundle").exists()


def test_nothing_but_the_choice_may_change(run):
    with pytest.raises(UsageError, match=r"training\.epochs=3: only choice\.\* may change"):
        reselect(run, ["choice.margin=2", "training.epochs=3"])


def test_a_folder_that_is_not_a_run(tmp_path):
    with pytest.raises(UsageError, match="is not a run"):
        reselect(tmp_path)


def test_a_missing_measurement_is_an_error(run):
    shutil.rmtree(run / "measurements")
    with pytest.raises(Exception, match="holds no measurement of all"):
        reselect(run)
