"""Stage 8: write the bundle, the folder that goes to the device."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace

from skd_bench.device.info import device_id
from skd_bench.inference.reject_option import RejectOption
from skd_bench.video.types import WHOLE_FILE
from skd_edge.data.clip_length import measure_clip_seconds
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.evaluation.file_scorer import CandidateResult
from skd_edge.evaluation.litert_export import write_tflite
from skd_edge.evaluation.streaming_export import write_stream
from skd_edge.execution.job_results import JobResult
from skd_edge.labels.dataset import TrainingData
from skd_edge.models.tsm import TSM
from skd_edge.pipeline.context import RunContext
from skd_edge.pipeline.results import EvaluatedCandidates, TestResult, TrainedCascade, WrittenBundle
from skd_edge.pipeline.stages.reject_threshold import compute_reject_option, compute_temperature
from skd_edge.recipe.schema import Recipe
from skd_edge.report.schema import TestReport
from skd_edge.run_folder import read_journal
from skd_edge.schedule.candidates import Candidate
from skd_edge.schedule.selection import Decision
from skd_edge.version import VERSION
from skd_export.analysis.parity import summarize_parity
from skd_export.bundle.writer import (
    CalibrationClips,
    MeasuredValues,
    ModelFile,
    ModelOptions,
    StreamModel,
    check_replaceable,
    write_bundle,
)


def write_run_bundle(
    ctx: RunContext,
    data: TrainingData,
    trained: TrainedCascade,
    evaluated: EvaluatedCandidates,
    decision: Decision,
    test: TestResult | None,
) -> WrittenBundle:
    """Write the chosen file, and the chosen network's other precisions that are within their bounds.

    Where nothing was chosen, a bundle of an earlier choice is deleted.

    Raises:
        UserError: An additional file (LiteRT, streaming) cannot be exported, or the folder holds a file of the user.
    """
    chosen, target = evaluated.find(decision.chosen), ctx.run.folder / "bundle"
    own_files = {name for e in read_journal(ctx.run.folder) if e["event"] == "bundle" for name in e["files"]}
    check_replaceable(target, own_files)
    if chosen is None:  # a bundle of an earlier choice would not satisfy the current rule
        shutil.rmtree(target, ignore_errors=True)
        return WrittenBundle(None)
    recipe, job = ctx.recipe, trained.find(chosen.path)
    additional = _AdditionalFiles(ctx, data, trained, chosen, job)
    models = [
        _make_model_file(ctx, data, c, evaluated.results[c], test.report if test and c == chosen else None)
        for c in _one_per_precision(evaluated.results, chosen)
    ]
    has_tflite = any((model.precision, model.runtime) == ("fp32", "litert") for model in models)
    sampling, preprocess = inference_preprocessing(recipe.clip)
    if recipe.export.frame_size:
        preprocess = replace(preprocess, height=recipe.export.frame_size[0], width=recipe.export.frame_size[1])
    count = recipe.export.sample_clips
    folder = write_bundle(
        target,
        own_files=own_files,
        name=recipe.name,
        classes=list(data.clips.classes),
        sampling=sampling,
        preprocess=preprocess,
        models=models if has_tflite else models + additional.export_tflite(),
        licences=recipe.licences.model_dump(),
        created_by=f"skd-edge {VERSION}",
        provenance={
            "job": job.job.hash if job else None,
            "seed": recipe.seed,
            "data": data.clips.train.hash,
            "calibration": _fingerprint_calibration(recipe, data),
        },
        samples=list(data.sample_files[:count]) if count else [],
        stream=additional.export_stream(),
        contract="float_clip" if recipe.export.contract == "clip" else "uint8_frames",
        clip_seconds=measure_clip_seconds(
            data.clips.train.files, data.clips.train.spans, getattr(recipe.data, "frame_rate", WHOLE_FILE.frame_rate)
        ),
    )
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    ctx.run.record_event("bundle", files=files)
    return WrittenBundle(folder, tuple(additional.warnings))


def _one_per_precision(results: Mapping[Candidate, CandidateResult], chosen: Candidate) -> list[Candidate]:
    """The chosen network's candidates that are within their bounds: each precision once, the chosen one first.

    The chosen runtime is preferred. Another runtime is used where the file is out of its bounds on the chosen one.
    """
    within_bounds = [c for c in results if c.path == chosen.path and not results[c].rejection_reason]
    found: list[Candidate] = []
    for c in sorted(within_bounds, key=lambda c: (c != chosen, c.deployment.runtime != chosen.deployment.runtime)):
        if c.deployment.precision not in {other.deployment.precision for other in found}:
            found.append(c)
    return found


def _fingerprint_calibration(recipe: Recipe, data: TrainingData) -> CalibrationClips:
    """Identify the clips of INT8 calibration: their number, and a hash of training data, number and seed."""
    train = data.clips.train
    count = min(recipe.export.calibration_clips, len(train))
    key = hashlib.sha256(f"{train.hash}:{count}:{recipe.seed}".encode()).hexdigest()
    return {"clips": count, "sha256": key}


class _AdditionalFiles:
    """Exports files of the chosen student that are not candidates, and collects warnings about them for the report."""

    def __init__(
        self, ctx: RunContext, data: TrainingData, trained: TrainedCascade, chosen: Candidate, job: JobResult | None
    ) -> None:
        self.ctx, self.data, self.trained, self.chosen, self.job = ctx, data, trained, chosen, job
        self.warnings: list[str] = []

    def export_tflite(self) -> list[ModelFile]:
        """The chosen student as a LiteRT file, where the recipe wants one and the file is within its bounds."""
        if not self.ctx.recipe.export.litert or self.job is None:
            return []
        path = self.ctx.run.folder / "artefacts" / self.job.job.hash / "fp32.tflite"
        network = self.trained.executor.load_network(self.job.job)
        tflite = write_tflite(self.ctx.scorer, network, path, self.data.clips.val)
        accepted = tflite.file.rejection_reason is None
        if not accepted:
            self.warnings.append(f"the .tflite file is left out of the bundle: {tflite.file.rejection_reason}")
        self.ctx.run.record_event("tflite", name=self.chosen.name, accepted=accepted)
        return [tflite.to_model_file(self.chosen.student, self.chosen.path)] if accepted else []

    def export_stream(self) -> StreamModel | None:
        """The chosen student as a streaming model, which takes one frame at a time; None where it is not causal."""
        if self.job is None or not self.job.job.spec.learner.causal:
            return None
        network = self.trained.executor.load_network(self.job.job)
        assert isinstance(network, TSM)
        path = self.ctx.run.folder / "artefacts" / self.job.job.hash / "frame.stream"
        stream = write_stream(self.ctx.scorer, network, path, self.data.clips.val)
        self.warnings.append(stream.to_text())
        self.ctx.run.record_event(
            "streamed", name=self.chosen.name, p50_ms=stream.milliseconds, state=stream.model.state
        )
        return stream.model


def _make_model_file(
    ctx: RunContext, data: TrainingData, c: Candidate, result: CandidateResult, test: TestReport | None
) -> ModelFile:
    device_info, reject = ctx.device.device_info, compute_reject_option(ctx.scorer, data, result)
    figures = result.latency.to_json()
    measured: MeasuredValues = {
        "accuracy": result.accuracy.top1.value,
        "interval": [result.accuracy.top1.low, result.accuracy.top1.high],
        "test_accuracy": test.accuracy if test else None,
        "device": device_id(device_info),
        "device_name": device_info.get("cpu"),
        "p50_ms": figures["p50_ms"],
        "p50_interval": figures["p50_interval"],
        "p90_ms": figures["p90_ms"],
        "p99_ms": figures["p99_ms"],
    }
    if c.deployment.name != c.deployment.precision:  # else path and precision are the name
        measured["name"] = c.name
    if result.latency.joules:
        measured["joules_per_clip"] = result.latency.joules.value
    return ModelFile(
        result.path,
        c.deployment.precision,
        c.student,
        list(c.path),
        options=_model_options(result, reject, compute_temperature(ctx.scorer, data, result))
        | _engine_options(ctx, result),
        parity=summarize_parity(result.parity),
        measured=measured,
        runtime=c.deployment.runtime,
    )


_ENGINE_FACTS = ("engine_sha256", "runtime", "version", "gpu", "sm", "driver_cuda", "precision", "batches", "flags")


def _engine_options(ctx: RunContext, result: CandidateResult) -> ModelOptions:
    """How to compile the engine again, and what was measured here; empty for a file that is not compiled."""
    if "engine_sha256" not in result.facts:
        return {}
    build = ctx.recipe.bench.build
    return {
        "build": {"workspace_mib": build.workspace, "level": build.level, "tf32": build.tf32},
        "engine": {name: result.facts[name] for name in _ENGINE_FACTS if name in result.facts},
    }


def _model_options(result: CandidateResult, reject: RejectOption | None, temperature: float) -> ModelOptions:
    options: ModelOptions = {"optimisation": "all", "temperature": temperature}
    if result.runtime == "litert":
        metadata = result.metadata
        options = {"batch": metadata["batch"], "converter": metadata["converter"], "temperature": temperature}
    return {**options, "reject": reject.to_json()} if reject else options
