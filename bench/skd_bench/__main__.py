"""`python -m skd_bench BUNDLE`: check a bundle and measure it on this machine. Needs numpy and a runtime, no more."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skd_bench.benchmark.benchmark import benchmark_bundle
from skd_bench.benchmark.results import format_plan, save_result, without_samples
from skd_bench.benchmark.scenarios import SCENARIOS, LoadScenarios
from skd_bench.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; None for the process' own.

    Returns:
        The exit code: 0 done, 1 failed, 2 the command line is wrong.
    """
    options = _build_parser().parse_args(arguments)
    try:
        measure_options = {name: getattr(options, name) for name in ("processes", "queries", "threads", "engines")}
        extra = LoadScenarios(options.scenarios, options.batches, options.bound, options.runtimes)
        if options.dry_run:
            print(format_plan(options.bundle, extra, **measure_options))
            return 0
        progress = _print_progress if sys.stderr.isatty() else None
        result = benchmark_bundle(options.bundle, **measure_options, extra=extra, progress=progress)
        if options.out:
            save_result(result, options.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(
        json.dumps(without_samples(result), indent=2, ensure_ascii=False)
        if options.json
        else format_benchmark_table(result)
    )
    return 0


def format_benchmark_table(result: dict[str, Any]) -> str:
    """A result of `bench_bundle` as text for people."""
    device, contract = result["device"], result["contract"]
    lines = [
        f"{result['name']} on {device['cpu']} (device {result['device_id']})",
        f"one clip of {contract['frames']} frames, {contract['height']}x{contract['width']}, {result['threads']} "
        f"thread{'s' * (result['threads'] != 1)}; the network alone; p50 with its 95 % interval over processes",
        "",
    ]
    head = ("artefact", "p50 ms", "p90 ms", "p99 ms", "n", "load ms", "first ms", "peak MB", "file kB", "J/clip")
    rows = [head, *(_format_artefact_row(a) for a in result["artefacts"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        first, *rest = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join((first, *rest)))
    lines += ["", "* the bundle's default", *_format_load_lines(result["artefacts"])]
    lines += [f"not run: {skipped['name']}: {skipped['reason']}" for skipped in result["not_run"]]
    if clips := result["clips"]:
        lines.append(
            f"before the network: decoding {clips['decode_ms']:.2f} ms, preprocessing {clips['preprocess_ms']:.2f} ms "
            f"(median of {clips['n']}, {clips['samples']} sample clips)"
        )
    reasons = sorted({a["energy"]["reason"] for a in result["artefacts"] if "reason" in a["energy"]})
    lines += [f"energy: {reason}" for reason in reasons] + [f"note: {note}" for note in result["notes"]]
    return "\n".join(lines)


def _format_load_lines(artefacts: list[dict[str, Any]]) -> list[str]:
    """Scenarios, batches and the bound of every row that has them."""
    lines = []
    for artefact in artefacts:
        for name, figure in artefact.get("scenarios", {}).items():
            shortfall = "" if figure["mlperf_floor_met"] else ", shorter than MLPerf asks"
            interval_text = " [{}, {}]".format(*map(_format_number, figure["interval"])) if figure["interval"] else ""
            batch = f", batch {figure['batch']}" if "batch" in figure else ""
            figure_text = f"{figure['metric']} {_format_number(figure['value'])}{interval_text}{batch}"
            lines.append(f"{artefact['name']}: {name}: {figure_text} ({figure['clips']} clips{shortfall})")
        for row in artefact.get("batches", []):
            speed = (
                f"{_format_number(row['clips_per_second'])} clips/s [{', '.join(map(_format_number, row['interval']))}]"
            )
            p50, p99 = _format_number(row["p50_ms"]), _format_number(row["p99_ms"])
            lines.append(f"{artefact['name']}: batch {row['batch']}: p50 {p50} ms, p99 {p99} ms, {speed}")
        if bound := artefact.get("bound"):
            best_batch = (
                bound["batch"] and f"{_format_number(bound['clips_per_second'])} clips/s with batch {bound['batch']}"
            )
            limit = f"{bound['metric']} <= {_format_number(bound['bound_ms'])}"
            lines.append(f"{artefact['name']}: within {limit}: {best_batch or 'no batch: ' + bound['reason']}")
    return lines


def _format_artefact_row(artefact: dict[str, Any]) -> tuple[str, ...]:
    latency = artefact["latency"]
    p50 = _format_number(latency["p50_ms"])
    if latency["p50_interval"]:
        p50 += " [{}, {}]".format(*map(_format_number, latency["p50_interval"]))
    return (
        ("* " if artefact["default"] else "  ") + artefact["name"],
        p50,
        _format_number(latency["p90_ms"]),
        _format_number(latency["p99_ms"]),
        str(latency["n"]),
        _format_number(latency["load_ms"]),
        _format_number(latency["first_ms"]),
        _format_number(latency["peak_mb"]),
        _format_number(artefact["bytes"] / 1000),
        _format_number(artefact["energy"].get("joules_per_clip")),
    )


def _format_number(value: float | None) -> str:
    """Three figures, or n/a: a percentile that too few samples carry is not guessed."""
    if value is None:
        return "n/a"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _print_progress(done: int, total: int) -> None:
    end = "\r\033[K" if done == total else ""
    print(f"\rmeasuring process {min(done + 1, total)} of {total}{end}", end="", file=sys.stderr, flush=True)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m skd_bench",
        description="Check a bundle's hashes and measure its artefacts on this machine.",
        epilog="Exit codes: 0 done, 1 failed, 2 the command line is wrong.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="the folder with manifest.json")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    for name, default, help_text in (
        ("processes", 5, "fresh processes"),
        ("queries", 240, "timed queries for each artefact in each process"),
        ("threads", 1, "threads a query may use"),
    ):
        parser.add_argument(
            f"--{name}", type=_parse_count, default=default, metavar="N", help=f"{help_text} (default {default})"
        )
    help_text = "also measure the files on this runtime; may be given again"
    parser.add_argument("--runtime", dest="runtimes", action="append", default=[], metavar="NAME", help=help_text)
    help_text = f"of {', '.join(SCENARIOS)}; may be given again"
    parser.add_argument("--scenario", dest="scenarios", action="append", default=[], metavar="NAME", help=help_text)
    parser.add_argument("--batches", type=batches, default=[], metavar="1,2,4", help="clips in a query, a row each")
    parser.add_argument("--bound", type=float, metavar="MS", help="find the batch of the highest throughput within MS")
    help_text = "also measure an engine of skd-edge build; may be given again"
    parser.add_argument(
        "--engine", dest="engines", type=Path, action="append", default=[], metavar="FILE", help=help_text
    )
    parser.add_argument("--out", metavar="FILE.json", help="write the result, and every sample beside it as FILE.npz")
    parser.add_argument("--dry-run", action="store_true", help="say what would be measured, and stop")
    return parser


def batches(text: str) -> list[int]:
    """Batch sizes such as "1,2,8".

    Raises:
        ValueError: A part is no whole number.
    """
    return [int(part) for part in text.split(",")]


def _parse_count(text: str) -> int:
    value = int(text) if text.isdecimal() and len(text) < 8 else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
