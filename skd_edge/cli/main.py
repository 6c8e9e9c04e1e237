"""The program ``skd-edge``: each command reads its options and calls one library function.

No large package is imported before a command runs, so that ``--help`` is quick and works without torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from skd_edge.cli import crossval_command, data_commands, device_commands, export_commands, run_commands
from skd_edge.cli.exit_codes import run_command_line

EPILOG = """\b
Exit codes: 0 done, 1 failed, 2 the recipe or the command line is wrong,
75 paused (Ctrl-C or SIGTERM): run the same command again to continue.

\b
Shell completion, for bash (zsh and fish likewise):
  eval "$(_SKD_EDGE_COMPLETE=bash_source skd-edge)"
"""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="skd-edge")
def cli() -> None:
    """Small video classifiers for edge devices, distilled from weak labels and measured on the target.

    From a recipe, skd-edge trains and exports networks, measures their files, and writes a report that says which file
    to ship and why. Start with: skd-edge init FOLDER_OF_VIDEOS, then: skd-edge compress recipe.yaml
    """


for _command in (
    run_commands.init,
    run_commands.validate,
    run_commands.plan_command,
    run_commands.compress,
    crossval_command.crossval,
    run_commands.choose,
    run_commands.report,
    run_commands.models_command,
    run_commands.doctor,
    run_commands.schema,
    device_commands.bench,
    device_commands.predict,
    device_commands.watch,
    device_commands.verify,
    device_commands.sign,
    device_commands.accuracy,
    export_commands.export_command,
    export_commands.build_command,
    export_commands.bundle_command,
    data_commands.labels,
    data_commands.data,
):
    cli.add_command(_command)


def main() -> NoReturn:
    """Run the program ``skd-edge`` and exit with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run one command line (the words after ``skd-edge``) and return its exit code; raises no exception."""
    return run_command_line(cli, args)
