"""The command `python -m skd_bench BUNDLE`: check a bundle and benchmark it on this machine.

It needs numpy and one runtime, and no other package.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from skd_bench.benchmark.benchmark import benchmark_bundle
from skd_bench.benchmark.latency import MeasurementSettings
from skd_bench.benchmark.request import BenchmarkRequest
from skd_bench.benchmark.results import format_plan, save_result, without_samples
from skd_bench.benchmark.scenarios import SCENARIOS, LoadScenarios
from skd_bench.errors import UserError
from skd_bench.text_tables import format_benchmark_table
from skd_bench.untrusted.text import print_error, print_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments without the program's name; None: those of the process.

    Returns:
        The exit code: 0 finished, 1 failed, 2 wrong command line, 130 stopped with Ctrl-C.
    """
    options = _build_parser().parse_args(arguments)
    try:
        request = BenchmarkRequest(
            Path(options.bundle),
            MeasurementSettings(options.threads, options.processes, options.queries),
            LoadScenarios(options.scenarios, options.batches, options.bound, options.runtimes),
            options.engines,
        )
        if options.dry_run:
            print_text(format_plan(request))
            return 0
        progress = _print_progress if sys.stderr.isatty() else None
        result = benchmark_bundle(request, progress=progress)
        if options.out:
            save_result(result, options.out)
    except UserError as error:
        print_error(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        print_error("stopped")
        return 130
    print_text(json.dumps(without_samples(result), indent=2) if options.json else format_benchmark_table(result))
    return 0


def _print_progress(done: int, total: int) -> None:
    end = "\r\033[K" if done == total else ""
    print(f"\rmeasuring process {min(done + 1, total)} of {total}{end}", end="", file=sys.stderr, flush=True)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m skd_bench",
        description="Check a bundle's hashes and measure its artefacts on this machine.",
        epilog="Exit codes: 0 finished, 1 failed, 2 wrong command line, 130 stopped with Ctrl-C.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="the bundle's folder, which contains manifest.json")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    for name, default, help_text in (
        ("processes", 5, "fresh processes"),
        ("queries", 240, "timed queries of each artefact in each process"),
        ("threads", 1, "threads that a query may use"),
    ):
        parser.add_argument(
            f"--{name}", type=_parse_count, default=default, metavar="N", help=f"{help_text} (default {default})"
        )
    help_text = "also measure the files on this runtime; may be repeated"
    parser.add_argument("--runtime", dest="runtimes", action="append", default=[], metavar="NAME", help=help_text)
    help_text = f"also measure this scenario: {', '.join(SCENARIOS)}; may be repeated"
    parser.add_argument("--scenario", dest="scenarios", action="append", default=[], metavar="NAME", help=help_text)
    help_text = "also measure queries of this many clips"
    parser.add_argument("--batches", type=_parse_batches, default=[], metavar="1,2,4", help=help_text)
    help_text = "find the batch size with the highest throughput whose latency is at most MS milliseconds"
    parser.add_argument("--bound", type=float, metavar="MS", help=help_text)
    help_text = "also measure an engine built by skd-edge build; may be repeated"
    parser.add_argument(
        "--engine", dest="engines", type=Path, action="append", default=[], metavar="FILE", help=help_text
    )
    parser.add_argument("--out", metavar="FILE.json", help="write the result, and all samples beside it as FILE.npz")
    parser.add_argument("--dry-run", action="store_true", help="print what would be measured, and stop")
    return parser


def _parse_batches(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers; write 1,2,8 for example") from None


def _parse_count(text: str) -> int:
    value = int(text) if text.isdecimal() and len(text) < 8 else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 9999999")
    return value


if __name__ == "__main__":
    sys.exit(main())
