"""The one result object of a run (``report.json``), gathered from what the run found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.benchmark.latency import LatencyResult
from skd_bench.metrics.accuracy import AccuracyMetrics
from skd_bench.stats import Interval, mean_interval, paired_difference, resolvable_points
from skd_edge.version import VERSION
from skd_edge.evaluation.evaluator import CandidateResult
from skd_edge.execution.local_executor import JobResult
from skd_edge.labels.dataset import TrainingData
from skd_edge.recipe.schema import Recipe
from skd_edge.schedule.candidates import Candidate
from skd_edge.schedule.selection import Decision
from skd_export.analysis.operator_profile import group_by_operator

_MAX_SAMPLES = 1200
FIRST_TEACHER_NAME = "first teacher"  # the job that learns from the weak labels as they are
Json = dict[str, Any]


def build_candidate_row(
    candidate: Candidate,
    candidate_result: CandidateResult | None,
    untrained_latency: LatencyResult | None,
    decision: Decision,
    reason: str,
    job_hash: str | None,
) -> Json:
    """One row of ``candidates``: measured and scored, or weighed with random weights only, or not even that."""
    latency, deployment = candidate_result.latency if candidate_result else untrained_latency, candidate.deployment
    p50 = latency.p50 if latency else None
    row: Json = {
        "name": candidate.name,
        "path": list(candidate.path),
        "student": candidate.student,
        "precision": deployment.precision,
        "runtime": deployment.runtime,
        "job": job_hash,
        "trained": candidate_result is not None,
        "reason": reason,
        "chosen": candidate.name == decision.chosen,
        "on_front": candidate.name in decision.pareto_front,
        **(build_latency_fields(latency) if latency else {"p50_ms": None}),
    }
    if candidate_result is None:
        return row | {"accuracy": None, "interval": None, "eligible": False}
    accuracy = candidate_result.accuracy
    return row | {
        "accuracy": accuracy.top1.value,
        "interval": [accuracy.top1.low, accuracy.top1.high],
        "macro_f1": accuracy.macro_f1,
        "bytes": candidate_result.path.stat().st_size,
        "accuracy_per_ms": accuracy.top1.value / p50.value if p50 else None,
        "eligible": candidate_result.rejection_reason is None,
        "parity": candidate_result.parity,
        "operators": candidate_result.metadata.get("operators"),
        "ece": accuracy.ece,
        "fates": group_by_operator(candidate_result.metadata.get("fates", [])),
        "left_out": candidate_result.metadata.get("excluded", []),
    }


def build_latency_fields(latency: LatencyResult) -> Json:
    """Percentiles in milliseconds (null where the queries do not carry them) and the cold start."""

    def value_or_none(interval: Interval | None) -> float | None:
        return None if interval is None else interval.value

    p50 = latency.p50
    return {
        "p50_ms": value_or_none(p50),
        "p50_interval": [p50.low, p50.high] if p50 else None,
        "p90_ms": value_or_none(latency.p90),
        "p99_ms": value_or_none(latency.p99),
        "queries": latency.n,
        "steady": latency.steady,
        "load_ms": latency.load_ms,
        "first_ms": latency.first_ms,
        **({"joules_per_clip": j.value, "joules_interval": [j.low, j.high]} if (j := latency.joules) else {}),
    }


def build_job_rows(
    job_results: Sequence[JobResult], groups: NDArray[np.int64], pruned: Mapping[tuple[str, ...], str]
) -> list[Json]:
    """One row for each job; a student's gain is over the same network trained alone. Pruned cascades come last.

    A cascade that was given up after a rung shows that rung's accuracy and seconds.
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


def _build_pruned_row(path: tuple[str, ...], why: str, truncated_job: JobResult | None) -> Json:
    row: Json = {
        "job": f"pruned-{path[-1]}" if len(path) == 2 else f"pruned-{'>'.join(path[1:])}",
        "learner": path[-1],
        "teacher": None,
        "path": list(path),
        "role": "student",
        "state": "pruned",
        "reason": why,
    }
    if truncated_job is None:
        return row
    return row | {
        "teacher": truncated_job.job.spec.teacher,
        "accuracy": truncated_job.accuracy,
        "epochs": truncated_job.job.spec.epochs,
    }


def _build_job_row(job_result: JobResult, trained_alone: Mapping[str, JobResult], groups: NDArray[np.int64]) -> Json:
    job = job_result.job.spec
    accuracy = mean_interval(job_result.correct.astype(float), groups.tolist())
    control = trained_alone.get(job.learner.name) if job.role in ("student", "kd") else None
    gain = None
    if control is not None:
        gain = paired_difference(job_result.correct.astype(float), control.correct.astype(float), groups.tolist())
    state, state_reason = (
        ("cached", "an earlier run trained it") if job_result.cached else ("trained", "trained in this run")
    )
    is_first_pass = job.role == "scout"  # the teacher's first pass is a root of its own in the drawing
    name = FIRST_TEACHER_NAME if is_first_pass and not (job.start or job.fold) else job.path[-1]
    return {
        "job": job_result.job.hash,
        "learner": name if is_first_pass else job.learner.name,
        "teacher": job.teacher or job.start,
        "path": [name] if is_first_pass else list(job.path),
        "kind": job.role,
        "role": "control" if job.role in ("alone", "kd") else "teacher" if is_first_pass else job.role,
        "accuracy": accuracy.value,
        "interval": [accuracy.low, accuracy.high],
        "gain": None if gain is None else 100 * gain.value,
        "gain_interval": None if gain is None else [100 * gain.low, 100 * gain.high],
        "gain_over": None if gain is None else "the same network alone",
        "seconds": job_result.seconds,
        "epochs": job.epochs,
        "state": state,
        "reason": state_reason,
        "curve": job_result.curve,
    }


def build_test_report(accuracy: AccuracyMetrics, rows: list[Json], access_count: int, test_hash: str) -> Json:
    """The chosen file on the untouched test clips, beside the controls."""
    return {
        "accuracy": accuracy.top1.value,
        "interval": [accuracy.top1.low, accuracy.top1.high],
        "macro_f1": accuracy.macro_f1,
        "per_class": accuracy.per_class,
        "confusion": accuracy.confusion,
        "ece": accuracy.ece,
        "reliability": accuracy.reliability,
        "looks": access_count,
        "hash": test_hash,
        "rows": rows,
    }


def build_resolution(n: int, accuracy: float) -> Json:
    """How small a difference the validation clips can show."""
    points = resolvable_points(n, accuracy)
    text = (
        f"{n} validation clips at {accuracy:.0%} fix an accuracy to about ±{points:.1f} points; "
        "smaller differences between candidates may be chance unless their paired interval says otherwise."
    )
    return {"n": n, "points": points, "text": text}


def build_data_report(training_data: TrainingData) -> Json:
    """How many clips there are, and which files could not be read."""
    clips = training_data.clips
    return {
        "train": len(clips.train),
        "val": len(clips.val),
        "test": len(clips.test),
        "classes": list(clips.classes),
        "quarantined": list(clips.quarantined),
        "split_note": clips.note,
    }


def thin_samples(latency: LatencyResult) -> list[float]:
    """At most some hundred raw samples, evenly picked, for the histogram."""
    samples = [s for process in latency.samples_ms for s in process]
    step = max(len(samples) // _MAX_SAMPLES, 1)
    return [round(s, 5) for s in samples[::step]]


def build_run_header(recipe: Recipe, seconds: float) -> Json:
    """What the run is."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "schema": 1,
        "name": recipe.name,
        "created": now,
        "version": VERSION,
        "seed": recipe.seed,
        "seconds": round(seconds, 1),
        "licences": recipe.licences.model_dump(),
    }
