"""The report of a run: its parts, its notes, and what its first line says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skd_bench.device.info import device_id
from skd_bench.files import write_json
from skd_edge.labels.audit.label_report import build_label_report
from skd_edge.labels.class_hierarchy import collapse_confusion
from skd_edge.labels.cleaning.pseudo_labels import PseudoLabels
from skd_edge.labels.dataset import TrainingData
from skd_edge.pipeline.context import RunContext
from skd_edge.pipeline.results import RunResult
from skd_edge.pipeline.stages.reject_threshold import format_reject_note
from skd_edge.recipe.labels import NoiseSettings
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.report import builder
from skd_edge.report.html import render_run
from skd_edge.report.schema import REPORT_FILE, RunReport, make_report
from skd_edge.schedule.candidates import TEACHER_KEY, Candidate, list_candidates, teacher_deployment

Json = dict[str, Any]


def write_report(ctx: RunContext, result: RunResult) -> Path:
    """Write ``report.json``, ``latency.json``, and the pages made of them; returns the HTML page."""
    latency = {c.name: w.latency.samples_ms for c, w in result.evaluated.results.items()}
    write_json(ctx.run.folder / "latency.json", latency)
    write_json(ctx.run.folder / REPORT_FILE, build_report(ctx, result).model_dump(mode="json", by_alias=True))
    render_run(ctx.run.folder)
    page = ctx.run.folder / "report.html"
    ctx.console.log(f"report: {page}")
    return page


def build_report(ctx: RunContext, result: RunResult) -> RunReport:
    """The content of ``report.json``; `skd_edge.report.schema` describes its fields and refuses others."""
    recipe, data, evaluated = result.benchmark.recipe, result.data, result.evaluated
    device_info = ctx.device.device_info
    rows = [_build_candidate_row(result, c) for c in list_candidates(recipe)]
    accuracy = max((w.accuracy.top1.value for w in evaluated.results.values()), default=0.5)
    test, budget_ms = result.test.report if result.test else None, result.benchmark.budget_ms
    groups = data.clips.val.groups
    fields = builder.build_run_header(recipe, ctx.seconds) | {
        "headline": _format_headline(result),
        "chosen": _find_chosen_row(result, rows),
        "candidates": rows,
        "budget": {"text": recipe.choice.budget, "ms": budget_ms} if budget_ms else None,
        "baselines": [_build_teacher_row(result)] if evaluated.teacher else [],
        "jobs": builder.build_job_rows(result.trained.job_results, groups, result.untrained_reasons),
        "labels": build_label_report(_find_pseudo_labels(recipe, result), data),
        "data": builder.build_data_report(data),
        "test": test,
        "resolution": builder.build_resolution(len(data.clips.val), accuracy),
        "latency_samples": {c.name: builder.thin_samples(w.latency) for c, w in evaluated.results.items()},
        "device": device_info | {"id": device_id(device_info)},
        "notes": _build_notes(ctx, result) + _build_parent_class_notes(test, data.clips.classes),
        "recipe": resolved_yaml(recipe),
    }
    return make_report(fields)


def _find_pseudo_labels(recipe: Recipe, result: RunResult) -> PseudoLabels | None:
    """The pseudo-labels that the teacher's last job allows; None where training used the weak labels."""
    teacher_job = next((f.job for f in result.trained.job_results if f.job.spec.role == "teacher"), None)
    if teacher_job is None or not recipe.labels.optimise:
        return None
    return result.trained.executor.pseudo_labels(teacher_job)


def _format_headline(result: RunResult) -> str:
    """What to ship and why, in one sentence."""
    chosen, teacher = result.chosen, result.evaluated.teacher
    if chosen is None:
        return f"Nothing to ship: {result.decision.why}."
    w = result.evaluated.results[chosen]
    p50, top1 = w.latency.p50, w.accuracy.top1
    teacher_p50 = teacher.latency.p50 if teacher else None
    faster = f", {teacher_p50.value / p50.value:.1f} x as fast as the teacher" if p50 and teacher_p50 else ""
    where = f" on {chosen.deployment.runtime}" if len(result.benchmark.recipe.bench.runtime) > 1 else ""
    return (
        f"Ship {chosen.student} in {chosen.deployment.precision.upper()}{where}, trained by {' > '.join(chosen.path)}: "
        f"{top1.value:.1%} [{top1.low:.1%}, {top1.high:.1%}] on validation at {p50.value if p50 else 0:.2f} ms"
        f"{faster}."
    )


# ------------------------------------------------------------------------------------------ notes
def _build_notes(ctx: RunContext, result: RunResult) -> list[str]:
    """What a reader must know to read the numbers right."""
    recipe, evaluated = result.benchmark.recipe, result.evaluated
    notes = [*_build_measurement_notes(ctx, recipe), *evaluated.warnings, *result.bundle.warnings]
    if evaluated.teacher is None:
        notes.append("The teacher could not be exported, so it is neither measured nor on the test table.")
    notes += _build_label_notes(recipe.labels.noise, recipe, result.data)
    if result.chosen is not None:
        chosen = evaluated.results[result.chosen]
        if text := format_reject_note(ctx.scorer, result.data, chosen, result.test):
            notes.append(text)
    if result.data.unlabelled_count:
        notes.append(
            f"{result.data.unlabelled_count} of {len(result.data.weak_labels)} training clips have no label; they take "
            "part through the teacher and pseudo-labels, and count as not right before optimisation."
        )
    if unsteady := [c.name for c, w in evaluated.results.items() if not w.latency.steady]:
        notes.append(
            f"Latency did not settle within 10 % during warm-up for: {', '.join(unsteady)}; the machine was busy."
        )
    return notes


def _build_measurement_notes(ctx: RunContext, recipe: Recipe) -> list[str]:
    bench = recipe.bench
    notes = [
        "Accuracies are of the exported files, one view a clip, on the validation clips.",
        f"Latency: single-stream, batch 1, network only, {bench.threads} thread(s), {bench.processes} fresh processes "
        f"of {bench.queries} queries each, candidates interleaved.",
        "Validation picked each job's epoch as well as the candidate, so validation accuracies are a little "
        "optimistic; the test table is not.",
    ]
    if not ctx.device.is_local:
        notes.append(
            f"Milliseconds are of {ctx.device.name}, whose device info this report shows; accuracies of the same "
            "files were computed on the machine that trained."
        )
    if len(bench.runtime) > 1:
        notes.append(
            f"Every file was measured and scored on {' and '.join(bench.runtime)}: an accuracy is of a file on a "
            f"runtime. The teacher's milliseconds are of {bench.runtime[0]}; the test table runs every file on the "
            "runtime of the chosen one."
        )
    return notes


def _build_label_notes(noise: NoiseSettings, recipe: Recipe, data: TrainingData) -> list[str]:
    notes, injected = [], data.injected_noise_rate
    if noise.kind == "voters":
        notes.append(
            f"The recipe simulated {noise.voters} annotators, the average one wrong in {noise.rate:.0%} of their votes "
            f"and leaving out {noise.abstain:.0%} of the clips (seed {recipe.seed}); {injected:.0%} of the labels that "
            f"they agree on ({recipe.labels.aggregate}) are wrong."
        )
    elif injected is not None:
        notes.append(
            f"The recipe made {noise.rate:.0%} of the training labels wrong ({noise.kind}), seed {recipe.seed}."
        )
    if data.trusted is not None:
        notes.append(
            f"{data.trusted.sum()} training labels were checked by a person and stayed as they are (labels.trusted)."
        )
    return notes


def _build_parent_class_notes(test: Json | None, classes: Sequence[str]) -> list[str]:
    """Where class names are ``parent/child``: how often the chosen file names the right parent, with its support."""
    parents = collapse_confusion(test["confusion"], classes) if test and test.get("confusion") else None
    if parents is None:
        return []
    support = ", ".join(f"{name} {count}" for name, count in zip(parents.classes, parents.support, strict=True))
    return [
        f"At the level of parents ({support} test clips) the chosen file is right on {parents.accuracy:.1%} of the test "
        "clips."
    ]


# ------------------------------------------------------------------------------------------ rows
def _build_candidate_row(result: RunResult, c: Candidate) -> Json:
    job, benchmark = result.trained.find(c.path), result.benchmark
    reason = result.decision.reasons.get(c.name) or benchmark.unrunnable.get(c.deployment_key)
    reason = reason or benchmark.dropped.get(c.student) or result.trained.pruned.get(c.path, "")
    return builder.build_candidate_row(
        c,
        result.evaluated.results.get(c),
        benchmark.latency.get(c.deployment_key),
        result.decision,
        reason,
        job.job.hash if job else None,
    )


def _build_teacher_row(result: RunResult) -> Json:
    recipe = result.benchmark.recipe
    name, latency = recipe.teacher.name, result.benchmark.latency[TEACHER_KEY]
    candidate = Candidate((name,), name, teacher_deployment(recipe), name)
    row = builder.build_candidate_row(
        candidate, result.evaluated.teacher, latency, result.decision, "the teacher, to compare", None
    )
    return row | {"name": TEACHER_KEY}


def _find_chosen_row(result: RunResult, rows: list[Json]) -> Json | None:
    row = next((r for r in rows if r["chosen"]), None)
    return None if row is None else row | {"why": result.decision.why}
