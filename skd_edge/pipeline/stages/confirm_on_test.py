"""The chosen file is scored on the test clips, once, beside teacher and controls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.files import sha256_file
from skd_bench.metrics.accuracy import AccuracyMetrics
from skd_bench.stats import paired_difference
from skd_edge.data.store.clip_store import ClipSplit
from skd_edge.evaluation.file_scorer import CandidateResult
from skd_edge.labels.dataset import TrainingData
from skd_edge.pipeline.context import RunContext
from skd_edge.pipeline.results import EvaluatedCandidates, TestResult, TrainedCascade
from skd_edge.pipeline.stages.evaluate import export_control
from skd_edge.report import builder
from skd_edge.schedule.candidates import Candidate
from skd_edge.schedule.selection import Decision
from skd_edge.test_set_ledger import record_test_access

Bools = NDArray[np.bool_]
Json = dict[str, Any]
_CONTROLS = (("alone", "student alone, weak labels"), ("kd", "student with plain KD"))


@dataclass(frozen=True)
class TestClips:
    """The test clips, opened for one decision; only `open_test_set` makes it.

    Attributes:
        clips: the clips.
        chosen: the candidate that they confirm.
        result: its measured file.
        access_count: how many different files these clips have scored on this machine so far.
    """

    clips: ClipSplit
    chosen: Candidate
    result: CandidateResult
    access_count: int


def open_test_set(
    ctx: RunContext, data: TrainingData, evaluated: EvaluatedCandidates, decision: Decision
) -> TestClips | None:
    """Open the test clips for what was decided; it is counted in the ledger of this machine. None: nothing was chosen."""
    chosen = evaluated.find(decision.chosen)
    if chosen is None:
        return None
    result = evaluated.results[chosen]
    file = sha256_file(result.path) + (f" on {result.runtime}" if result.runtime != "ort" else "")
    count = record_test_access(data.clips.test.hash, run=ctx.run.folder.absolute(), artefact=file)
    return TestClips(data.clips.test.unseal(), chosen, result, count)


def confirm_on_test(
    ctx: RunContext,
    data: TrainingData,
    trained: TrainedCascade,
    evaluated: EvaluatedCandidates,
    test: TestClips | None,
) -> TestResult | None:
    """Score the chosen file on the test clips, beside teacher and controls, all on the chosen one's runtime."""
    if test is None:
        return None
    files = _files_to_compare(ctx, data, trained, evaluated, test.chosen)
    files[f"skd-edge: {test.chosen.name}"] = test.result.path
    scored = {name: ctx.scorer.score_file(path, test.clips, test.result.runtime) for name, path in files.items()}
    accuracy, correct = scored[f"skd-edge: {test.chosen.name}"]
    rows = [_build_test_row(name, *each, correct, test.clips.groups.tolist()) for name, each in scored.items()]
    ctx.run.record_event("confirmed", name=test.chosen.name, test_accuracy=accuracy.top1.value, looks=test.access_count)
    report = builder.build_test_report(accuracy, rows, test.access_count, test.clips.hash)
    logits = ctx.scorer.compute_logits(test.result.path, test.clips, test.result.runtime)
    return TestResult(report, logits, test.clips.labels)


def _files_to_compare(
    ctx: RunContext, data: TrainingData, trained: TrainedCascade, evaluated: EvaluatedCandidates, chosen: Candidate
) -> dict[str, Path]:
    """FP32 files of the teacher and of the chosen student's controls, by the name of their row."""
    files = {"teacher (FP32 file)": evaluated.teacher.path} if evaluated.teacher else {}
    for role, name in _CONTROLS:
        for control in trained.job_results:
            if control.job.spec.role == role and control.job.spec.learner.name == chosen.student:
                files[f"{name} (FP32 file)"] = export_control(ctx, data, trained, control)
    return files


def _build_test_row(name: str, accuracy: AccuracyMetrics, right: Bools, chosen_right: Bools, groups: list[int]) -> Json:
    """One network on the test clips; ``behind`` is by how many points the chosen file leads it, clip by clip."""
    lead = paired_difference(chosen_right.astype(float), right.astype(float), groups)
    return {
        "name": name,
        "accuracy": accuracy.top1.value,
        "interval": [accuracy.top1.low, accuracy.top1.high],
        "macro_f1": accuracy.macro_f1,
        "behind": 100 * lead.value,
        "behind_interval": [100 * lead.low, 100 * lead.high],
    }
