"""Commands about recipes and runs, from ``init`` to ``report``; ``doctor``, ``models``, ``schema``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from skd_edge.cli.exit_codes import EXIT_DONE, EXIT_FAILED
from skd_edge.cli.options import AnyPath, ExistingFolder, ExistingPath, code_option, exit_with, json_option, set_option


@click.command()
@click.argument("folder", type=AnyPath)
@click.option("--out", type=AnyPath, default=Path("recipe.yaml"), show_default=True, help="Where the recipe goes.")
@click.option("--force", is_flag=True, help="Overwrite a recipe that is there.")
def init(folder: Path, out: Path, force: bool) -> None:
    """Write a commented recipe for a FOLDER of videos."""
    from skd_edge.cli.init_recipe import write_recipe

    click.echo(write_recipe(folder, out, force=force).to_text())
    click.echo(f"wrote {out}; next: skd-edge plan {shlex.quote(str(out))}")


@click.command()
@click.argument("recipe")
@set_option
def validate(recipe: str, sets: tuple[str, ...]) -> None:
    """Check a RECIPE without reading any data: every mistake, with its line."""
    from skd_edge.recipe.loader import load_recipe

    checked = load_recipe(recipe, sets)
    click.echo(f"{recipe}: ok ({checked.name}: {len(checked.cascade_paths)} paths x {len(checked.students)} students)")


@click.command()
@click.argument("recipe")
@click.option("--out", type=AnyPath, help="The run folder whose cached jobs count.  [default: runs/NAME]")
@set_option
@code_option
@click.option("--hourly", type=click.FloatRange(0), metavar="PRICE", help="What an hour of this machine costs.")
def plan(recipe: str, out: Path | None, sets: tuple[str, ...], allow_code: bool, hourly: float | None) -> None:
    """Show what compress would do: the tree of jobs, what is cached, time, disk and cost."""
    from skd_edge.recipe.loader import load_recipe

    loaded = load_recipe(recipe, sets)
    from skd_edge.pipeline.plan import plan as make_plan

    click.echo(make_plan(loaded, out or Path("runs", loaded.name), allow_code=allow_code).to_text(hourly))


@click.command()
@click.argument("recipe")
@click.option("--out", type=AnyPath, help="The run folder; a run that is there goes on.  [default: runs/NAME]")
@set_option
@code_option
@click.option(
    "--engine",
    type=click.Choice(("local", "ray")),
    default="local",
    show_default=True,
    help="Where jobs are trained: here, or on the Ray cluster of RAY_ADDRESS (without: one started here).",
)
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads that train one job.  [default: torch's choice]")
@click.option(
    "--measurements",
    multiple=True,
    type=AnyPath,
    metavar="RESULT.json",
    help="What a pack found on a device without a link, instead of measuring; may be given again.",
)
@click.option("--python", default="python3", show_default=True, help="The Python of the recipe's bench.host.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.pass_obj
def compress(
    state: dict[str, Path], /, recipe: str, out: Path | None, sets: tuple[str, ...], dry_run: bool, **options: Any
) -> None:
    """Weak labels and a teacher in, measured engines and a report out.

    RECIPE is a YAML file, or the name of a recipe that ships (quickstart). Stopped on the way, the same command goes
    on where it stopped.
    """
    from skd_edge.recipe.loader import load_recipe

    loaded = load_recipe(recipe, sets)
    state["run"] = out or Path("runs", loaded.name)
    from rich.console import Console

    if dry_run:
        from skd_edge.pipeline.plan import plan as make_plan

        return click.echo(make_plan(loaded, state["run"], allow_code=options["allow_code"]).to_text())
    from skd_edge.pipeline.compress import compress as run_recipe
    from skd_edge.pipeline.context import RunOptions

    run = run_recipe(loaded, state["run"], RunOptions(console=Console(stderr=True), **options))
    return click.echo(f"run: {run}")


@click.command()
@click.argument("run", type=ExistingFolder)
@set_option
@code_option
@click.option("--confirm", is_flag=True, help="Make it the run's choice: bundle, report, a look at the test set.")
def choose(run: Path, sets: tuple[str, ...], confirm: bool, allow_code: bool) -> None:
    """Choose again among what a RUN measured, e.g. --set "choice.budget=3 ms"; nothing is trained or measured.

    The test set is left alone, unless the new choice is confirmed.
    """
    from rich.console import Console

    from skd_edge.pipeline.reselect import reselect

    console = Console(stderr=True)
    decision = reselect(run, sets, confirm=confirm, allow_code=allow_code, console=console)
    click.echo(f"{decision.chosen or 'nothing'}: {decision.why}")
    exit_with(EXIT_DONE if decision.chosen else EXIT_FAILED)


@click.command()
@click.argument("sources", nargs=-1, type=ExistingPath)
@click.option(
    "--baseline", type=ExistingPath, help="What changes are counted from: a stored comparison, a run, a bundle."
)
@click.option("--fail-if", "rules", multiple=True, metavar="RULE", help="e.g. 'p90_ms>+10%'; repeatable; exit code 1.")
@click.option("--force", is_flag=True, help="Put different devices side by side.")
@click.option("--html", type=AnyPath, help="Also write a page with charts.")
@click.option("--csv", "table", type=AnyPath, help="Also write a CSV file.")
@click.option("--store", type=AnyPath, help="Also store the comparison, to be a baseline.")
@click.option("--schema", type=click.Choice(["run", "comparison"]), help="Print a JSON schema and stop.")
@json_option
def report(sources: tuple[Path, ...], schema: str | None, **options: Any) -> None:
    """Compare SOURCES side by side, as Markdown; one RUN folder alone: write its report again.

    A source is a bundle, a run folder, or the JSON of bench, accuracy, a pack, or of report itself.
    """
    from skd_edge.report.comparison.compare import compare_sources as compare
    from skd_edge.report.comparison.json_schemas import format_json_schema

    if schema:
        return click.echo(format_json_schema(schema))
    comparison = compare(sources, **options)
    click.echo(comparison.text)
    return exit_with(EXIT_FAILED if comparison.failed else EXIT_DONE)


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """What this machine can train on, export to and run; each missing thing with its reason and its pip line."""
    from skd_edge.cli.doctor import run_diagnostics

    examined = run_diagnostics()
    click.echo(json.dumps(examined.to_json(), indent=2) if as_json else examined.to_text())


@click.command("models")
@click.argument("recipe", required=False)
@set_option
@code_option
@json_option
def models_command(recipe: str | None, sets: tuple[str, ...], allow_code: bool, as_json: bool) -> None:
    """All networks that a recipe can name, or those of a RECIPE: parameters, MACs and substage shapes."""
    from skd_edge.recipe.loader import load_recipe

    loaded = load_recipe(recipe, sets) if recipe else None
    from skd_edge.models.catalogue import iter_catalogue, iter_table_lines

    entries = iter_catalogue(loaded, allow_code=allow_code)
    shown = [json.dumps([e.to_json() for e in entries], indent=2)] if as_json else iter_table_lines(entries)
    for line in shown:
        click.echo(line)


@click.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from skd_edge.recipe.loader import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=2))
