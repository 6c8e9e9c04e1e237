"""`compress`: a recipe is run from its clips to its report, stage by stage (`skd_edge.pipeline.stages`)."""

from __future__ import annotations

from pathlib import Path

from skd_edge.distill.distributed import make_process_group
from skd_edge.execution.torchrun_executor import run_worker_rank
from skd_edge.pipeline.context import RunOptions, make_run_device, make_run_executor, open_run
from skd_edge.pipeline.crossval.fold_answers import write_fold_answers
from skd_edge.pipeline.results import RunResult, WrittenBundle
from skd_edge.pipeline.stages.benchmark_untrained import benchmark_untrained
from skd_edge.pipeline.stages.bundle import write_run_bundle
from skd_edge.pipeline.stages.confirm_on_test import confirm_on_test, open_test_set
from skd_edge.pipeline.stages.evaluate import evaluate
from skd_edge.pipeline.stages.preflight import check_export_needs, check_measurable, check_training_needs, preflight
from skd_edge.pipeline.stages.prepare_data import prepare_data
from skd_edge.pipeline.stages.report import write_report
from skd_edge.pipeline.stages.select import select
from skd_edge.pipeline.stages.train import train
from skd_edge.recipe.schema import Recipe


def compress(recipe: Recipe, out: Path, options: RunOptions | None = None) -> Path:
    """Run a recipe from its clips to its report. Work that an earlier start finished is not repeated.

    Args:
        recipe: what to run.
        out: the run folder, new or of an earlier run.
        options: how to run it; no option changes a result. None: the defaults, without output.

    Returns:
        The run folder, with ``report.html``, ``report.json``, ``report.md`` and ``bundle/``. The run of one fold
        (``cross_validation.fold``) has no bundle; instead it has the answers on the fold's test clips.

    Raises:
        UsageError: The run folder cannot be used, or the recipe names code and ``allow_code`` is False.
        UserError: Something that the recipe names is missing or not usable, or no candidate is within the budget.
    """
    options, process_group = options or RunOptions(), make_process_group()
    check_training_needs(recipe, allow_code=options.allow_code)
    check_export_needs(recipe)
    make_executor = make_run_executor(recipe, options, process_group)
    if process_group.rank:
        run_worker_rank(process_group, recipe, out)
        return out
    device = make_run_device(recipe, out, options)
    check_measurable(recipe, device)
    with open_run(recipe, out, options, device=device, make_executor=make_executor) as ctx:
        preflight(ctx)
        benchmark = benchmark_untrained(ctx)
        data = prepare_data(ctx, benchmark.recipe)
        trained = train(ctx, benchmark, data)
        evaluated = evaluate(ctx, benchmark, data, trained)
        decision = select(ctx, benchmark, data, evaluated)
        test_clips = open_test_set(ctx, data, evaluated, decision)
        test = confirm_on_test(ctx, data, trained, evaluated, test_clips)
        if recipe.fold is None:
            bundle = write_run_bundle(ctx, data, trained, evaluated, decision, test)
        else:  # a fold measures the recipe; its networks have not seen the clips that they would ship without
            bundle = WrittenBundle(None)
        result = RunResult(benchmark, data, trained, evaluated, decision, test, bundle)
        write_report(ctx, result)
        if recipe.fold is not None:
            write_fold_answers(ctx, result)
        ctx.run.record_event("finished", seconds=round(ctx.seconds, 1))
    process_group.broadcast(None)  # the other processes wait for the next job; None ends them
    return out
