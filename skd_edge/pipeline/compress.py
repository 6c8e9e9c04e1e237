"""The story, top to bottom: weak labels and a teacher in, measured engines and a report out.

weigh every candidate with random weights -> clips -> train the tree of jobs -> export and weigh -> choose
-> confirm once on the test clips -> bundle -> report
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from skd_bench.benchmark.latency import LatencyTarget
from skd_bench.device.energy.meter import open_energy_meter
from skd_bench.errors import UserError
from skd_bench.files import write_json
from skd_bench.runtimes import find_runtime
from skd_edge import __version__
from skd_edge.data.sources.registry import list_classes
from skd_edge.distill.distributed import make_process_group
from skd_edge.distill.job import METHOD_VERSION
from skd_edge.evaluation.devices import Device, make_device
from skd_edge.evaluation.evaluator import CandidateEvaluator, CandidateResult
from skd_edge.evaluation.litert_export import check_litert_available
from skd_edge.evaluation.qat import fine_tune_int8, is_int8_out_of_bounds
from skd_edge.execution.executors import ExecutorName, make_executor_factory
from skd_edge.execution.job_graph import JobFactory, TrainingJob
from skd_edge.execution.local_executor import JobResult, LocalExecutor, OutOfMemory, check_teacher_floor
from skd_edge.execution.torchrun_executor import run_worker_rank
from skd_edge.labels.audit.label_report import describe_annotators
from skd_edge.labels.cleaning.confident_learning import require_cleanlab
from skd_edge.labels.dataset import TrainingData, load_training_data
from skd_edge.models.builder import validate_teacher
from skd_edge.pipeline.console import JobProgress, RunConsole
from skd_edge.pipeline.plan import Plan, fingerprint_of, plan
from skd_edge.pipeline.stages.benchmark_untrained import (
    benchmark_untrained,
    median_ms,
    propose_students,
    report_budget,
    warn_larger_than_teacher,
)
from skd_edge.pipeline.stages.bundle import RunResult, finalise_run
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Recipe, SelectionRule
from skd_edge.report.html import render_run
from skd_edge.run_folder import Run, read_journal
from skd_edge.schedule.candidates import (
    TEACHER_KEY,
    Candidate,
    Deployment,
    filter_by_budget,
    find_fastest_latencies,
    list_candidates,
    pool_latency_by_deployment,
    teacher_deployment,
)
from skd_edge.schedule.selection import CandidateMetrics, Decision, select_candidate
from skd_edge.schedule.successive_halving import Search

__all__ = ["Plan", "compress", "plan"]


def compress(
    recipe: Recipe,
    out: Path,
    *,
    console: Console | None = None,
    engine: ExecutorName = "local",
    threads: int | None = None,
    allow_code: bool = False,
    measurements: Sequence[Path] = (),
    python: str = "python3",
) -> Path:
    """Run a recipe from its clips to its report; what is finished already is not done again.

    Args:
        recipe: what to do.
        out: the run folder, new or of an earlier run.
        console: where progress is shown; None is silent.
        engine: where jobs are trained, see ``engine_of``.
        threads: of one job; None leaves torch's own choice.
        allow_code: whether the recipe's ``teacher_result.factory``, somebody's code, may run.
        measurements: what packs found on a device without a link, see ``Carried``; instead of measuring.
        python: the Python of ``bench.host``.

    Returns:
        The run folder, with ``report.html``, ``report.json``, ``report.md`` and ``bundle/``.

    Raises:
        UsageError: The run folder cannot be used, or the recipe names code and ``allow_code`` is False.
        UserError: Something that the recipe names is missing, or cannot be; no candidate is within the budget.
    """
    began, run_console = time.monotonic(), RunConsole(console)
    validate_teacher(recipe.teacher, clip=recipe.clip, seed=recipe.seed, allow_code=allow_code)
    if recipe.labels.method == "confident":
        require_cleanlab()
    if recipe.export.litert:
        check_litert_available()
    process_group = make_process_group()
    executor_factory = make_executor_factory(
        engine, threads=threads, allow_code=allow_code, process_group=process_group
    )
    if process_group.rank:
        run_worker_rank(process_group, recipe, out)
        return out
    energy = recipe.choice.max_joules is not None
    device = make_device(recipe.bench, out, measurements=measurements, python=python, energy=energy)
    check_measurable(recipe, device)
    with Run(out, resolved_yaml(recipe)) as run:
        warn_method_changed(run, run_console)
        run.record_event("started", recipe=recipe.name, seed=recipe.seed, version=__version__, method=METHOD_VERSION)
        # Before any clip is rendered or decoded: a budget that nobody can meet costs nothing but this.
        classes = list_classes(
            recipe.data, seed=recipe.seed, cache=run.cache, external_labels=recipe.labels.has_external_sources
        )
        check_reject_background(recipe.choice, classes)
        evaluator = CandidateEvaluator(recipe, classes, run.folder / "artefacts", device)
        evaluator.log = run_console.log
        recipe = evaluator.recipe = propose_students(recipe, run, evaluator, run_console)
        untrained_latency = benchmark_untrained(recipe, run, evaluator, run_console)
        p50_ms = {name: median_ms(one) for name, one in untrained_latency.items()}
        budget_ms = recipe.choice.budget_ms(p50_ms.get(TEACHER_KEY, math.nan))
        joules = {name: one.joules.value for name, one in untrained_latency.items() if one.joules}
        students, dropped = filter_by_budget(recipe, p50_ms, budget_ms, evaluator.untrained_megabytes, joules)
        report_budget(recipe, run, run_console, untrained_latency, budget_ms, dropped)
        warn_larger_than_teacher(recipe, students, run, evaluator, run_console)

        evaluator.training_data = training_data = prepare_data(recipe, run, run_console)
        job_factory = JobFactory(recipe, fingerprint_of(training_data))
        search = Search(
            job_factory,
            students,
            find_fastest_latencies(recipe, p50_ms),
            training_data.clips.val.groups,
            run.record_event,
        )
        executor = executor_factory(recipe, run, training_data)
        job_results = train(recipe, run, search, executor, run_console)

        candidate_results, teacher_result = evaluate_candidates(
            recipe, run, evaluator, executor, job_results, TEACHER_KEY in untrained_latency, run_console
        )
        decision = select_on_validation(recipe, run, training_data, candidate_results, budget_ms, run_console)
        run_result = RunResult(
            recipe,
            run,
            training_data,
            evaluator,
            executor,
            job_results,
            untrained_latency,
            candidate_results,
            teacher_result,
            decision,
            budget_ms,
            dropped,
            search.pruned,
        )
        write_json(run.folder / "report.json", finalise_run(run_result, time.monotonic() - began))
        render_run(run.folder)
        run.record_event("finished", seconds=round(time.monotonic() - began, 1))
        run_console.log(f"report: {run.folder / 'report.html'}")
    process_group.broadcast(None)  # nothing is left
    return out


def check_reject_background(choice: SelectionRule, classes: Sequence[str]) -> None:
    """Say at once what would otherwise be missed after the training."""
    background = choice.reject.background if choice.reject else None
    if background is not None and background not in classes:
        raise UserError(
            f"choice.reject.background {background!r} is no class of the data; there are: {', '.join(classes)}"
        )


def check_measurable(recipe: Recipe, device: Device) -> None:
    """Say before anything is made that a runtime does not load, or that joules are not counted here.

    Raises:
        UserError: With the runtime's or the meter's own reason.
    """
    for name in recipe.bench.runtime:  # also where another machine measures: accuracies are computed on this one
        find_runtime(name).import_libraries()
    if not device.energy or not device.is_local or device.cache_only:
        return
    if isinstance(meter := open_energy_meter(), str):
        raise UserError(
            f"choice.max_joules {recipe.choice.max_joules:g}: {meter}. Remove it, or let a device with an energy meter "
            "measure (bench.host)"
        )
    meter.close()


def warn_method_changed(run: Run, console: RunConsole) -> None:
    """Say when the run was begun by another version of the method, whose jobs have other hashes."""
    begun = [e for e in read_journal(run.folder) if e["event"] == "started"]
    if begun and (before := begun[-1].get("method", METHOD_VERSION)) != METHOD_VERSION:
        console.log(
            f"this run was begun with version {before} of the method and goes on with version {METHOD_VERSION}: its "
            "jobs are trained anew, the old ones stay in jobs/ and can be deleted"
        )


def prepare_data(recipe: Recipe, run: Run, console: RunConsole) -> TrainingData:
    """The clips, decoded once, and the labels that training may see."""
    with (
        console.progress_bar("rendering the generated clips") as rendering,
        console.progress_bar("decoding clips") as decoding,
        console.progress_bar("asking the voting models") as annotating,
    ):
        training_data = load_training_data(
            recipe,
            run.cache,
            render_progress=rendering.update,
            decode_progress=decoding.update,
            model_progress=annotating.update,
        )
    clips = training_data.clips
    run.record_event(
        "clips",
        train=len(clips.train),
        val=len(clips.val),
        test=len(clips.test),
        bad=len(clips.quarantined),
        unlabelled=training_data.unlabelled_count,
    )
    label_notes = (
        ""
        if training_data.injected_noise_rate is None
        else f", {training_data.injected_noise_rate:.0%} of the labels made wrong"
    )
    if training_data.unlabelled_count:
        label_notes += f", {training_data.unlabelled_count} training clips unlabelled"
    if training_data.trusted is not None:
        run.record_event("trusted", clips=int(training_data.trusted.sum()))
        label_notes += f", {training_data.trusted.sum()} labels checked by a person"
    if training_data.votes:
        run.record_event("votes", aggregate=recipe.labels.aggregate, annotators=describe_annotators(training_data))
        label_notes += f"; labels by {recipe.labels.aggregate} of {len(training_data.votes.annotators)} annotators"
    console.log(
        f"{len(clips.train)} training, {len(clips.val)} validation, {len(clips.test)} test clips; "
        f"{len(clips.classes)} classes{label_notes}; {len(clips.quarantined)} unreadable"
    )
    return training_data


def train(recipe: Recipe, run: Run, search: Search, executor: LocalExecutor, console: RunConsole) -> list[JobResult]:
    """What the search asks for; a network that does not fit into memory learns in half batches, under new hashes."""
    batch, halved = recipe.training.batch, search.job_factory.half_batch_networks
    halved |= read_halved_networks(run, recipe)
    while True:
        try:
            return run_search(recipe, search, executor, console)
        except OutOfMemory as error:
            if error.learner in halved:
                raise
            halved.add(error.learner)
            run.record_event("halved", learner=error.learner, batch=batch, reason=str(error))
            if executor.process_group.size > 1:  # the other processes still wait in the step that this one left
                raise UserError(
                    f"{error}; start the same command again: {error.learner}'s batches of {batch} will go "
                    "through in half parts"
                ) from error
            console.log(f"{error.learner}: out of memory; its batches of {batch} go through in half parts from now on")


def read_halved_networks(run: Run, recipe: Recipe) -> set[str]:
    """Names of the networks whose batches of this size did not fit into memory in this run."""
    events = (e for e in read_journal(run.folder) if e["event"] == "halved")
    return {e["learner"] for e in events if e["batch"] == recipe.training.batch}


def run_search(recipe: Recipe, search: Search, executor: LocalExecutor, console: RunConsole) -> list[JobResult]:
    """Step by step: what is finished decides what comes next."""
    job_results: list[JobResult] = []
    steps = search.iter_job_batches()
    jobs = next(steps)
    while True:
        job_results += (new_results := train_jobs(recipe, jobs, executor, console))
        try:
            jobs = steps.send({job_result.job.hash: job_result for job_result in new_results})
        except StopIteration:
            return job_results


def train_jobs(
    recipe: Recipe, jobs: list[TrainingJob], executor: LocalExecutor, console: RunConsole
) -> list[JobResult]:
    """These jobs, teachers first; a teacher below the recipe's floor stops it before anything learns from it."""
    job_results = []
    with JobProgress(console, jobs) as progress, closing(executor.train_all(jobs)) as finishing:
        executor.on_progress = progress.update_job
        for job_result in finishing:
            job_results.append(job_result)
            progress.finish_job(job_result)
            check_teacher_floor(recipe.teacher, job_result)
    return sorted(
        job_results, key=lambda job_result: jobs.index(job_result.job)
    )  # an engine may finish them in another order


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


def select_on_validation(
    recipe: Recipe,
    run: Run,
    training_data: TrainingData,
    candidate_results: dict[Candidate, CandidateResult],
    budget_ms: float | None,
    console: RunConsole,
) -> Decision:
    """Choose on the validation clips; the test clips are not looked at here."""
    size_or_energy_limit = (
        recipe.choice.max_megabytes or recipe.choice.max_joules
    )  # a slower precision may be wanted for these
    latency_ms = pool_latency_by_deployment({c: median_ms(w.latency) for c, w in candidate_results.items()})
    metrics = [
        CandidateMetrics(
            c.name,
            latency_ms[c],
            w.accuracy.top1.value,
            w.correct,
            w.accuracy.macro_f1,
            w.path.stat().st_size / 1e6,
            w.rejection_reason or (None if size_or_energy_limit else w.not_faster_reason),
            w.latency.joules.value if w.latency.joules else None,
        )
        for c, w in candidate_results.items()
    ]
    decision = select_candidate(metrics, recipe.choice, budget_ms, training_data.clips.val.groups)
    run.record_event("chosen", name=decision.chosen, why=decision.why, reasons=decision.reasons)
    for m in sorted(metrics, key=lambda m: m.p50_ms):
        mark = "->" if m.name == decision.chosen else "  "
        console.log(f"{mark} {m.name}: {m.accuracy:.1%}, {m.p50_ms:.2f} ms; {decision.reasons.get(m.name, '')}")
    return decision
