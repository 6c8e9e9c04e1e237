"""Commands for recipes and runs: from ``init`` to ``report``, and ``doctor``, ``models`` and ``schema``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from skd_bench.untrusted.text import print_text
from skd_edge.cli.exit_codes import EXIT_DONE, EXIT_FAILED, CommandState
from skd_edge.cli.options import (
    AnyPath,
    ExistingFolder,
    ExistingPath,
    add_threads,
    code_option,
    engine_option,
    exit_with,
    jobs_option,
    json_option,
    print_loading_message,
    set_option,
    threads_option,
)


@click.command()
@click.argument("folder", type=AnyPath)
@click.option("--out", type=AnyPath, default=Path("recipe.yaml"), show_default=True, help="The recipe to write.")
@click.option("--force", is_flag=True, help="Overwrite an existing recipe.")
@click.option(
    "--checked",
    type=AnyPath,
    metavar="FOLDER",
    help="Clips whose labels are right, one folder for each class; rules label the videos of the other folder.",
)
def init(folder: Path, out: Path, force: bool, checked: Path | None) -> None:
    """Write a commented recipe for a FOLDER of videos."""
    from skd_edge.cli.init_recipe import write_recipe

    print_text(write_recipe(folder, out, force=force, checked=checked).to_text())
    print_text(f"wrote {out}; next: skd-edge plan {shlex.quote(str(out))}")


@click.command()
@click.argument("recipe")
@set_option
def validate(recipe: str, sets: tuple[str, ...]) -> None:
    """Check a RECIPE without reading any data; print every error with its line."""
    from skd_edge.recipe.loader import load_recipe

    checked = load_recipe(recipe, sets)
    print_text(f"{recipe}: ok ({checked.name}: {len(checked.cascade_paths)} paths x {len(checked.students)} students)")


@click.command("plan")
@click.argument("recipe")
@click.option("--out", type=AnyPath, help="The run folder whose finished jobs count as cached.  [default: runs/NAME]")
@set_option
@code_option
@jobs_option
@threads_option
@click.option("--quick", is_flag=True, help="Run nothing: estimate seconds from jobs that this device has finished.")
@click.option("--hourly", type=click.FloatRange(0), metavar="PRICE", help="Price of an hour of this machine.")
def plan_command(
    recipe: str,
    out: Path | None,
    sets: tuple[str, ...],
    threads: int | None,
    jobs: int | None,
    hourly: float | None,
    **options: bool,
) -> None:
    """Show what compress would do: its jobs, which of them are cached, time, disk space and cost."""
    print_loading_message("plan", recipe)
    from skd_edge.recipe.loader import load_recipe

    loaded = load_recipe(recipe, add_threads(sets, threads))
    from skd_edge.pipeline.plan import plan as make_plan

    planned = make_plan(loaded, out or Path("runs", loaded.name), most_jobs=jobs, **options)
    print_text(planned.to_text(hourly))


@click.command()
@click.argument("recipe")
@click.option("--out", type=AnyPath, help="The run folder; an existing run is continued.  [default: runs/NAME]")
@set_option
@code_option
@engine_option
@jobs_option
@threads_option
@click.option(
    "--measurements",
    multiple=True,
    type=AnyPath,
    metavar="RESULT.json",
    help="Result of a pack from a device without a link; used instead of measuring. Repeatable.",
)
@click.option("--python", default="python3", show_default=True, help="The Python of the recipe's bench.host.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.pass_obj
def compress(
    state: CommandState,
    /,
    recipe: str,
    out: Path | None,
    sets: tuple[str, ...],
    threads: int | None,
    dry_run: bool,
    **options: Any,
) -> None:
    """Run a RECIPE: train students, export and measure them, and write a report and a bundle.

    RECIPE is a YAML file, or the name of a recipe that is included (quickstart). After an interruption, the same
    command continues where it stopped.
    """
    print_loading_message("compress", recipe)
    from skd_edge.recipe.loader import load_recipe

    loaded = load_recipe(recipe, add_threads(sets, threads))
    state["run"], state["hide_values"] = out or Path("runs", loaded.name), loaded.path_texts.hide_values
    if dry_run:
        from skd_edge.pipeline.plan import plan as make_plan

        planned = make_plan(loaded, state["run"], allow_code=options["allow_code"], most_jobs=options["jobs"])
        return print_text(planned.to_text())
    from rich.console import Console

    from skd_edge.pipeline.compress import compress as run_recipe
    from skd_edge.pipeline.context import RunOptions

    run = run_recipe(loaded, state["run"], RunOptions(console=Console(stderr=True), **options))
    return print_text(f"run: {run}")


@click.command()
@click.argument("run", type=ExistingFolder)
@set_option
@code_option
@click.option(
    "--confirm", is_flag=True, help="Store the choice in the run: score it on the test set, rewrite bundle and report."
)
def choose(run: Path, sets: tuple[str, ...], confirm: bool, allow_code: bool) -> None:
    """Choose again among a RUN's candidates, e.g. --set "choice.budget=3 ms". Nothing is trained or measured.

    The test set is not used unless --confirm is given.
    """
    from rich.console import Console

    from skd_edge.pipeline.reselect import reselect

    console = Console(stderr=True)
    decision = reselect(run, sets, confirm=confirm, allow_code=allow_code, console=console)
    print_text(f"{decision.chosen or 'nothing'}: {decision.why}")
    exit_with(EXIT_DONE if decision.chosen else EXIT_FAILED)


@click.command()
@click.argument("sources", nargs=-1, type=ExistingPath)
@click.option("--baseline", type=ExistingPath, help="Compare with this: a stored comparison, a run or a bundle.")
@click.option("--fail-if", "rules", multiple=True, metavar="RULE", help="e.g. 'p90_ms>+10%'; repeatable; exit code 1.")
@click.option("--force", is_flag=True, help="Compare results of different devices.")
@click.option("--html", type=AnyPath, help="Also write a page with charts.")
@click.option("--csv", "table", type=AnyPath, help="Also write a CSV file.")
@click.option("--store", type=AnyPath, help="Also store the comparison, as a later --baseline.")
@click.option("--schema", type=click.Choice(["run", "comparison", "crossval"]), help="Print a JSON schema and stop.")
@json_option
def report(sources: tuple[Path, ...], schema: str | None, **options: Any) -> None:
    """Compare SOURCES in a Markdown table. Given a single run folder, write its report again.

    A source is a bundle, a run folder, or a JSON file of bench, accuracy, a pack or report.
    """
    from skd_edge.report.comparison.compare import compare_sources as compare
    from skd_edge.report.comparison.json_schemas import format_json_schema

    if schema:
        return print_text(format_json_schema(schema))
    comparison = compare(sources, **options)
    print_text(comparison.text)
    return exit_with(EXIT_FAILED if comparison.failed else EXIT_DONE)


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Show what this machine can train, export and run, and how to install what is missing."""
    from skd_edge.cli.doctor import run_diagnostics

    examined = run_diagnostics()
    print_text(json.dumps(examined.to_json(), indent=2) if as_json else examined.to_text())


@click.command("models")
@click.argument("recipe", required=False)
@set_option
@code_option
@json_option
def models_command(recipe: str | None, sets: tuple[str, ...], allow_code: bool, as_json: bool) -> None:
    """List the networks of a RECIPE, or all that a recipe can name: parameters, MACs and substage shapes."""
    from skd_edge.recipe.loader import load_recipe

    loaded = load_recipe(recipe, sets) if recipe else None
    from skd_edge.models.catalogue import iter_catalogue, iter_table_lines

    entries = iter_catalogue(loaded, allow_code=allow_code)
    shown = [json.dumps([e.to_json() for e in entries], indent=2)] if as_json else iter_table_lines(entries)
    for line in shown:
        print_text(line)


@click.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from skd_edge.recipe.loader import recipe_schema

    print_text(json.dumps(recipe_schema(), indent=2))
