"""The end of a run: the chosen file confirmed once on the test clips, the bundle, the result object."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.benchmark.latency import LatencyResult
from skd_bench.device.info import device_id
from skd_bench.files import sha256_file, write_json
from skd_bench.inference.reject_option import RejectOption, choose_threshold
from skd_bench.metrics.accuracy import AccuracyMetrics, softmax
from skd_bench.stats import paired_difference
from skd_edge import __version__
from skd_edge.evaluation.evaluator import CandidateEvaluator, CandidateResult
from skd_edge.evaluation.litert_export import write_tflite
from skd_edge.evaluation.streaming_export import write_stream
from skd_edge.execution.local_executor import JobResult, LocalExecutor
from skd_edge.labels.audit.label_report import build_label_report
from skd_edge.labels.class_hierarchy import collapse_confusion
from skd_edge.labels.dataset import TrainingData, inference_preprocessing
from skd_edge.models.tsm import TSM
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.report import builder as build
from skd_edge.run_folder import Run
from skd_edge.schedule.candidates import TEACHER_KEY, Candidate, list_candidates, teacher_deployment
from skd_edge.schedule.selection import Decision
from skd_edge.test_set_ledger import record_test_access
from skd_export.bundle.writer import ModelFile, StreamModel, write_bundle

Json = dict[str, Any]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class RunResult:
    """Everything a run found out."""

    recipe: Recipe
    run: Run
    training_data: TrainingData
    evaluator: CandidateEvaluator
    executor: LocalExecutor
    job_results: list[JobResult]
    untrained_latency: dict[str, LatencyResult]
    candidate_results: dict[Candidate, CandidateResult]
    teacher_result: CandidateResult | None
    decision: Decision
    budget_ms: float | None
    dropped: dict[str, str]
    pruned: dict[tuple[str, ...], str]

    @property
    def chosen_candidate(self) -> Candidate | None:
        """The candidate to ship."""
        return next((c for c in self.candidate_results if c.name == self.decision.chosen), None)

    @property
    def untrained_reasons(self) -> dict[tuple[str, ...], str]:
        """The cascades that were not trained to the end, and why; one for each student that was never trained."""
        over_budget = {(self.recipe.teacher.name, student): why for student, why in self.dropped.items()}
        return over_budget | self.pruned

    def find_job_result(self, path: tuple[str, ...]) -> JobResult | None:
        """The finished job at the end of a path."""
        cascade_results = (f for f in self.job_results if f.job.spec.role in ("student", "teacher"))
        return next((f for f in cascade_results if f.job.spec.path == path), None)


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


def compute_reject_option(run_result: RunResult, candidate_result: CandidateResult) -> RejectOption | None:
    """The threshold below which a file keeps silent, set on the validation clips; None where none was asked for.

    It is 1 where not even the surest answers are right as often as ``choice.reject`` asks.
    """
    wanted, val = run_result.recipe.choice.reject, run_result.training_data.clips.val
    if wanted is None:
        return None
    logits = run_result.evaluator.compute_logits(candidate_result.path, val, candidate_result.runtime)
    chosen = choose_threshold(logits, val.labels, wanted.accuracy, val.groups.tolist())
    if chosen is None:
        return RejectOption(1.0, wanted.background)
    return RejectOption(chosen[0], wanted.background)


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


def evaluate_on_test(run_result: RunResult) -> Json | None:
    """Score the chosen file once on the untouched test clips, beside teacher and controls; note the look.

    All of them run on the chosen one's runtime.
    """
    if run_result.chosen_candidate is None:
        return None
    chosen, test = run_result.candidate_results[run_result.chosen_candidate], run_result.training_data.clips.test
    run_result.evaluator.chosen_candidate = run_result.chosen_candidate.name
    file = sha256_file(chosen.path) + (f" on {chosen.runtime}" if chosen.runtime != "ort" else "")
    access_count = record_test_access(test.hash, run=run_result.run.folder.absolute(), artefact=file)
    files = {"teacher (FP32 file)": run_result.teacher_result.path} if run_result.teacher_result else {}
    for role, name in (("alone", "student alone, weak labels"), ("kd", "student with plain KD")):
        for control in run_result.job_results:
            if control.job.spec.role == role and control.job.spec.learner.name == run_result.chosen_candidate.student:
                network = run_result.executor.load_network(control.job)
                exported = run_result.evaluator.export_trained(network, control.job.hash, ("fp32",))
                files[f"{name} (FP32 file)"] = exported["fp32"]
    files[f"skd-edge: {run_result.chosen_candidate.name}"] = chosen.path
    scored = {name: run_result.evaluator.score_file(path, test, chosen.runtime) for name, path in files.items()}
    accuracy, correct = scored[f"skd-edge: {run_result.chosen_candidate.name}"]
    rows = [_build_test_row(name, *each, correct, test.groups.tolist()) for name, each in scored.items()]
    run_result.run.record_event(
        "confirmed", name=run_result.chosen_candidate.name, test_accuracy=accuracy.top1.value, looks=access_count
    )
    return build.build_test_report(accuracy, rows, access_count, test.hash)


def write_run_bundle(run_result: RunResult, test: Json | None, device_info: Json) -> Path:
    """The folder that travels: the chosen file first, its other precisions behind it where they are within bounds.

    A file is there once: for the chosen runtime, or where it is outside its bounds on that one for another.
    """
    chosen, recipe = run_result.chosen_candidate, run_result.recipe
    assert chosen is not None
    within_bounds = [
        c
        for c in run_result.candidate_results
        if c.path == chosen.path and not run_result.candidate_results[c].rejection_reason
    ]
    one_per_precision: list[Candidate] = []
    for c in sorted(within_bounds, key=lambda c: (c != chosen, c.deployment.runtime != chosen.deployment.runtime)):
        if c.deployment.precision not in {other.deployment.precision for other in one_per_precision}:
            one_per_precision.append(c)
    job_result = run_result.find_job_result(chosen.path)
    sampling, preprocess = inference_preprocessing(recipe.clip)
    if recipe.export.frame_size:
        preprocess = replace(preprocess, height=recipe.export.frame_size[0], width=recipe.export.frame_size[1])
    return write_bundle(
        run_result.run.folder / "bundle",
        name=recipe.name,
        classes=list(run_result.training_data.clips.classes),
        sampling=sampling,
        preprocess=preprocess,
        models=[
            _make_model_file(
                c,
                run_result.candidate_results[c],
                test if c == chosen else None,
                device_info,
                compute_reject_option(run_result, run_result.candidate_results[c]),
            )
            for c in one_per_precision
        ]
        + _export_tflite(run_result),
        licences=recipe.licences.model_dump(),
        created_by=f"skd-edge {__version__}",
        provenance={
            "job": job_result.job.hash if job_result else None,
            "seed": recipe.seed,
            "data": run_result.training_data.clips.train.hash,
            "calibration": _fingerprint_calibration(run_result),
        },
        samples=_select_sample_clips(run_result),
        stream=_export_stream(run_result),
        contract="float_clip" if recipe.export.contract == "clip" else "uint8_frames",
    )


def _fingerprint_calibration(run_result: RunResult) -> Json:
    """Which training clips INT8 calibration saw: how many, and a hash of the data, their number and their draw."""
    train, recipe = run_result.training_data.clips.train, run_result.recipe
    count = min(recipe.export.calibration_clips, len(train))
    key = hashlib.sha256(f"{train.hash}:{count}:{recipe.seed}".encode()).hexdigest()
    return {"clips": count, "sha256": key}


def _export_tflite(run_result: RunResult) -> list[ModelFile]:
    """The chosen student for LiteRT, where the recipe asks for it and the file is within its bounds."""
    chosen = run_result.chosen_candidate
    job_result = run_result.find_job_result(chosen.path) if chosen else None
    if not run_result.recipe.export.litert or chosen is None or job_result is None:
        return []
    path = run_result.run.folder / "artefacts" / job_result.job.hash / "fp32.tflite"
    network, cascade_path = run_result.executor.load_network(job_result.job), list(chosen.path)
    model_file = write_tflite(run_result.evaluator, network, path, student=chosen.student, names=cascade_path)
    run_result.run.record_event("tflite", name=chosen.name, kept=model_file is not None)
    return [model_file] if model_file else []


def _export_stream(run_result: RunResult) -> StreamModel | None:
    """The chosen student frame by frame, where it is causal."""
    chosen = run_result.chosen_candidate
    assert chosen is not None
    job_result = run_result.find_job_result(chosen.path)
    if job_result is None or not job_result.job.spec.learner.causal:
        return None
    network = run_result.executor.load_network(job_result.job)
    assert isinstance(network, TSM)
    streamed = write_stream(
        run_result.evaluator, network, run_result.run.folder / "artefacts" / job_result.job.hash / "frame.stream"
    )
    run_result.evaluator.warnings.append(streamed.to_text())
    run_result.run.record_event("streamed", name=chosen.name, p50_ms=streamed.milliseconds, state=streamed.model.state)
    return streamed.model


def _make_model_file(
    c: Candidate, w: CandidateResult, test: Json | None, device_info: Json, reject: RejectOption | None
) -> ModelFile:
    measured = {
        "accuracy": w.accuracy.top1.value,
        "interval": [w.accuracy.top1.low, w.accuracy.top1.high],
        "test_accuracy": test["accuracy"] if test else None,
        "device": device_id(device_info),
        "device_name": device_info.get("cpu"),
        **{k: v for k, v in build.build_latency_fields(w.latency).items() if k.startswith("p")},
    }
    if c.deployment.name != c.deployment.precision:  # else path and precision say it
        measured["name"] = c.name
    if w.latency.joules:
        measured["joules_per_clip"] = w.latency.joules.value
    options = {"optimisation": "all"} | ({"reject": reject.to_json()} if reject else {})
    return ModelFile(
        w.path,
        c.deployment.precision,
        c.student,
        list(c.path),
        options=options,
        parity={k: v for k, v in w.parity.items() if k != "flips"},
        measured=measured,
        runtime=c.deployment.runtime,
    )


def _select_sample_clips(run_result: RunResult) -> list[tuple[Path, str]]:
    """Validation clips for the bundle: none unless the recipe asks."""
    count = run_result.recipe.export.sample_clips
    return list(run_result.training_data.sample_files[:count]) if count else []


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
