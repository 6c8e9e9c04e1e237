"""Fixtures of the pipeline: a small recipe for two runtimes, and the results of all stages of a finished run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TWO_RUNTIMES = {
    "name": "two",
    "data": {"kind": "generated", "train": 40, "val": 20, "test": 20, "frames": 4, "size": 16},
    "clip": {"frames": 4, "size": 16},
    "teacher": {"family": "resnet", "width": 4, "depths": [1]},
    "students": [{"name": "small", "width": 4, "depths": [1]}],
    "labels": {"optimise": False},
    "training": {"teacher_epochs": 1, "epochs": 1, "batch": 16, "rounds": 1},
    "schedule": {"controls": []},
    "export": {"precisions": ["fp32", "fp16", "int8"], "calibration_clips": 16, "int8_agreement": 0.0},
    "bench": {"processes": 1, "queries": 20, "runtime": ["ort", "openvino"]},
    "choice": {"reject": {"accuracy": 0.0}, "max_joules": 1000},
}


@pytest.fixture
def two_runtimes() -> dict[str, Any]:
    """A recipe whose files are benchmarked on two runtimes, with an energy limit and the reject option."""
    return deepcopy(TWO_RUNTIMES)


@pytest.fixture
def without_choice(two_runtimes: dict[str, Any]) -> dict[str, Any]:
    """`two_runtimes` without its limits."""
    return two_runtimes | {"choice": {}}


@dataclass(frozen=True)
class StageResults:
    """A copy of the finished run, and what its stages return.

    Attributes:
        ctx: the context; the run is locked, and its journal may be written to.
        report: the report that the run wrote.
        ledger: the copy of the ledger that belongs to the copy.
    """

    ctx: Any
    benchmark: Any
    data: Any
    trained: Any
    evaluated: Any
    decision: Any
    report: dict[str, Any]
    ledger: Path


@pytest.fixture(scope="session")
def _stage_results(finished, tmp_path_factory) -> Iterator[StageResults]:
    from skd_edge.pipeline import reselect
    from skd_edge.pipeline.context import RunOptions, make_run_device, open_run
    from skd_edge.pipeline.stages.benchmark_untrained import apply_budget, measure_untrained
    from skd_edge.pipeline.stages.evaluate import evaluate
    from skd_edge.pipeline.stages.prepare_data import prepare_data
    from skd_edge.pipeline.stages.select import select
    from skd_edge.recipe.loader import load_recipe

    home = tmp_path_factory.mktemp("stages")
    folder, ledger = shutil.copytree(finished.folder, home / "run"), shutil.copy(finished.ledger, home / "looks.jsonl")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SKD_EDGE_CACHE", str(finished.cache))
        environment.setenv("SKD_EDGE_LEDGER", str(ledger))
        recipe = load_recipe(str(folder / "recipe.yaml"))
        device = make_run_device(recipe, folder, RunOptions(), cache_only=True)
        with open_run(recipe, folder, RunOptions(), device=device) as ctx:
            benchmark = apply_budget(recipe, measure_untrained(ctx, recipe))
            data = prepare_data(ctx, recipe)
            trained = reselect.load_trained(ctx, benchmark, data)
            evaluated = evaluate(ctx, benchmark, data, trained)
            decision = select(ctx, benchmark, data, evaluated)
            report = json.loads((finished.folder / "report.json").read_text())
            yield StageResults(ctx, benchmark, data, trained, evaluated, decision, report, Path(ledger))


@pytest.fixture
def stage_results(_stage_results, finished, monkeypatch) -> StageResults:
    """What the stages of the finished run return; cache and ledger are those of this run."""
    monkeypatch.setenv("SKD_EDGE_CACHE", str(finished.cache))
    monkeypatch.setenv("SKD_EDGE_LEDGER", os.fspath(_stage_results.ledger))
    return _stage_results
