"""Commands about data and labels: ``labels audit``, ``data scan``, ``data generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from skd_bench.untrusted.text import print_text
from skd_edge.cli.exit_codes import EXIT_DONE, EXIT_FAILED, CommandState
from skd_edge.cli.options import (
    AnyPath,
    add_threads,
    code_option,
    exit_with,
    jobs_option,
    make_progress_counter,
    set_option,
    threads_option,
)


@click.group()
def labels() -> None:
    """Check weak labels."""


@labels.command("audit")
@click.argument("recipe")
@click.option("--out", type=AnyPath, help="The run folder; compress can continue in it.  [default: runs/NAME]")
@set_option
@code_option
@click.option(
    "--top", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Number of clips on the page."
)
@click.option("--no-pictures", is_flag=True, help="Write no frames of videos into the page.")
@jobs_option
@threads_option
@click.pass_obj
def audit_command(
    state: CommandState,
    /,
    recipe: str,
    out: Path | None,
    sets: tuple[str, ...],
    threads: int | None,
    top: int,
    no_pictures: bool,
    **options: Any,
) -> None:
    """Rank a RECIPE's training clips by how probably their label is wrong.

    The teacher is trained for this, and compress reuses it. Correct labels in audit/audit.csv or on the page, then
    run compress with --set labels.trusted=FILE
    """
    from skd_edge.recipe.loader import load_recipe

    loaded = load_recipe(recipe, add_threads(sets, threads))
    state["run"], state["hide_values"] = out or Path("runs", loaded.name), loaded.path_texts.hide_values
    from rich.console import Console

    from skd_edge.pipeline.audit_labels import audit_labels
    from skd_edge.pipeline.context import RunOptions

    run_options = RunOptions(console=Console(stderr=True), **options)
    print_text(str(audit_labels(loaded, state["run"], run_options, top=top, pictures=not no_pictures)))


@click.group()
def data() -> None:
    """Check a recipe's clips, or generate clips."""


@data.command("scan")
@click.argument("recipe")
@click.option(
    "--out", type=AnyPath, default=Path("quarantine.csv"), show_default=True, help="The list of unreadable clips."
)
@click.option("--timeout", type=click.FloatRange(1), default=60, show_default=True, help="Seconds for each clip.")
@click.option("--processes", type=click.IntRange(1, 1024), help="Number of processes.  [default: one for each core]")
@click.option("--verify", is_flag=True, help="Also decode every frame straight, and compare; takes long.")
@set_option
def scan_command(recipe: str, out: Path, sets: tuple[str, ...], verify: bool, **options: Any) -> None:
    """Decode every clip of a RECIPE once; list those that cannot be read, and copies across splits.

    The exit code is 1 if compress would refuse the clips. After an interruption, the same command continues. Decoded
    clips are stored: compress does not decode them again.
    """
    from skd_edge.data.scan import scan_clips
    from skd_edge.recipe.loader import load_recipe
    from skd_edge.run_folder import open_cache

    loaded = load_recipe(recipe, sets)
    result = scan_clips(loaded, open_cache(), out, progress=make_progress_counter, **options)
    print_text(result.to_text())
    different = 0
    if verify:
        from skd_edge.data.verify import verify_decoding

        compared = verify_decoding(loaded, open_cache(), progress=make_progress_counter("compared"), **options)
        print_text(compared.to_text())
        different = len(compared.different)
    exit_with(EXIT_FAILED if result.refusal or different else EXIT_DONE)


@data.command()
@click.option("--out", type=AnyPath, required=True, help="The folder to fill.")
@click.option("--train", type=int, help="Training clips.")
@click.option("--val", type=int, help="Validation clips.")
@click.option("--test", type=int, help="Test clips.")
@click.option("--frames", type=int, help="Frames in each video.")
@click.option("--size", type=int, help="Height and width, pixels.")
@click.option("--difficulty", type=float, help="0 easy, 1 hard.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
def generate(out: Path, seed: int, **settings: float | None) -> None:
    """Generate H.264 videos in which each class is a kind of motion."""
    from skd_edge.recipe.data import GeneratedData
    from skd_edge.recipe.loader import make_section_from_options

    checked = make_section_from_options(GeneratedData, {"kind": "generated", **settings})
    from skd_edge.data.sources.synthetic import generate_dataset as render

    print_text(str(render(out, checked, seed, progress=make_progress_counter("rendered"))))
