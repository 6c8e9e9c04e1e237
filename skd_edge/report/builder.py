"""Builds the parts of ``report.json`` from the results of a run.

Each function returns a model of `skd_edge.report.schema`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from skd_bench.benchmark.latency import LatencyResult
from skd_bench.metrics.accuracy import AccuracyMetrics
from skd_bench.metrics.class_averages import METRIC_NAMES, Metric, count_effective_clips, has_unequal_classes
from skd_bench.stats import Interval, mean_interval, paired_difference, resolvable_points
from skd_edge.data.store.clip_store import ClipSplit
from skd_edge.evaluation.file_scorer import CandidateResult
from skd_edge.execution.job_results import JobResult
from skd_edge.labels.dataset import TrainingData
from skd_edge.report.schema import (
    AccuracyResolution,
    CandidateReport,
    ClassMetrics,
    ConfidenceBin,
    DataReport,
    EpochMetrics,
    JobReport,
    OperatorKindProfile,
    Parity,
    QuarantinedClip,
    SplitCopyReport,
    TestReport,
    TestRow,
)
from skd_edge.schedule.candidates import Candidate
from skd_edge.schedule.selection import Decision
from skd_export.analysis.operator_profile import group_by_operator
from skd_export.quantization.quantize import FileMetadata

_MAX_SAMPLES = 1200  # latency samples of one candidate in the report: enough for a chart, and the file stays small
_A_METRIC: dict[Metric, str] = {m: f"a{'n' * (m == 'accuracy')} {name}" for m, name in METRIC_NAMES.items()}
FIRST_TEACHER_NAME = "first teacher"  # the teacher as it is trained on the weak labels, before they are optimised


def build_candidate_row(
    candidate: Candidate,
    candidate_result: CandidateResult | None,
    untrained_latency: LatencyResult | None,
    decision: Decision,
    reason: str,
    job_hash: str | None,
) -> CandidateReport:
    """One row of ``candidates``.

    Args:
        candidate: The candidate.
        candidate_result: Its measured file, or None if it was not trained.
        untrained_latency: Latency of the same network with random weights, or None if that was not measured; used
            where ``candidate_result`` is None.
        decision: The result of the selection.
        reason: Why the candidate was or was not chosen, as a sentence.
        job_hash: Hash of the job that trained its weights, or None.
    """
    result, deployment = candidate_result, candidate.deployment
    latency = result.latency if result else untrained_latency
    accuracy = result.accuracy if result else None
    metadata: FileMetadata = result.metadata if result else {}
    p50, joules = (latency.p50, latency.joules) if latency else (None, None)
    return CandidateReport(
        name=candidate.name,
        path=list(candidate.path),
        student=candidate.student,
        precision=deployment.precision,
        runtime=deployment.runtime,
        job=job_hash,
        trained=result is not None,
        eligible=result is not None and result.rejection_reason is None,
        reason=reason,
        chosen=candidate.name == decision.chosen,
        on_front=candidate.name in decision.pareto_front,
        p50_ms=_value_of(p50),
        p50_interval=_ends_of(p50),
        p90_ms=_value_of(latency.p90) if latency else None,
        p99_ms=_value_of(latency.p99) if latency else None,
        queries=latency.n if latency else None,
        steady=latency.steady if latency else None,
        load_ms=latency.load_ms if latency else None,
        first_ms=latency.first_ms if latency else None,
        joules_per_clip=_value_of(joules),
        joules_interval=_ends_of(joules),
        accuracy=accuracy.top1.value if accuracy else None,
        interval=_ends_of(accuracy.top1) if accuracy else None,
        balanced_accuracy=accuracy.balanced_accuracy.value if accuracy else None,
        balanced_interval=_ends_of(accuracy.balanced_accuracy) if accuracy else None,
        macro_f1=accuracy.macro_f1.value if accuracy else None,
        macro_f1_interval=_ends_of(accuracy.macro_f1) if accuracy else None,
        ece=accuracy.ece if accuracy else None,
        accuracy_per_ms=accuracy.top1.value / p50.value if accuracy and p50 else None,
        bytes=result.path.stat().st_size if result else None,
        parity=Parity.model_validate(result.parity, extra="forbid") if result else None,
        operators=metadata.get("operators", {}),
        fates=[OperatorKindProfile(**group) for group in group_by_operator(metadata.get("fates", []))],
        left_out=metadata.get("excluded", []),
    )


def _value_of(interval: Interval | None) -> float | None:
    return None if interval is None else interval.value


def _ends_of(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)


def build_job_rows(
    job_results: Sequence[JobResult], groups: NDArray[np.int64], pruned: Mapping[tuple[str, ...], str]
) -> list[JobReport]:
    """The rows of ``jobs``: one for each job, then one for each pruned cascade.

    Args:
        job_results: The jobs that have a result.
        groups: ``(N,)`` group of each validation clip; intervals are computed over groups.
        pruned: For the path of each pruned cascade, the reason as a sentence.

    Returns:
        The rows. The gain of a student or of a KD control is over the same network trained alone, where such a job
        exists. A cascade that was pruned after a rung (a training with fewer epochs) has the accuracy and the epochs of
        that rung.
    """
    trained_alone = {
        job_result.job.spec.learner.name: job_result
        for job_result in job_results
        if job_result.job.spec.role == "alone"
    }
    rows = [_build_job_row(job_result, trained_alone, groups) for job_result in job_results]
    truncated_jobs = {
        job_result.job.spec.path: job_result for job_result in job_results if job_result.job.spec.role == "rung"
    }
    return rows + [_build_pruned_row(path, why, truncated_jobs.get(path)) for path, why in pruned.items()]


def _build_pruned_row(path: tuple[str, ...], why: str, truncated_job: JobResult | None) -> JobReport:
    return JobReport(
        job=f"pruned-{path[-1]}" if len(path) == 2 else f"pruned-{'>'.join(path[1:])}",
        learner=path[-1],
        teacher=truncated_job.job.spec.teacher if truncated_job else None,
        path=list(path),
        role="student",
        state="pruned",
        reason=why,
        accuracy=truncated_job.accuracy if truncated_job else None,
        epochs=truncated_job.job.spec.epochs if truncated_job else None,
    )


def _build_job_row(
    job_result: JobResult, trained_alone: Mapping[str, JobResult], groups: NDArray[np.int64]
) -> JobReport:
    job = job_result.job.spec
    accuracy = mean_interval(job_result.correct.astype(float), groups.tolist())
    control = trained_alone.get(job.learner.name) if job.role in ("student", "kd") else None
    gain = None
    if control is not None:
        gain = paired_difference(job_result.correct.astype(float), control.correct.astype(float), groups.tolist())
    state, state_reason = (
        ("cached", "trained by an earlier run") if job_result.cached else ("trained", "trained in this run")
    )
    is_first_pass = job.role == "scout"  # the cascade diagram shows the teacher's first pass as a root of its own
    name = FIRST_TEACHER_NAME if is_first_pass and not (job.start or job.fold) else job.path[-1]
    return JobReport(
        job=job_result.job.hash,
        learner=name if is_first_pass else job.learner.name,
        teacher=job.teacher or job.start,
        path=[name] if is_first_pass else list(job.path),
        kind=job.role,
        role="control" if job.role in ("alone", "kd") else "teacher" if is_first_pass else job.role,
        accuracy=accuracy.value,
        interval=_ends_of(accuracy),
        gain=None if gain is None else 100 * gain.value,
        gain_interval=None if gain is None else (100 * gain.low, 100 * gain.high),
        gain_over="" if gain is None else "the same network alone",
        seconds=job_result.seconds,
        epochs=job.epochs,
        state=state,
        reason=state_reason,
        curve=[
            EpochMetrics(epoch=row["epoch"], loss=row["loss"], accuracy=row["accuracy"], terms=dict(row["terms"]))
            for row in job_result.curve
        ],
    )


def build_test_report(accuracy: AccuracyMetrics, rows: list[TestRow], access_count: int, test_hash: str) -> TestReport:
    """The part ``test``: the chosen file on the test clips, next to the networks it is compared with.

    Args:
        accuracy: Metrics of the chosen file on the test clips.
        rows: The networks compared.
        access_count: How often this test set has been evaluated on this machine.
        test_hash: Hash of the test set.
    """
    return TestReport(
        accuracy=accuracy.top1.value,
        interval=_ends_of(accuracy.top1),
        balanced_accuracy=accuracy.balanced_accuracy.value,
        balanced_interval=_ends_of(accuracy.balanced_accuracy),
        macro_f1=accuracy.macro_f1.value,
        per_class=[ClassMetrics.model_validate(row, extra="forbid") for row in accuracy.per_class],
        confusion=accuracy.confusion,
        ece=accuracy.ece,
        reliability=[ConfidenceBin.model_validate(point, extra="forbid") for point in accuracy.reliability],
        looks=access_count,
        hash=test_hash,
        rows=rows,
    )


def build_resolution(metric: Metric, clips: ClipSplit, best: Interval | None) -> AccuracyResolution:
    """The part ``resolution``: the smallest difference in the metric that the validation clips can show.

    Args:
        metric: The metric that candidates are compared by.
        clips: The validation clips.
        best: The metric of the best candidate, with its interval over groups; None where none was measured.
    """
    groups = len(np.unique(clips.groups))
    value = 0.5 if best is None else best.value
    count = len(clips) if metric == "accuracy" else int(count_effective_clips(clips.labels))
    points = resolvable_points(count, value)
    if best is not None and groups < len(clips):  # clips of one video err together, so that they show less
        points = max(points, 50 * (best.high - best.low))
    of = f" of {groups} groups" if groups < len(clips) else ""
    text = (
        f"With {len(clips)} validation clips{of}, {_A_METRIC[metric]} of {value:.0%} is known to about ±{points:.1f} "
        "points. A smaller difference between two candidates may be chance, unless the interval of their paired "
        "difference excludes 0."
    )
    return AccuracyResolution(n=len(clips), groups=groups, points=points, text=text)


def build_data_report(training_data: TrainingData) -> DataReport:
    """The part ``data``: number of clips in each split, classes, and the files that could not be read."""
    clips = training_data.clips
    return DataReport(
        train=len(clips.train),
        val=len(clips.val),
        test=len(clips.test),
        classes=list(clips.classes),
        unequal_classes=has_unequal_classes(clips.val.labels),
        quarantined=[QuarantinedClip(**clip) for clip in clips.quarantined],
        split_note=clips.note,
        copies=[SplitCopyReport.model_validate(asdict(copy)) for copy in clips.copies],
    )


def thin_samples(latency: LatencyResult) -> list[float]:
    """A subset of the latency samples in milliseconds, evenly spaced, for the charts: fewer than 2400."""
    samples = [s for process in latency.samples_ms for s in process]
    step = max(len(samples) // _MAX_SAMPLES, 1)
    return [round(s, 5) for s in samples[::step]]
