"""The test clips: sealed until a decision, counted once for each file, and one row for each network."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from skd_edge.pipeline.stages.confirm_on_test import confirm_on_test, open_test_set


def open_for(results, decision):
    return open_test_set(results.ctx, results.data, results.evaluated, decision)


def confirm(results, test_clips):
    return confirm_on_test(results.ctx, results.data, results.trained, results.evaluated, test_clips)


@pytest.fixture
def nothing_chosen(stage_results):
    return replace(stage_results.decision, chosen=None)


def test_without_a_choice_the_test_clips_stay_sealed(stage_results, nothing_chosen):
    before = stage_results.ledger.read_text()
    assert open_for(stage_results, nothing_chosen) is None
    assert confirm(stage_results, None) is None
    assert stage_results.ledger.read_text() == before


def test_a_file_is_counted_once(stage_results):
    first = open_for(stage_results, stage_results.decision)
    assert open_for(stage_results, stage_results.decision).access_count == first.access_count
    rows = [json.loads(line) for line in stage_results.ledger.read_text().splitlines()]
    assert len({row["artefact"] for row in rows}) == len(rows)
    other = next(c for c in stage_results.evaluated.results if c != first.chosen)
    count = len(rows)
    opened = open_for(stage_results, replace(stage_results.decision, chosen=other.name))
    assert opened.access_count in (count, count + 1)  # counted already where another test opened it
    assert opened.result is stage_results.evaluated.results[other]


def test_the_table_has_a_row_for_every_network(stage_results):
    test_clips = open_for(stage_results, stage_results.decision)
    result = confirm(stage_results, test_clips)
    report = result.report.model_dump()
    names = [row["name"] for row in report["rows"]]
    assert names == [
        "teacher (FP32 file)",
        "student alone, weak labels (FP32 file)",
        "student with plain KD (FP32 file)",
        f"skd-edge: {test_clips.chosen.name}",
    ]
    chosen = report["rows"][-1]
    assert chosen["behind"] == 0.0
    assert tuple(chosen["behind_interval"]) == (0.0, 0.0)
    assert chosen["accuracy"] == report["accuracy"]
    assert result.logits.shape == (40, 10)
    assert (result.logits.argmax(axis=1) == result.labels).mean() == pytest.approx(chosen["accuracy"])
    for row in report["rows"]:
        low, high = row["behind_interval"]
        assert low <= row["behind"] <= high
        assert row["behind"] == pytest.approx(100 * (chosen["accuracy"] - row["accuracy"]))


def test_the_labels_are_those_of_the_test_clips(stage_results):
    test_clips = open_for(stage_results, stage_results.decision)
    assert np.array_equal(confirm(stage_results, test_clips).labels, test_clips.clips.labels)
    assert test_clips.clips.hash == stage_results.report["test"]["hash"]
