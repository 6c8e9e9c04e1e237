"""Stage 7: score the chosen file on the test clips, together with the teacher and the controls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.metrics.accuracy import AccuracyMetrics
from skd_edge.data.store.clip_store import ClipSplit
from skd_edge.evaluation.file_scorer import CandidateResult
from skd_edge.labels.dataset import TrainingData
from skd_edge.pipeline.context import RunContext
from skd_edge.pipeline.results import EvaluatedCandidates, TestResult, TrainedCascade
from skd_edge.pipeline.stages.evaluate import export_fp32
from skd_edge.report import builder
from skd_edge.report.schema import TestRow
from skd_edge.schedule.candidates import Candidate, teacher_deployment
from skd_edge.schedule.choice_metric import ChoiceMetric, Predictions
from skd_edge.schedule.selection import Decision
from skd_edge.test_set_ledger import record_test_access

_TEACHER_ROW = "teacher (FP32 file)"
_CONTROLS = (("alone", "student alone, weak labels"), ("kd", "student with plain KD"))
_ROLE_BY_ROW = {_TEACHER_ROW: "teacher"} | {f"{name} (FP32 file)": role for role, name in _CONTROLS}


@dataclass(frozen=True)
class TestClips:
    """The test clips, opened for one decision. Only `open_test_set` makes it, so every access is counted.

    Attributes:
        clips: the test clips.
        chosen: the candidate to score on them.
        result: its file, with latency and validation accuracy.
        access_count: how many different files these clips have scored on this machine so far.
    """

    clips: ClipSplit
    chosen: Candidate
    result: CandidateResult
    access_count: int


def open_test_set(
    ctx: RunContext, data: TrainingData, evaluated: EvaluatedCandidates, decision: Decision
) -> TestClips | None:
    """Open the test clips for a decision, and count this access in the ledger of this machine.

    Returns:
        The clips; None where nothing was chosen, in which case nothing is counted.
    """
    chosen = evaluated.find(decision.chosen)
    if chosen is None:
        return None
    result = evaluated.results[chosen]
    file = sha256_file(result.path) + (f" on {result.runtime}" if result.runtime != "ort" else "")
    if "engine_sha256" in result.facts:  # another build may answer differently
        file += f", engine {result.facts['engine_sha256']}"
    count = record_test_access(data.clips.test.hash, run=ctx.run.folder.absolute(), artefact=file)
    return TestClips(data.clips.test.unseal(), chosen, result, count)


def confirm_on_test(
    ctx: RunContext,
    data: TrainingData,
    trained: TrainedCascade,
    evaluated: EvaluatedCandidates,
    test: TestClips | None,
) -> TestResult | None:
    """Score the chosen file, the teacher and the controls on the test clips, all on the runtime of the chosen file."""
    if test is None:
        return None
    files = _files_to_compare(ctx, data, trained, evaluated, test.chosen)
    files[f"skd-edge: {test.chosen.name}"] = test.result.path
    own_row = f"skd-edge: {test.chosen.name}"
    runtime, scored = test.result.runtime, {}
    refused = ctx.scorer.score_ahead([(path, runtime) for path in files.values()], test.clips)
    for name, path in files.items():
        reason = refused.get((path, runtime)) if name != own_row else None
        try:
            if reason is None:
                scored[name] = ctx.scorer.score_file(path, test.clips, runtime)
                continue
        except UserError as error:  # a file to compare with, which the chosen runtime cannot run
            if name == own_row:
                raise
            reason = str(error)
        ctx.console.log(f"warning: {name} is not in the test table: {reason}")
        ctx.run.record_event("not_compared", name=name, reason=reason)
    accuracy, predictions = scored[own_row]
    metric = ChoiceMetric(ctx.recipe.choice.metric, test.clips.labels, test.clips.groups)
    rows = [_build_test_row(name, *each, predictions, metric) for name, each in scored.items()]
    ctx.run.record_event("confirmed", name=test.chosen.name, test_accuracy=accuracy.top1.value, looks=test.access_count)
    report = builder.build_test_report(accuracy, rows, test.access_count, test.clips.hash)
    answers = {_ROLE_BY_ROW.get(name, "chosen"): predicted for name, (_, predicted) in scored.items()}
    logits = ctx.scorer.compute_logits(test.result.path, test.clips, test.result.runtime)
    return TestResult(report, logits, test.clips.labels, test.clips.names, answers)


def _files_to_compare(
    ctx: RunContext, data: TrainingData, trained: TrainedCascade, evaluated: EvaluatedCandidates, chosen: Candidate
) -> dict[str, Path]:
    """FP32 files of the teacher and of the chosen student's controls, by the name of their row in the test table."""
    wanted = replace(chosen.deployment, precision="fp32").file  # of the kind that the chosen file's runtime reads
    files = {}
    if evaluated.teacher:
        is_readable = teacher_deployment(ctx.recipe).file == wanted
        teachers = (result for result in trained.job_results if result.job.spec.role == "teacher")
        files[_TEACHER_ROW] = (
            evaluated.teacher.path if is_readable else export_fp32(ctx, data, trained, next(teachers), wanted)
        )
    for role, name in _CONTROLS:
        for control in trained.job_results:
            if control.job.spec.role == role and control.job.spec.learner.name == chosen.student:
                files[f"{name} (FP32 file)"] = export_fp32(ctx, data, trained, control, wanted)
    return files


def _build_test_row(
    name: str, accuracy: AccuracyMetrics, predictions: Predictions, chosen: Predictions, metric: ChoiceMetric
) -> TestRow:
    """A row of the test table; ``behind`` is the paired difference to the chosen file, in points of the metric."""
    lead = metric.compute_difference(chosen, predictions)
    balanced = accuracy.balanced_accuracy
    return TestRow(
        name=name,
        accuracy=accuracy.top1.value,
        interval=(accuracy.top1.low, accuracy.top1.high),
        balanced_accuracy=balanced.value,
        balanced_interval=(balanced.low, balanced.high),
        macro_f1=accuracy.macro_f1.value,
        behind=100 * lead.value,
        behind_interval=(100 * lead.low, 100 * lead.high),
    )
