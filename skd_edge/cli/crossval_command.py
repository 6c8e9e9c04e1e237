"""The command ``crossval``: how good a recipe is on groups of clips that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from skd_bench.untrusted.text import print_text
from skd_edge.cli.exit_codes import EXIT_DONE, EXIT_FAILED, CommandState
from skd_edge.cli.options import (
    AnyPath,
    add_threads,
    code_option,
    engine_option,
    exit_with,
    jobs_option,
    print_loading_message,
    set_option,
    threads_option,
)


@click.command()
@click.argument("recipe")
@click.option("--out", type=AnyPath, help="The folder; an existing one is continued.  [default: runs/NAME-crossval]")
@set_option
@code_option
@engine_option
@jobs_option
@threads_option
@click.option("--python", default="python3", show_default=True, help="The Python of the recipe's bench.host.")
@click.option("--dry-run", is_flag=True, help="Print what one fold and all folds cost, and stop.")
@click.option(
    "--quick", is_flag=True, help="With --dry-run: run nothing, estimate from jobs that this device finished."
)
@click.option("--hourly", type=click.FloatRange(0), metavar="PRICE", help="With --dry-run: price of an hour.")
@click.pass_obj
def crossval(
    state: CommandState,
    /,
    recipe: str,
    out: Path | None,
    sets: tuple[str, ...],
    threads: int | None,
    **options: Any,
) -> None:
    """Cross-validate a RECIPE: a run for each fold of whole groups (people, recordings), and a report of all.

    The recipe says how: cross_validation: {folds: 5, group: COLUMN}. Nothing is shipped. After an interruption, the
    same command continues; finished folds are not run again. If a fold fails, the others go on, and the exit code is 1.
    """
    print_loading_message("crossval", recipe)
    from skd_edge.recipe.loader import load_recipe, locate_setting

    all_sets = add_threads(sets, threads)
    loaded = load_recipe(recipe, all_sets)
    folder = out or Path("runs", f"{loaded.name}-crossval")
    state["run"], state["hide_values"] = folder, loaded.path_texts.hide_values
    from skd_bench.errors import UsageError
    from skd_edge.data.sources.group_folds import FoldError

    dry_run, plan_options = options.pop("dry_run"), {key: options.pop(key) for key in ("quick", "hourly")}
    try:
        if dry_run:
            return print_text(_format_plan(loaded, folder, options, **plan_options))
        failed = _run_folds(loaded, folder, options)
    except FoldError as error:
        raise UsageError(f"{locate_setting(recipe, all_sets, error.setting)}: {error}") from None
    print_text(f"report: {folder / 'crossval.html'}")
    for fold, reason in failed.items():
        print_text(f"fold {fold} failed: {reason}")
    return exit_with(EXIT_FAILED if failed else EXIT_DONE)


def _format_plan(recipe: Any, folder: Path, options: Mapping[str, Any], *, quick: bool, hourly: float | None) -> str:
    from skd_edge.pipeline.crossval.cost import plan_crossval

    planned = plan_crossval(recipe, folder, allow_code=options["allow_code"], quick=quick, most_jobs=options["jobs"])
    return planned.to_text(hourly)


def _run_folds(recipe: Any, folder: Path, options: Mapping[str, Any]) -> dict[int, str]:
    from rich.console import Console

    from skd_edge.pipeline.context import RunOptions
    from skd_edge.pipeline.crossval.crossval import cross_validate

    return cross_validate(recipe, folder, RunOptions(console=Console(stderr=True), **options)).failed
