"""Options that several commands share, and functions that parse and combine options."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from skd_bench.files import read_regular_file
from skd_bench.untrusted.text import print_error, print_progress

# `ScalableFamily` of skd_edge/recipe/networks.py, whose import takes long.
FAMILIES = ("resnet", "mobile", "mobilenetv2", "mobilenetv3-small", "mobilenetv3-large", "x3d-xs")

_MAX_LIST_BYTES = 1 << 24

ExistingFolder = click.Path(exists=True, file_okay=False, path_type=Path)


ExistingPath = click.Path(exists=True, path_type=Path)


AnyPath = click.Path(path_type=Path)


set_option = click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change a setting, e.g. seed=1.")


code_option = click.option(
    "--allow-code", is_flag=True, help="Allow the recipe's factories to run; they are third-party code."
)


threads_option = click.option(
    "--threads", type=click.IntRange(1, 1024), help="Same as --set training.threads=N: threads that train one job."
)


jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1, 1024),
    help="Jobs that are trained at the same time, at most.  [default: as many as there are cores for]",
)


engine_option = click.option(
    "--engine",
    type=click.Choice(("local", "ray")),
    default="local",
    show_default=True,
    help="Where jobs are trained: on this machine, or on a Ray cluster (RAY_ADDRESS, or one started here).",
)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def print_loading_message(command: str, recipe: str) -> None:
    """Print the first line of a command, before torch is imported: on a cold disk that takes many seconds."""
    # torchrun starts the same command in several processes; one line is enough.
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0":
        print_error(f"{command} {recipe}: loading torch, a few seconds (longer the first time)")


def add_threads(sets: tuple[str, ...], threads: int | None) -> tuple[str, ...]:
    """The settings of ``--set``, and those of ``--threads``."""
    return sets if threads is None else (*sets, f"training.threads={threads}")


def parse_list(text: str) -> tuple[str, ...]:
    """The items of ``A,B,C``, or the lines of the file with this name; empty items are dropped."""
    with suppress(OSError, ValueError):
        if Path(text).is_file():
            content = read_regular_file(text, _MAX_LIST_BYTES).decode("utf-8")
            return tuple(line.strip() for line in content.splitlines() if line.strip())
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_json_object(text: str) -> dict[str, Any]:
    """A JSON object from the command line.

    Raises:
        BadParameter: The text is not a JSON object.
    """
    with suppress(ValueError):
        if isinstance(found := json.loads(text), dict):
            return found
    raise click.BadParameter(f'{text!r} is not a JSON object, such as {{"classes": 5}}')


def combine_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """One decorator that adds several click options, listed by ``--help`` in this order."""

    def apply_options(command: Any) -> Any:
        for option in reversed(options):  # click lists the option that is applied last first
            command = option(command)
        return command

    return apply_options


clip_options = combine_options(
    click.option("--frames", type=int, help="Frames of the network's input.  [default: 8]"),
    click.option("--size", type=int, help="Height and width of the input.  [default: 32]"),
    click.option("--sampling", type=click.Choice(["uniform", "dense"])),
    click.option("--stride", type=int, help="Frames between two samples (dense)."),
    click.option("--fit", type=click.Choice(["crop", "stretch", "pad"])),
    click.option("--mean", type=float, nargs=3, help="Subtracted from red, green, blue (0 to 1)."),
    click.option("--std", type=float, nargs=3, help="Divisors of red, green, blue."),
)


spec_options = combine_options(
    click.option("--family", type=click.Choice(FAMILIES), help="Family of the checkpoint.  [default: mobile]"),
    click.option("--width", type=int, help="Channels of the first substage.  [default: 16]"),
    click.option("--depths", type=parse_list, metavar="A,B,...", help="Blocks of each substage.  [default: 1,1,1,1]"),
    click.option("--temporal", type=click.Choice(["none", "shift", "conv"]), help="[default: conv]"),
    click.option("--expand", type=int, help="Expansion factor of the mobile family.  [default: 2]"),
)


def make_progress_counter(label: str) -> Callable[[int, int], None] | None:
    """A callback that shows (done, total) on one line, at most 30 times a second; None unless stderr is a terminal."""
    if not sys.stderr.isatty():
        return None
    last_shown = 0.0

    def show_progress(done: int, total: int) -> None:
        nonlocal last_shown
        if done == total or time.monotonic() - last_shown > 0.03:
            last_shown = time.monotonic()
            print_progress(f"{label} {done} of {total}", last=done == total)

    return show_progress


def exit_with(code: int) -> None:
    """End the current command with this exit code; 0 returns normally."""
    if code:
        click.get_current_context().exit(code)
