"""The end of a run: the chosen file confirmed once on the test clips, the bundle, the result object."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from skd_bench.device.info import device_id
from skd_bench.inference.reject_option import RejectOption
from skd_edge.version import VERSION
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.evaluation.evaluator import CandidateResult
from skd_edge.evaluation.litert_export import write_tflite
from skd_edge.evaluation.streaming_export import write_stream
from skd_edge.models.tsm import TSM
from skd_edge.pipeline.results import Json, RunResult
from skd_edge.pipeline.stages.confirm_on_test import compute_reject_option
from skd_edge.report import builder as build
from skd_edge.schedule.candidates import Candidate
from skd_export.bundle.writer import ModelFile, StreamModel, write_bundle


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
        created_by=f"skd-edge {VERSION}",
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
