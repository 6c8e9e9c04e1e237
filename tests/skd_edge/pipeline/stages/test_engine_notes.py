"""What the report says about engines: a double first, how builds differ, and what the GPU's clock did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skd_bench.benchmark.gpu_timing import GpuClocks
from skd_bench.benchmark.latency import LatencyResult
from skd_bench.metrics.accuracy import compute_accuracy
from skd_edge.evaluation.file_scorer import CandidateResult
from skd_edge.pipeline.results import EvaluatedCandidates
from skd_edge.pipeline.stages.engine_notes import build_engine_notes
from skd_edge.recipe.schema import Recipe
from skd_edge.schedule.candidates import list_candidates

CLOCKS = GpuClocks(1980, 1965, 1950, 1980, blocks=40, dropped=3, reasons=["the clock drifted", "bad\x1b"])
FACTS = {"runtime": "tensorrt", "version": "10.13.3", "gpu": "NVIDIA T4", "sm": 75, "gpu_mb": 12.5}


@pytest.fixture
def recipe(without_choice):
    without_choice["bench"] = {"runtime": ["tensorrt"]}
    without_choice["export"] |= {"precisions": ["fp32"]}
    return Recipe.model_validate(without_choice)


@pytest.fixture
def notes(recipe):
    """The notes about one engine with these facts and clocks."""

    def build(facts, clocks=None):
        latency = LatencyResult("x", [[1.0]], None, None, None, 1, 0.1, 0.1, True, None, clocks=clocks)
        accuracy = compute_accuracy(np.eye(2, dtype=np.float32), np.arange(2), ["a", "b"])
        result = CandidateResult(Path("x.onnx"), latency, accuracy, np.ones(2, bool), {}, None, {}, facts=facts)
        [candidate] = list_candidates(recipe)
        return build_engine_notes("this machine", recipe, EvaluatedCandidates({candidate: result}, None, ()))

    return build


def test_without_engines_there_are_no_notes(notes):
    assert notes({}) == []


def test_a_double_is_named_first(notes):
    assert "IS A DOUBLE" in notes(FACTS | {"version": "10.13.3+double"})[0]
    assert not any("DOUBLE" in note for note in notes(FACTS))


def test_the_spread_of_builds_is_shown(notes):
    builds = [{"engine_sha256": str(i) * 64, "p50_ms": ms} for i, ms in enumerate((1.0, 1.2, 1.1))]
    [spread] = [note for note in notes(FACTS | {"builds": builds}) if "times, and the build of median" in note]
    assert "built 3 times" in spread
    assert spread.endswith("teacher>small fp32 1, 1.2, 1.1 ms (20.0% apart).")


def test_clocks_memory_and_dropped_blocks_are_shown(notes):
    *_, around, dropped = notes(FACTS, CLOCKS)
    assert around.endswith(": teacher>small fp32 1980 MHz before and 1965 MHz after, 12.5 MiB of GPU memory.")
    assert "teacher>small fp32 3 of 40 (the clock drifted; bad" in dropped
    assert "\x1b" not in dropped
    assert not any("MHz" in note for note in notes(FACTS))
