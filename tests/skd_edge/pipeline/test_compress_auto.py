"""``students: auto``, end to end: proposed, halved, chosen; the report has the state of every cascade."""

from __future__ import annotations

import json
import time

import pytest

from skd_bench.errors import UserError
from skd_edge.pipeline.compress import compress
from skd_edge.pipeline.plan import plan
from skd_edge.pipeline.reselect import reselect
from skd_edge.recipe.loader import load_recipe
from skd_edge.run_folder import read_journal

TEXT = """
name: auto
data: {kind: generated, train: 40, val: 40, test: 20, frames: 4, size: 16}
clip: {frames: 4, size: 16}
augment: {shift: 1, views: 2}
labels: {optimise: false}
teacher: {family: resnet, width: 16, depths: [1, 1]}
students: auto
assistants: auto
space: {widths: [4, 6, 8], families: [mobile], temporal: [conv], frames: [4], keep: 3, assistants: 1}
schedule: {controls: [], share: 0, rungs: [0.5], keep: 1}
training: {teacher_epochs: 2, epochs: 2, batch: 20}
export: {precisions: [fp32]}
bench: {processes: 1, queries: 30}
choice: {budget: 20 x teacher}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(TEXT)
    return load_recipe(tmp_path / "recipe.yaml")


def test_proposed_halved_and_chosen_again(recipe, tmp_path, own_places):
    planned = plan(recipe, tmp_path / "run")
    assert planned.uses_successive_halving
    assert len({job.name for job in planned.jobs if job.role == "student"}) == 6
    assert planned.seconds > 0
    assert "Successive halving trains a part of these" in planned.to_text()
    assert not (tmp_path / "run").exists()

    compress(recipe, tmp_path / "run")
    report, journal = json.loads((tmp_path / "run" / "report.json").read_text()), read_journal(tmp_path / "run")
    (proposed,) = [e for e in journal if e["event"] == "proposed"]
    assert set(proposed["students"]) == {"mobile-4", "mobile-6", "mobile-8"}
    assert proposed["assistants"] == ["assistant-10"]
    (rung,) = [e for e in journal if e["event"] == "rung"]
    left = rung["survivors"]
    assert 1 <= len(left) <= 2
    states = {tuple(job["path"]): job for job in report["jobs"] if job["role"] == "student"}
    assert len(states) == 6  # two cascades of three students
    assert {path[-1] for path, job in states.items() if job["state"] == "trained"} == set(left)
    for path, job in states.items():
        assert job["state"] == "trained" or (path[-1] not in left or len(path) == 3)
        assert job["state"] == "trained" or "points" in job["reason"]
    assert {job["role"] for job in report["jobs"]} >= {"teacher", "rung"}
    assert report["chosen"]["student"] in left
    page = (tmp_path / "run" / "report.html").read_text()
    assert "pruned" in page
    assert "students: []" in (tmp_path / "run" / "recipe.yaml").read_text()

    # Again: nothing is trained, nothing measured, and the same is chosen.
    before, began = len(journal), time.monotonic()
    compress(recipe, tmp_path / "run")
    print(f"fully cached: {time.monotonic() - began:.1f} s")
    news = read_journal(tmp_path / "run")[before:]
    assert not {e["event"] for e in news} & {"job_started", "job_finished"}
    again = json.loads((tmp_path / "run" / "report.json").read_text())
    assert again["chosen"]["name"] == report["chosen"]["name"]
    assert [c["p50_ms"] for c in again["candidates"]] == [c["p50_ms"] for c in report["candidates"]]
    # Another budget chooses among what was trained; nothing is proposed anew.
    trained = {r["name"]: r["p50_ms"] for r in report["candidates"] if r["trained"]}
    proposals = len([e for e in read_journal(tmp_path / "run") if e["event"] == "proposed"])
    decision = reselect(tmp_path / "run", [f"choice.budget={1.001 * max(trained.values()):.9f} ms"])
    assert decision.chosen in trained
    assert len([e for e in read_journal(tmp_path / "run") if e["event"] == "proposed"]) == proposals


def test_a_budget_that_no_network_of_the_search_space_meets(recipe, tmp_path):
    tight = load_recipe(tmp_path / "recipe.yaml", ["choice.budget=0.0001 ms", "space.widths=[4]"])
    with pytest.raises(UserError, match=r"no network of the space is within .* the fastest, mobile-4, takes \d"):
        compress(tight, tmp_path / "run")
