"""The reject option: a threshold from the validation clips, and the sentence about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skd_bench.metrics.accuracy import softmax
from skd_edge.evaluation.file_scorer import FileScorer
from skd_edge.pipeline.results import TestResult as OnTestClips
from skd_edge.pipeline.stages.reject_threshold import compute_reject_option, format_reject_note
from skd_edge.report.schema import TestReport as ReportOfTest


def scorer_for(results, **reject):
    """A scorer whose recipe demands this accuracy of the clips that are classified."""
    recipe = type(results.ctx.recipe).model_validate(
        results.ctx.recipe.model_dump() | {"choice": {"budget": "4 x teacher", "reject": reject}}
    )
    return FileScorer(recipe, results.ctx.classes, results.ctx.run.folder / "artefacts")


@pytest.fixture
def chosen(stage_results):
    return stage_results.evaluated.results[stage_results.evaluated.find(stage_results.decision.chosen)]


def test_without_the_option_nothing_is_rejected(stage_results, chosen):
    assert compute_reject_option(stage_results.ctx.scorer, stage_results.data, chosen) is None
    assert format_reject_note(stage_results.ctx.scorer, stage_results.data, chosen, None) is None


@pytest.mark.parametrize("accuracy", [0.0, 0.2, 0.5])
def test_the_threshold_reaches_the_accuracy_on_validation(stage_results, chosen, accuracy):
    scorer, val = scorer_for(stage_results, accuracy=accuracy), stage_results.data.clips.val
    threshold = compute_reject_option(scorer, stage_results.data, chosen).threshold
    probabilities = softmax(scorer.compute_logits(chosen.path, val, chosen.runtime))
    accepted = probabilities.max(axis=1) >= threshold
    correct = (probabilities.argmax(axis=1) == val.labels)[accepted]
    assert threshold == 1.0 or correct.mean() >= accuracy
    assert accuracy > 0 or accepted.all()


@pytest.mark.parametrize(
    ("background", "words"), [(None, "is not classified"), ("blink", "is reported as 'blink'")], ids=str
)
def test_the_note_counts_validation_and_test_clips(stage_results, chosen, background, words):
    scorer, val = scorer_for(stage_results, accuracy=0.0, background=background), stage_results.data.clips.val
    logits = scorer.compute_logits(chosen.path, val, chosen.runtime)
    note = format_reject_note(
        scorer, stage_results.data, chosen, OnTestClips(ReportOfTest(), logits, val.labels, val.names, {})
    )
    assert words in note
    top1 = f"{chosen.accuracy.top1.value:.1%} of them correctly"
    assert f"100.0% of the validation clips ({top1}) and 100.0% of the test clips ({top1})" in note


def test_a_threshold_that_accepts_nothing_has_no_accuracy(stage_results, chosen):
    scorer, val = scorer_for(stage_results, accuracy=0.0), stage_results.data.clips.val
    logits = scorer.compute_logits(chosen.path, val, chosen.runtime)
    flat = OnTestClips(ReportOfTest(), 0 * logits, val.labels, val.names, {})
    note = format_reject_note(scorer, stage_results.data, replace(chosen), flat)
    share = (
        softmax(0 * logits).max(axis=1) >= compute_reject_option(scorer, stage_results.data, chosen).threshold
    ).mean()
    assert f"{share:.1%} of the test clips" in note
