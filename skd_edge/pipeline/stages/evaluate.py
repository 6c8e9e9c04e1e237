"""Every trained student is exported, measured and scored."""

from __future__ import annotations

from pathlib import Path

from skd_bench.benchmark.latency import LatencyTarget
from skd_edge.evaluation.evaluator import CandidateEvaluator, CandidateResult
from skd_edge.evaluation.qat import fine_tune_int8, is_int8_out_of_bounds
from skd_edge.execution.local_executor import JobResult, LocalExecutor
from skd_edge.pipeline.console import RunConsole
from skd_edge.pipeline.stages.benchmark_untrained import (
    median_ms,
)
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run
from skd_edge.schedule.candidates import (
    Candidate,
    Deployment,
    list_candidates,
    teacher_deployment,
)


def evaluate_candidates(
    recipe: Recipe,
    run: Run,
    evaluator: CandidateEvaluator,
    executor: LocalExecutor,
    job_results: list[JobResult],
    teacher_exportable: bool,
    console: RunConsole,
) -> tuple[dict[Candidate, CandidateResult], CandidateResult | None]:
    """Export every trained student, measure all files side by side, score each; and the teacher's, where it has one."""
    roles = ("student", "teacher") if teacher_exportable else ("student",)
    results_by_path = {f.job.spec.path: f for f in job_results if f.job.spec.role in roles}
    exportable_candidates = [
        c for c in list_candidates(recipe) if c.path in results_by_path and c.deployment_key not in evaluator.unrunnable
    ]
    networks = {path: executor.load_network(f.job) for path, f in results_by_path.items()}
    files_by_path: dict[tuple[str, ...], dict[Deployment, Path]] = {}
    with console.progress_bar("exporting and measuring the trained files") as bar:
        for number, (path, network) in enumerate(networks.items()):
            bar.update(number, len(networks))
            precisions = recipe.export.precisions if len(path) > 1 else ("fp32",)
            exported = evaluator.export_trained(network, results_by_path[path].job.hash, precisions)
            if (
                recipe.export.qat_epochs
                and len(path) > 1
                and "int8" in exported
                and is_int8_out_of_bounds(exported["int8"])
            ):
                exported["int8"] = fine_tune_int8(
                    evaluator, executor, results_by_path[path].job, network, exported["int8"]
                )
            for precision, file in exported.items():
                run.record_event(
                    "artefact",
                    name=">".join(path),
                    precision=precision,
                    job=results_by_path[path].job.hash,
                    bytes=file.stat().st_size,
                )
            deployments = (
                [c.deployment for c in exportable_candidates if c.path == path]
                if len(path) > 1
                else [teacher_deployment(recipe)]
            )
            files_by_path[path] = {deployment: exported[deployment.precision] for deployment in deployments}
        targets = [
            LatencyTarget(f"{'>'.join(p)} {deployment.name}", file, deployment.runtime)
            for p, deployments in files_by_path.items()
            for deployment, file in deployments.items()
        ]
        latency = evaluator.measure_latency(targets, bar.update)
    results: dict[tuple[tuple[str, ...], Deployment], CandidateResult] = {}
    for path, network in networks.items():
        target_names = {deployment: f"{'>'.join(path)} {deployment.name}" for deployment in files_by_path[path]}
        for deployment, result in evaluator.evaluate_network(
            network, files_by_path[path], {f: latency[name] for f, name in target_names.items()}
        ).items():
            results[path, deployment] = result
            run.record_event(
                "measured",
                name=target_names[deployment],
                accuracy=result.accuracy.top1.value,
                p50_ms=median_ms(result.latency),
            )
    return {c: results[c.path, c.deployment] for c in exportable_candidates}, results.get(
        ((recipe.teacher.name,), teacher_deployment(recipe))
    )
