"""Stage 5: export every trained student, and measure the latency and accuracy of its files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from skd_bench.benchmark.latency import LatencyResult, LatencyTarget
from skd_bench.runtimes import uses_gpu
from skd_edge.evaluation.candidate_exporter import CalibrationClips, TrainedExporter
from skd_edge.evaluation.file_scorer import CandidateResult
from skd_edge.evaluation.qat import describe_qat, fine_tune_int8, is_int8_out_of_bounds
from skd_edge.execution.job_results import JobResult
from skd_edge.labels.dataset import TrainingData
from skd_edge.models.builder import AnyNetwork
from skd_edge.pipeline.context import RunContext
from skd_edge.pipeline.results import EvaluatedCandidates, TrainedCascade, UntrainedBenchmark
from skd_edge.recipe.schema import Recipe
from skd_edge.schedule.candidates import Deployment, list_candidates, list_files, median_ms, teacher_deployment
from skd_export.exporter import INT8

CascadePath = tuple[str, ...]


def evaluate(
    ctx: RunContext, benchmark: UntrainedBenchmark, data: TrainingData, trained: TrainedCascade
) -> EvaluatedCandidates:
    """Export every trained student, measure the latency of all files in one session, and score each file.

    The teacher's FP32 file is included where the teacher could be exported.

    Raises:
        UserError: A network cannot be exported, or the device cannot measure its files.
    """
    recipe = benchmark.recipe
    roles = ("student", "teacher") if benchmark.teacher_exported else ("student",)
    results_by_path = {f.job.spec.path: f for f in trained.job_results if f.job.spec.role in roles}
    candidates = [
        c for c in list_candidates(recipe) if c.path in results_by_path and c.deployment_key not in benchmark.unrunnable
    ]
    networks = {path: trained.executor.load_network(f.job) for path, f in results_by_path.items()}
    calibration = CalibrationClips(recipe, data)
    exports = _Exports(ctx, recipe, TrainedExporter(ctx.exporter, ctx.scorer, calibration), trained)
    files: dict[CascadePath, dict[Deployment, Path]] = {}
    with ctx.console.progress_bar("exporting and measuring the trained files") as bar:
        for number, (path, network) in enumerate(networks.items()):
            bar.update(number, len(networks))
            exported = exports.export(results_by_path[path], network)
            deployments = [c.deployment for c in candidates if c.path == path]
            if len(path) == 1:  # the teacher, to compare with
                deployments = [teacher_deployment(recipe)]
            files[path] = {deployment: exported[deployment.file] for deployment in deployments}
        targets = [
            LatencyTarget(_target_name(path, deployment), file, deployment.runtime)
            for path, files_by_deployment in files.items()
            for deployment, file in files_by_deployment.items()
        ]
        measured = ctx.device.measure(targets, bar.update, lambda: ctx.scorer.make_scoring_clips(data.clips.val))
    for name in measured.built:
        ctx.run.record_event("built", name=name)
    to_score = {(Path(t.path), t.runtime): t.name for t in targets if t.name in measured.latency}
    unscored = {to_score[f]: why for f, why in ctx.scorer.score_ahead(list(to_score), data.clips.val).items()}
    for name, reason in {**measured.refused, **unscored}.items():
        ctx.run.record_event("not_built", name=name, reason=reason)
        exports.warn(f"{name} cannot run on {ctx.device.name}: {reason}")
    latency = {name: one for name, one in measured.latency.items() if name not in unscored}
    results = _score_files(ctx, data, networks, files, latency)
    teacher = results.get(((recipe.teacher.name,), teacher_deployment(recipe)))
    found = {c: results[c.path, c.deployment] for c in candidates if (c.path, c.deployment) in results}
    return EvaluatedCandidates(found, teacher, tuple(exports.warnings))


def export_fp32(ctx: RunContext, data: TrainingData, trained: TrainedCascade, result: JobResult, file: str) -> Path:
    """Export the FP32 file of the teacher or a control (the student trained without the method), for the test table.

    Args:
        ctx: the run.
        data: its clips.
        trained: its jobs.
        result: the job of the network.
        file: key of the file (`Deployment.file`): for another runtime, FP32 may be another file.
    """
    exporter = TrainedExporter(ctx.exporter, ctx.scorer, CalibrationClips(ctx.recipe, data))
    return exporter.export(trained.executor.load_network(result.job), result.job.hash, (file,))[file]


class _Exports:
    """Exports the networks of a run one by one, and collects warnings about their files for the report."""

    def __init__(self, ctx: RunContext, recipe: Recipe, exporter: TrainedExporter, trained: TrainedCascade) -> None:
        self.ctx, self.recipe, self.exporter, self.trained = ctx, recipe, exporter, trained
        self.warnings: list[str] = []

    def export(self, result: JobResult, network: AnyNetwork) -> dict[str, Path]:
        """The files of one network by precision. An INT8 file out of its bounds is fine-tuned (quantisation-aware)."""
        path, job = result.job.spec.path, result.job
        precisions = list_files(self.recipe) if len(path) > 1 else (teacher_deployment(self.recipe).file,)
        if any(precision.startswith("int8") for precision in precisions):
            self._warn_single_class()
        exported = self.exporter.export(network, job.hash, precisions)
        epochs = self.recipe.export.qat_epochs
        for precision in INT8 if epochs and len(path) > 1 else ():
            if precision not in exported or not is_int8_out_of_bounds(exported[precision]):
                continue
            self.ctx.console.log(describe_qat(job, exported[precision], epochs))
            exported[precision], warning = fine_tune_int8(
                self.exporter, self.trained.executor, job, network, exported[precision]
            )
            self.warnings.append(warning)
        for precision, file in exported.items():
            size = file.stat().st_size
            self.ctx.run.record_event("artefact", name=">".join(path), precision=precision, job=job.hash, bytes=size)
        return exported

    def warn(self, text: str) -> None:
        """Show a warning once, and keep it for the report."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.ctx.console.log(f"warning: {text}")

    def _warn_single_class(self) -> None:
        if (text := self.exporter.calibration.single_class_warning()) is not None:
            self.warn(text)


def _score_files(
    ctx: RunContext,
    data: TrainingData,
    networks: dict[CascadePath, AnyNetwork],
    files: dict[CascadePath, dict[Deployment, Path]],
    latency: dict[str, LatencyResult],
) -> dict[tuple[CascadePath, Deployment], CandidateResult]:
    results: dict[tuple[CascadePath, Deployment], CandidateResult] = {}
    for path, network in networks.items():
        by_deployment = {d: latency[name] for d in files[path] if (name := _target_name(path, d)) in latency}
        if not by_deployment:
            continue
        measured_files = {deployment: files[path][deployment] for deployment in by_deployment}
        scored = ctx.scorer.evaluate_network(network, measured_files, by_deployment, data.clips.val)
        for deployment, result in scored.items():
            results[path, deployment] = result
            name = _target_name(path, deployment)
            if engine := result.facts.get("engine_sha256"):
                ctx.run.record_event(
                    "scored",
                    name=name,
                    engine=engine,
                    accuracy=result.accuracy.top1.value,
                    builds_ms=result.builds_ms,
                )
            if uses_gpu(deployment.runtime):
                _record_drift(ctx, name, result.latency)
            p50_ms = median_ms(result.latency)
            ctx.run.record_event("measured", name=name, accuracy=result.accuracy.top1.value, p50_ms=p50_ms)
    return results


def _record_drift(ctx: RunContext, name: str, latency: LatencyResult) -> None:
    """An event if times on a GPU did not settle, or if blocks around a change of the clock were dropped."""
    clocks = latency.clocks
    if latency.steady and not (clocks and clocks.dropped):
        return
    details = asdict(clocks) if clocks else {}
    ctx.run.record_event("drift", name=name, p50_ms=median_ms(latency), steady=latency.steady, **details)


def _target_name(path: CascadePath, deployment: Deployment) -> str:
    return f"{'>'.join(path)} {deployment.name}"
