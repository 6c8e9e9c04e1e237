"""What the results of a run's stages can be asked for."""

from __future__ import annotations

import dataclasses

import pytest

from skd_edge.pipeline.results import RunResult, WrittenBundle


@pytest.fixture
def result(stage_results):
    results = stage_results
    return RunResult(
        results.benchmark,
        results.data,
        results.trained,
        results.evaluated,
        results.decision,
        None,
        WrittenBundle(None),
    )


def test_results_cannot_be_changed(result):
    for one in (result, result.benchmark, result.trained, result.evaluated, result.bundle):
        field = dataclasses.fields(one)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, field, None)


def test_a_job_is_found_by_its_path_unless_it_is_a_control(result):
    for candidate in result.evaluated.results:
        found = result.trained.find(candidate.path)
        assert (found.job.spec.role, found.job.spec.path) == ("student", candidate.path)
    assert result.trained.find(("teacher",)).job.spec.role == "teacher"
    assert result.trained.find(("teacher", "large")) is None
    assert result.trained.find(()) is None


def test_a_candidate_is_found_by_its_name(result):
    for candidate in result.evaluated.results:
        assert result.evaluated.find(candidate.name) is candidate
    assert result.evaluated.find("teacher fp32") is None
    assert result.evaluated.find(None) is None


def test_the_chosen_candidate_is_that_of_the_decision(result):
    assert result.chosen.name == result.decision.chosen
    nothing = dataclasses.replace(result, decision=dataclasses.replace(result.decision, chosen=None))
    assert nothing.chosen is None


def test_medians_have_the_keys_of_the_measurements(result):
    assert result.benchmark.p50_ms.keys() == result.benchmark.latency.keys()
    assert all(ms > 0 for ms in result.benchmark.p50_ms.values())
    assert result.benchmark.teacher_exported
    assert not dataclasses.replace(result.benchmark, latency={}).teacher_exported


def test_reasons_of_untrained_cascades_come_from_the_budget_and_the_search(result):
    trained = dataclasses.replace(result.trained, pruned={("teacher", "assistant", "small"): "stopped"})
    reasons = dataclasses.replace(result, trained=trained).untrained_reasons
    assert "over the budget" in reasons["teacher", "large"]
    assert reasons["teacher", "assistant", "small"] == "stopped"
