"""Builds the parts of ``report.json`` from the results of a run.

Each function returns one part as plain JSON; `skd_edge.report.schema` describes their fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.benchmark.latency import LatencyResult
from skd_bench.metrics.accuracy import AccuracyMetrics
from skd_bench.stats import Interval, mean_interval, paired_difference, resolvable_points
from skd_edge.evaluation.file_scorer import CandidateResult
from skd_edge.execution.local_executor import JobResult
from skd_edge.labels.dataset import TrainingData
from skd_edge.recipe.schema import Recipe
from skd_edge.schedule.candidates import Candidate
from skd_edge.schedule.selection import Decision
from skd_edge.version import VERSION
from skd_export.analysis.operator_profile import group_by_operator

_MAX_SAMPLES = 1200  # latency samples of one candidate in the report: enough for a chart, and the file stays small
FIRST_TEACHER_NAME = "first teacher"  # the teacher as it is trained on the weak labels, before they are optimised
Json = dict[str, Any]


def build_candidate_row(
    candidate: Candidate,
    candidate_result: CandidateResult | None,
    untrained_latency: LatencyResult | None,
    decision: Decision,
    reason: str,
    job_hash: str | None,
) -> Json:
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
    """The latency fields of a candidate: percentiles, loading time and first query, in milliseconds.

    A percentile is None where there are too few queries to estimate it. The energy fields are present only where energy
    was measured.
    """

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
        ("cached", "trained by an earlier run") if job_result.cached else ("trained", "trained in this run")
    )
    is_first_pass = job.role == "scout"  # the cascade diagram shows the teacher's first pass as a root of its own
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
    """The part ``test``: the chosen file on the test clips, next to the networks it is compared with.

    Args:
        accuracy: Metrics of the chosen file on the test clips.
        rows: Name, accuracy and interval of each network compared.
        access_count: How often this test set has been evaluated on this machine.
        test_hash: Hash of the test set.
    """
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
    """The part ``resolution``: the smallest difference in accuracy that ``n`` validation clips can show.

    Args:
        n: Number of validation clips.
        accuracy: An accuracy around which candidates are compared, 0..1.
    """
    points = resolvable_points(n, accuracy)
    text = (
        f"With {n} validation clips, an accuracy of {accuracy:.0%} is known to about ±{points:.1f} points. "
        "A smaller difference between two candidates may be chance, unless the interval of their paired difference "
        "excludes 0."
    )
    return {"n": n, "points": points, "text": text}


def build_data_report(training_data: TrainingData) -> Json:
    """The part ``data``: number of clips in each split, classes, and the files that could not be read."""
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
    """A subset of the latency samples in milliseconds, evenly spaced, for the charts: fewer than 2400."""
    samples = [s for process in latency.samples_ms for s in process]
    step = max(len(samples) // _MAX_SAMPLES, 1)
    return [round(s, 5) for s in samples[::step]]


def build_run_header(recipe: Recipe, seconds: float) -> Json:
    """The keys at the top of ``report.json``: schema, name, time, version, seed, duration in seconds, licences."""
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
