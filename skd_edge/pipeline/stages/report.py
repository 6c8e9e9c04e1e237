"""The report of a run is written, and what its first lines say."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from skd_bench.device.info import device_id
from skd_bench.files import write_json
from skd_bench.metrics.accuracy import softmax
from skd_edge.labels.audit.label_report import build_label_report
from skd_edge.labels.class_hierarchy import collapse_confusion
from skd_edge.pipeline.results import Json, RunResult
from skd_edge.pipeline.stages.bundle import write_run_bundle
from skd_edge.pipeline.stages.confirm_on_test import compute_reject_option, evaluate_on_test
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.report import builder as build
from skd_edge.schedule.candidates import TEACHER_KEY, Candidate, list_candidates, teacher_deployment


def finalise_run(run_result: RunResult, seconds: float) -> Json:
    """Confirm, bundle, and gather the result object (``report.json``)."""
    device_info, recipe = run_result.evaluator.device.device_info, run_result.recipe
    test = evaluate_on_test(run_result)
    if run_result.chosen_candidate is not None:
        write_run_bundle(run_result, test, device_info)
    else:  # one of an earlier choice breaks the rule that holds now
        shutil.rmtree(run_result.run.folder / "bundle", ignore_errors=True)
    teacher_job = next((f.job for f in run_result.job_results if f.job.spec.role == "teacher"), None)
    pseudo_labels = run_result.executor.pseudo_labels(teacher_job) if teacher_job and recipe.labels.optimise else None
    rows = [_build_candidate_row(run_result, c) for c in list_candidates(recipe)]
    samples = {c.name: build.thin_samples(w.latency) for c, w in run_result.candidate_results.items()}
    accuracy = max((w.accuracy.top1.value for w in run_result.candidate_results.values()), default=0.5)
    report = build.build_run_header(recipe, seconds) | {
        "headline": format_headline(run_result),
        "chosen": _find_chosen_row(run_result, rows),
        "candidates": rows,
        "budget": {"text": recipe.choice.budget, "ms": run_result.budget_ms} if run_result.budget_ms else None,
        "baselines": [_build_teacher_row(run_result)] if run_result.teacher_result else [],
        "jobs": build.build_job_rows(
            run_result.job_results, run_result.training_data.clips.val.groups, run_result.untrained_reasons
        ),
        "labels": build_label_report(pseudo_labels, run_result.training_data),
        "data": build.build_data_report(run_result.training_data),
        "test": test,
        "resolution": build.build_resolution(len(run_result.training_data.clips.val), accuracy),
        "latency_samples": samples,
        "device": device_info | {"id": device_id(device_info)},
        "notes": build_report_notes(run_result)
        + build_parent_class_notes(test, run_result.training_data.clips.classes),
        "recipe": resolved_yaml(recipe),
    }
    write_json(
        run_result.run.folder / "latency.json",
        {c.name: w.latency.samples_ms for c, w in run_result.candidate_results.items()},
    )
    return report


def format_headline(run_result: RunResult) -> str:
    """What to ship and why, in one sentence."""
    chosen = run_result.chosen_candidate
    if chosen is None:
        return f"Nothing to ship: {run_result.decision.why}."
    w = run_result.candidate_results[chosen]
    p50, top1 = w.latency.p50, w.accuracy.top1
    teacher_p50 = run_result.teacher_result.latency.p50 if run_result.teacher_result else None
    faster = f", {teacher_p50.value / p50.value:.1f} x as fast as the teacher" if p50 and teacher_p50 else ""
    where = f" on {chosen.deployment.runtime}" if len(run_result.recipe.bench.runtime) > 1 else ""
    return (
        f"Ship {chosen.student} in {chosen.deployment.precision.upper()}{where}, trained by {' > '.join(chosen.path)}: "
        f"{top1.value:.1%} [{top1.low:.1%}, {top1.high:.1%}] on validation at {p50.value if p50 else 0:.2f} ms"
        f"{faster}."
    )


def build_report_notes(run_result: RunResult) -> list[str]:
    """What a reader must know to read the numbers right."""
    bench = run_result.recipe.bench
    notes = [
        "Accuracies are of the exported files, one view a clip, on the trusted validation clips.",
        f"Latency: single-stream, batch 1, network only, {bench.threads} thread(s), {bench.processes} fresh processes "
        f"of {bench.queries} queries each, candidates interleaved.",
        "Validation picked each job's epoch as well as the candidate, so validation accuracies are a little "
        "optimistic; the test table is not.",
    ]
    if not run_result.evaluator.device.is_local:
        notes.append(
            f"Milliseconds are of {run_result.evaluator.device.name}, whose card this report shows; accuracies of the same "
            "files were computed on the machine that trained."
        )
    if len(bench.runtime) > 1:
        notes.append(
            f"Every file was weighed and scored on {' and '.join(bench.runtime)}: an accuracy is of a file on a "
            f"runtime. The teacher's milliseconds are of {bench.runtime[0]}; the test table runs every file on the "
            "runtime of the chosen one."
        )
    notes += run_result.evaluator.warnings
    if run_result.teacher_result is None:
        notes.append("The teacher could not be exported, so it is neither measured nor on the test table.")
    noise, injected_noise_rate = run_result.recipe.labels.noise, run_result.training_data.injected_noise_rate
    if noise.kind == "voters":
        notes.append(
            f"The recipe simulated {noise.voters} voters, the average one wrong in {noise.rate:.0%} of his votes and "
            f"leaving out {noise.abstain:.0%} of the clips (seed {run_result.recipe.seed}); {injected_noise_rate:.0%} of the "
            f"labels that they agree on ({run_result.recipe.labels.aggregate}) are wrong."
        )
    elif injected_noise_rate is not None:
        notes.append(
            f"The recipe made {noise.rate:.0%} of the training labels wrong ({noise.kind}), seed {run_result.recipe.seed}."
        )
    if run_result.training_data.trusted is not None:
        notes.append(
            f"{run_result.training_data.trusted.sum()} training labels were checked by a person and stayed as they are "
            "(labels.trusted)."
        )
    if text := format_reject_note(run_result):
        notes.append(text)
    if run_result.training_data.unlabelled_count:
        notes.append(
            f"{run_result.training_data.unlabelled_count} of {len(run_result.training_data.weak_labels)} training clips have no label; they take "
            "part through the teacher and pseudo-labels, and count as not right before optimisation."
        )
    if unsteady := [c.name for c, w in run_result.candidate_results.items() if not w.latency.steady]:
        notes.append(
            f"Latency did not settle within 10 % during warm-up for: {', '.join(unsteady)}; the machine was busy."
        )
    return notes


def build_parent_class_notes(test: Json | None, classes: Sequence[str]) -> list[str]:
    """Where class names are ``parent/child``: how often the chosen file names the right parent, with its support."""
    parent_scores = collapse_confusion(test["confusion"], classes) if test and test.get("confusion") else None
    if parent_scores is None:
        return []
    support = ", ".join(
        f"{name} {count}" for name, count in zip(parent_scores.classes, parent_scores.support, strict=True)
    )
    return [
        f"At the level of parents ({support} test clips) the chosen file is right on {parent_scores.accuracy:.1%} of the test "
        "clips."
    ]


def format_reject_note(run_result: RunResult) -> str | None:
    """What the reject threshold of the chosen file does, on validation and on the test clips, in words."""
    if (
        run_result.chosen_candidate is None
        or (reject := compute_reject_option(run_result, run_result.candidate_results[run_result.chosen_candidate]))
        is None
    ):
        return None
    chosen, words = run_result.candidate_results[run_result.chosen_candidate], []
    for name, clips in (
        ("validation", run_result.training_data.clips.val),
        ("test", run_result.training_data.clips.test),
    ):
        probabilities = softmax(run_result.evaluator.compute_logits(chosen.path, clips, chosen.runtime))
        answered = probabilities.max(axis=1) >= reject.threshold
        right = (probabilities.argmax(axis=1) == clips.labels)[answered]
        words.append(
            f"{answered.mean():.1%} of the {name} clips" + (f" ({right.mean():.1%} right)" if len(right) else "")
        )
    replacement = f"called {reject.background!r}" if reject.background else "left unsure"
    return (
        f"Below a confidence of {reject.threshold:.3f} a clip is {replacement} (choice.reject, set on validation): the "
        f"chosen file answers {' and '.join(words)}. The accuracies above count every answer."
    )


def _build_candidate_row(run_result: RunResult, c: Candidate) -> Json:
    candidate_result, job_result = run_result.candidate_results.get(c), run_result.find_job_result(c.path)
    reason = run_result.decision.reasons.get(c.name) or run_result.evaluator.unrunnable.get(c.deployment_key)
    reason = reason or run_result.dropped.get(c.student) or run_result.pruned.get(c.path, "")
    return build.build_candidate_row(
        c,
        candidate_result,
        run_result.untrained_latency.get(c.deployment_key),
        run_result.decision,
        reason,
        job_result.job.hash if job_result else None,
    )


def _build_teacher_row(run_result: RunResult) -> Json:
    name = run_result.recipe.teacher.name
    candidate = Candidate((name,), name, teacher_deployment(run_result.recipe), name)
    return build.build_candidate_row(
        candidate,
        run_result.teacher_result,
        run_result.untrained_latency[TEACHER_KEY],
        run_result.decision,
        "the teacher, to compare",
        None,
    ) | {"name": TEACHER_KEY}


def _find_chosen_row(run_result: RunResult, rows: list[Json]) -> Json | None:
    row = next((r for r in rows if r["chosen"]), None)
    return None if row is None else row | {"why": run_result.decision.why}
