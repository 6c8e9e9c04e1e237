"""Stage 9: build the report of a run and write it as JSON and as pages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from skd_bench.device.info import device_id
from skd_bench.files import sha256_file, write_json
from skd_bench.metrics.class_averages import METRIC_NAMES
from skd_edge.labels.audit.label_report import build_label_report
from skd_edge.labels.class_hierarchy import collapse_confusion
from skd_edge.labels.cleaning.pseudo_labels import PseudoLabels
from skd_edge.labels.dataset import TrainingData
from skd_edge.pipeline.context import RunContext
from skd_edge.pipeline.results import EvaluatedCandidates, RunResult
from skd_edge.pipeline.stages.engine_notes import build_engine_notes
from skd_edge.pipeline.stages.reject_threshold import format_reject_note
from skd_edge.recipe.labels import NoiseSettings
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.report import builder
from skd_edge.report.html import render_run
from skd_edge.report.schema import (
    REPORT_FILE,
    SCHEMA_VERSION,
    CandidateReport,
    ChosenCandidate,
    LabelReport,
    LatencyBudget,
    RunReport,
    TestReport,
)
from skd_edge.schedule.candidates import TEACHER_KEY, Candidate, list_candidates, teacher_deployment
from skd_edge.version import VERSION


def write_report(ctx: RunContext, result: RunResult) -> Path:
    """Write ``report.json``, ``latency.json`` and the pages; returns the path of the HTML page."""
    latency = {c.name: one.latency.samples_ms for c, one in result.evaluated.results.items()}
    write_json(ctx.run.folder / "latency.json", latency)
    content = ctx.recipe.path_texts.hide_values(build_report(ctx, result).model_dump(mode="json", by_alias=True))
    report = write_json(ctx.run.folder / REPORT_FILE, content)
    ctx.run.record_event("report", sha256=sha256_file(report))
    render_run(ctx.run.folder)
    page = ctx.run.folder / "report.html"
    ctx.console.log(f"report: {page}")
    return page


def build_report(ctx: RunContext, result: RunResult) -> RunReport:
    """The content of ``report.json``; `skd_edge.report.schema` describes its fields."""
    recipe, data, evaluated = result.benchmark.recipe, result.data, result.evaluated
    device_info = ctx.device.device_info
    rows = [_build_candidate_row(result, c) for c in list_candidates(recipe)]
    metric = recipe.choice.metric
    scores = [one.accuracy.metric_interval(metric) for one in evaluated.results.values()]
    test, budget_ms = result.test.report if result.test else None, result.benchmark.budget_ms
    groups = data.clips.val.groups
    labels = build_label_report(_find_pseudo_labels(recipe, result), data)
    return RunReport(
        schema=SCHEMA_VERSION,
        name=recipe.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=VERSION,
        seed=recipe.seed,
        seconds=round(ctx.seconds, 1),
        licences=recipe.licences.model_dump(),
        headline=_format_headline(result),
        chosen=_find_chosen_row(result, rows),
        candidates=rows,
        metric=metric,
        budget=LatencyBudget(text=recipe.choice.budget or "", ms=budget_ms) if budget_ms else None,
        baselines=[_build_teacher_row(result)] if evaluated.teacher else [],
        jobs=builder.build_job_rows(result.trained.job_results, groups, result.untrained_reasons),
        labels=LabelReport.model_validate(labels, extra="forbid"),
        data=builder.build_data_report(data),
        test=test,
        resolution=builder.build_resolution(metric, data.clips.val, max(scores, key=lambda s: s.value, default=None)),
        latency_samples={c.name: builder.thin_samples(one.latency) for c, one in evaluated.results.items()},
        device={**device_info, "id": device_id(device_info)},
        notes=_build_notes(ctx, result) + _build_parent_class_notes(test, data.clips.classes),
        recipe=resolved_yaml(recipe),
    )


def _find_pseudo_labels(recipe: Recipe, result: RunResult) -> PseudoLabels | None:
    """The pseudo-labels computed with the last teacher job; None where students were trained on the weak labels."""
    teacher_job = next((f.job for f in result.trained.job_results if f.job.spec.role == "teacher"), None)
    if teacher_job is None or not recipe.labels.optimise:
        return None
    return result.trained.executor.pseudo_labels(teacher_job)


def _format_headline(result: RunResult) -> str:
    """One sentence: what to ship, with its metric and latency, or why nothing can be shipped."""
    chosen, teacher = result.chosen, result.evaluated.teacher
    recipe = result.benchmark.recipe
    if chosen is None:
        return f"Nothing to ship: {result.decision.why}."
    chosen_result = result.evaluated.results[chosen]
    metric, p50 = recipe.choice.metric, chosen_result.latency.p50
    score = chosen_result.accuracy.metric_interval(metric)
    of = "" if metric == "accuracy" else f" {METRIC_NAMES[metric]}"
    teacher_p50 = teacher.latency.p50 if teacher else None
    faster = f", {teacher_p50.value / p50.value:.1f} x as fast as the teacher" if p50 and teacher_p50 else ""
    where = f" on {chosen.deployment.runtime}" if len(recipe.bench.runtime) > 1 else ""
    cv = recipe.cross_validation
    verb = f"Fold {cv.fold} of {cv.folds} chooses" if cv and cv.fold else "Ship"
    return (
        f"{verb} {chosen.student} in {chosen.deployment.precision.upper()}{where}, trained by "
        f"{' > '.join(chosen.path)}: "
        f"{score.value:.1%}{of} [{score.low:.1%}, {score.high:.1%}] on validation at {p50.value if p50 else 0:.2f} ms"
        f"{faster}."
    )


# ------------------------------------------------------------------------------------------ notes
def _build_notes(ctx: RunContext, result: RunResult) -> list[str]:
    """Sentences that a reader needs to interpret the numbers of the report."""
    recipe, evaluated = result.benchmark.recipe, result.evaluated
    notes = [*_build_measurement_notes(ctx, recipe, evaluated), *evaluated.warnings, *result.bundle.warnings]
    if recipe.fold is not None:
        notes.append("This is one fold of a cross-validation: its network is not shipped, and there is no bundle.")
    if evaluated.teacher is None:
        notes.append("The teacher could not be exported, so it is neither measured nor in the test table.")
    notes += _build_label_notes(recipe.labels.noise, recipe, result.data)
    if result.chosen is not None:
        chosen = evaluated.results[result.chosen]
        if text := format_reject_note(ctx.scorer, result.data, chosen, result.test):
            notes.append(text)
    if result.data.unlabelled_count:
        notes.append(
            f"{result.data.unlabelled_count} of {len(result.data.weak_labels)} training clips have no label; they are "
            "used through teacher outputs and pseudo-labels, and count as wrong before optimisation."
        )
    if unsteady := [c.name for c, one in evaluated.results.items() if not one.latency.steady]:
        notes.append(
            f"Latency did not settle within 10 % during warm-up for: {', '.join(unsteady)}; the machine was busy."
        )
    return notes


def _build_measurement_notes(ctx: RunContext, recipe: Recipe, evaluated: EvaluatedCandidates) -> list[str]:
    bench = recipe.bench
    notes = [
        "Accuracies are those of the exported files on the validation clips, with one view of each clip.",
        f"Latency: single-stream, batch 1, network only, {bench.threads} thread(s), {bench.processes} fresh processes "
        f"of {bench.queries} queries each, candidates interleaved.",
        "The validation clips selected the epoch of each job and the candidate, so accuracies on them are slightly "
        "optimistic. The test table does not have this bias.",
    ]
    if not ctx.device.is_local:
        notes.append(
            f"Latencies were measured on {ctx.device.name}, whose device info this report shows. Accuracies of files "
            "on a CPU were computed on the machine that trained them, those of files on a GPU on that device."
        )
    notes += build_engine_notes(ctx.device.name, recipe, evaluated)
    if len(bench.runtime) > 1:
        notes.append(
            f"Every file was measured and scored on {' and '.join(bench.runtime)}, so each accuracy belongs to a file "
            f"on one runtime. The teacher was measured on {bench.runtime[0]}; in the test table every file runs on the "
            "runtime of the chosen one."
        )
    return notes


def _build_label_notes(noise: NoiseSettings, recipe: Recipe, data: TrainingData) -> list[str]:
    notes, injected = [], data.injected_noise_rate
    if noise.kind == "voters":
        notes.append(
            f"The recipe simulated {noise.voters} annotators. On average, {noise.rate:.0%} of an annotator's votes are "
            f"wrong and they skip {noise.abstain_share:.0%} of the clips (seed {recipe.seed}). {injected:.0%} of the "
            f"labels that result from their votes ({recipe.labels.aggregate}) are wrong."
        )
    elif noise.kind == "model":
        notes.append(
            f"The labels are the answers of a weak model, fitted on clips that are in no split (labels.noise.held_out "
            f"{noise.held_out:.0%} of the training clips, seed {recipe.seed}); {injected:.0%} of them are wrong."
        )
    elif injected is not None:
        notes.append(f"The recipe made {injected:.0%} of the training labels wrong ({noise.kind}), seed {recipe.seed}.")
    if data.trusted is not None:
        notes.append(
            f"{data.trusted.sum()} training labels were checked by a person and were not changed (labels.trusted)."
        )
    notes += data.label_notes
    return notes


def _build_parent_class_notes(test: TestReport | None, classes: Sequence[str]) -> list[str]:
    """Where class names are ``parent/child``: the accuracy of the chosen file for the parents, and clips per parent."""
    parents = collapse_confusion(test.confusion, classes) if test and test.confusion else None
    if parents is None:
        return []
    support = ", ".join(f"{name} {count}" for name, count in zip(parents.classes, parents.support, strict=True))
    return [
        f"The chosen file names the right parent class in {parents.accuracy:.1%} of the test clips "
        f"(test clips of each parent: {support})."
    ]


# ------------------------------------------------------------------------------------------ rows
def _build_candidate_row(result: RunResult, c: Candidate) -> CandidateReport:
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


def _build_teacher_row(result: RunResult) -> CandidateReport:
    recipe = result.benchmark.recipe
    name, latency = recipe.teacher.name, result.benchmark.latency[TEACHER_KEY]
    candidate = Candidate((name,), name, teacher_deployment(recipe), name)
    row = builder.build_candidate_row(
        candidate, result.evaluated.teacher, latency, result.decision, "the teacher, to compare", None
    )
    return row.model_copy(update={"name": TEACHER_KEY})


def _find_chosen_row(result: RunResult, rows: list[CandidateReport]) -> ChosenCandidate | None:
    row = next((r for r in rows if r.chosen), None)
    return None if row is None else ChosenCandidate.model_validate(row.model_dump() | {"why": result.decision.why})
