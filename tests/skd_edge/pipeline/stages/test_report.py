"""The report of a run: its rows agree with the results, and its notes say how to read them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from skd_edge.pipeline.results import RunResult, WrittenBundle
from skd_edge.pipeline.stages.report import _build_parent_class_notes, build_report, write_report
from skd_edge.report.schema import TestReport as OnTestClips


@pytest.fixture
def result(stage_results):
    """The results of all stages; nothing was scored on the test clips."""
    results = stage_results
    bundle = WrittenBundle(None, ("a warning about a file",))
    return RunResult(
        results.benchmark, results.data, results.trained, results.evaluated, results.decision, None, bundle
    )


def as_json(stage_results, result):
    return build_report(stage_results.ctx, result).model_dump(mode="json", by_alias=True)


def test_the_headline_names_the_chosen_file(stage_results, result):
    report = as_json(stage_results, result)
    chosen = result.chosen
    assert report["headline"].startswith(f"Ship {chosen.student} in {chosen.deployment.precision.upper()}, trained by ")
    assert f"{result.evaluated.results[chosen].accuracy.top1.value:.1%}" in report["headline"]
    assert "x as fast as the teacher" in report["headline"]
    assert report["chosen"]["name"] == chosen.name
    assert report["chosen"]["why"] == result.decision.why


def test_the_headline_says_why_nothing_is_shipped(stage_results, result):
    nothing = replace(result, decision=replace(result.decision, chosen=None, why="no candidate meets the constraints"))
    report = as_json(stage_results, nothing)
    assert report["headline"] == "Nothing to ship: no candidate meets the constraints."
    assert report["chosen"] is None


def test_every_candidate_has_a_row_with_a_reason(stage_results, result):
    rows = {row["name"]: row for row in as_json(stage_results, result)["candidates"]}
    assert len(rows) == 8
    for row in rows.values():
        assert row["reason"]
        assert row["trained"] is (row["student"] == "small")
    assert all(rows[name]["reason"] == why for name, why in result.decision.reasons.items())


def test_the_notes_contain_the_warnings_of_the_stages(stage_results, result):
    evaluated = replace(result.evaluated, teacher=None, warnings=("calibrated on one class",))
    notes = as_json(stage_results, replace(result, evaluated=evaluated))["notes"]
    assert {"calibrated on one class", "a warning about a file"} <= set(notes)
    assert any("The teacher could not be exported" in note for note in notes)
    assert any("made 40% of the training labels wrong (symmetric)" in note for note in notes)
    assert not any("The teacher could not be exported" in note for note in as_json(stage_results, result)["notes"])


def test_files_and_pages_are_written(stage_results, result):
    page = write_report(stage_results.ctx, result)
    folder = stage_results.ctx.run.folder
    assert page == folder / "report.html"
    headline = json.loads((folder / "report.json").read_text())["headline"]
    assert headline.partition(" [")[0] in (folder / "report.md").read_text()  # Markdown escapes the bracket
    samples = json.loads((folder / "latency.json").read_text())
    assert samples.keys() == {c.name for c in result.evaluated.results}


def test_parents_of_classes_have_their_own_accuracy():
    confusion = [[2, 1, 0], [0, 3, 0], [1, 0, 3]]
    (note,) = _build_parent_class_notes(OnTestClips(confusion=confusion), ["walk/fast", "walk/slow", "run/fast"])
    assert "the right parent class in 90.0% of the test clips" in note
    assert "walk 6, run 4" in note or "run 4, walk 6" in note
    assert _build_parent_class_notes(None, ["walk/fast", "walk/slow", "run/fast"]) == []
    assert _build_parent_class_notes(OnTestClips(confusion=confusion), ["a", "b", "c"]) == []


def test_the_metric_of_the_recipe_is_in_headline_and_resolution(stage_results, result):
    recipe = result.benchmark.recipe
    choice = recipe.choice.model_copy(update={"metric": "balanced"})
    balanced = replace(result.benchmark, recipe=recipe.model_copy(update={"choice": choice}))
    before, after = as_json(stage_results, result), as_json(stage_results, replace(result, benchmark=balanced))
    assert (before["metric"], after["metric"]) == ("accuracy", "balanced")
    value = result.evaluated.results[result.chosen].accuracy.balanced_accuracy.value
    assert f"{value:.1%} balanced accuracy [" in after["headline"]
    assert "balanced" not in before["headline"]
    assert "a balanced accuracy of" in after["resolution"]["text"]
    assert after["resolution"]["groups"] == before["resolution"]["n"]  # every clip is a group of its own
    assert after["chosen"]["balanced_accuracy"] == value
    assert before["data"]["unequal_classes"] is False
