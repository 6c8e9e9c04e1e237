"""Measures what a run costs: seconds by stage, peak memory, the estimate of `plan`, and a second, resumed run.

    python -m bench.suites.training.run_cost quickstart
    HUMAN_MOTION=/path/to/human_motion python -m bench.suites.training.run_cost human_motion --runs /tmp/runs

Calls `plan` with an empty cache, then runs `skd-edge compress` in its own process, then runs it again with all results
cached. Memory is the summed proportional set size (PSS, Linux) of the process tree, sampled once a second. The journal
gives the seconds of each stage: the benchmark of untrained files, the clips, the jobs (labels included), and export
with measurement. Book-keeping is the rest: imports, journal, checkpoints, cache, evaluation on the test clips, bundle
and report. Goals: book-keeping at most 3 %, the second run under 5 s, the estimate within 25 %. Writes one row for each
recipe to bench/results/run_cost.json, and docs/run_cost.md from all rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from skd_bench.device.info import read_device_info
from skd_bench.files import write_atomic, write_json
from skd_edge.pipeline.plan import plan
from skd_edge.recipe.loader import load_recipe
from skd_edge.run_folder import read_journal

ROOT = Path(__file__).resolve().parents[3]
RESULTS, TABLE = ROOT / "bench/results/run_cost.json", ROOT / "docs/run_cost.md"
JOB_EVENTS = {"job_started", "job_finished", "job_cached"}
PART_TITLES = {"weighing untrained files": "benchmark of untrained files"}  # JSON key -> name in the table
Json = dict[str, Any]


def list_process_tree(root: int) -> list[int]:
    """The ids of a process and all its descendants (Linux)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def pss_kb(pid: int) -> int:
    """PSS of one process in KiB (shared pages are divided among the processes that share them); 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def run_compress(recipe: str, out: Path) -> tuple[float, int]:
    """Run ``skd-edge compress`` and return its seconds and the peak memory of its processes in MiB."""
    command = [sys.executable, "-m", "skd_edge.cli", "compress", recipe, "--out", str(out)]
    began, peak, last_sample = time.monotonic(), 0, 0.0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            if time.monotonic() - last_sample > 1.0:
                peak, last_sample = max(peak, sum(map(pss_kb, list_process_tree(process.pid)))), time.monotonic()
            time.sleep(0.02)
    if process.returncode:
        sys.exit(process.returncode)
    return time.monotonic() - began, round(peak / 1024)


def split_seconds(events: list[Json]) -> dict[str, float]:
    """Seconds of each stage, from a run's journal; all other seconds of the run are book-keeping."""
    at = [datetime.fromisoformat(e["time"]).timestamp() for e in events]

    def last(wanted: set[str]) -> int:
        return max(i for i, e in enumerate(events) if e["event"] in wanted)

    clips = last({"clips"})
    benchmark_end = max(i for i, e in enumerate(events[:clips]) if e["event"] == "measured")
    first_job = min(i for i, e in enumerate(events) if e["event"] in JOB_EVENTS)
    last_job, measured = last(JOB_EVENTS), last({"measured"})
    # The keys are those of bench/results/run_cost.json; "weighing" is the benchmark of untrained files.
    return {
        "weighing untrained files": at[benchmark_end] - at[0],
        "clips": at[clips] - at[benchmark_end],
        "training, labels": at[last_job] - at[first_job],  # jobs are trained beside each other: no sum of their seconds
        "export, measurement": at[measured] - at[last_job],
    }


def study(name: str, runs: Path) -> Json:
    """Plan a recipe, run it, and run it again; returns its row."""
    if (runs / name).exists():
        sys.exit(f"{runs / name} already exists, so the cost of a new run cannot be measured; choose another --runs")
    recipe = load_recipe(name)
    expected = plan(recipe, runs / name)
    seconds, peak = run_compress(name, runs / name)
    parts = split_seconds(read_journal(runs / name))
    again, _ = run_compress(name, runs / name)
    parts["book-keeping"] = seconds - sum(parts.values())
    return {
        "recipe": name,
        "seed": recipe.seed,
        "seconds": round(seconds, 1),
        "peak_pss_mib": peak,
        "parts": {k: round(v, 1) for k, v in parts.items()},
        "planned": round(expected.seconds, 1),
        "planned_training": round(expected.training_seconds, 1),
        "again": round(again, 2),
        "device": read_device_info(),
    }


def table(rows: list[Json]) -> str:
    """Format the page from all rows."""
    lines = [
        "# What a run costs",
        "",
        "Regenerate: `python -m bench.suites.training.run_cost quickstart`, then `... human_motion`.",
        "One run for each recipe, with an empty cache and seed 0; memory is the summed PSS of all processes.",
        "",
        "| | " + " | ".join(r["recipe"] for r in rows) + " |",
        "|---|" + "---|" * len(rows),
    ]

    def line(title: str, cells: list[str]) -> None:
        lines.append(f"| {title} | {' | '.join(cells)} |")

    line("total seconds", [f"{r['seconds']:.0f}" for r in rows])
    for part in rows[0]["parts"]:
        title = PART_TITLES.get(part, part)
        line(f"- {title}", [f"{r['parts'][part]:.0f} ({r['parts'][part] / r['seconds']:.1%})" for r in rows])
    line("estimate of `plan`, s", [f"{r['planned']:.0f} ({r['planned'] / r['seconds'] - 1:+.0%})" for r in rows])
    line(
        "of which training, s",
        [
            f"{r['planned_training']:.0f} ({r['planned_training'] / r['parts']['training, labels'] - 1:+.0%})"
            for r in rows
        ],
    )
    line("the same command again (resumed), s", [f"{r['again']:.1f}" for r in rows])
    line("peak memory, MiB", [str(r["peak_pss_mib"]) for r in rows])
    line("device", [f"{r['device']['cpu']}, {r['device']['cores_usable']} cores" for r in rows])
    return "\n".join([*lines, ""])


def main() -> None:
    """Run the recipes, and write the rows and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("recipes", nargs="+", help="names of shipped recipes, or recipe files")
    parser.add_argument("--runs", type=Path, help="folder for run folders and cache; default: a temporary folder")
    parser.add_argument(
        "--again", action="store_true", help="measure only the second run, in the same --runs as before"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        runs = options.runs or Path(temporary)
        os.environ |= {"SKD_EDGE_CACHE": str(runs / "cache"), "SKD_EDGE_LEDGER": str(runs / "looks.jsonl")}
        for recipe in options.recipes:
            rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
            others = [r for r in rows if r["recipe"] != recipe]
            if options.again:
                (row,) = (r for r in rows if r["recipe"] == recipe)
                row["again"] = round(run_compress(recipe, runs / recipe)[0], 2)
            else:
                row = study(recipe, runs)
            rows = sorted([*others, row], key=lambda r: r["recipe"] != "quickstart")
            write_json(RESULTS, {"rows": rows})
            write_atomic(TABLE, table(rows))
    print(TABLE.read_text())


if __name__ == "__main__":
    main()
