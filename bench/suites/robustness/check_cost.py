"""Measures what it costs to check stored files: the share of a run's time, and the seconds of a cached run.

    python -m bench.suites.robustness.check_cost --recipe quickstart

The recipe is run twice, in processes of their own: with an empty cache, and again when everything is cached. The
functions that compute and compare checksums are timed in both, so that the share is a ratio within one run. Decoded
clips are also checked once more at 1 GB, to get the speed. Writes bench/results/check_cost.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from skd_bench.device.info import read_device_info
from skd_bench.files import write_json
from skd_edge.data.store.builder import find_changed_rows

RESULTS = Path(__file__).resolve().parents[3] / "bench/results/check_cost.json"
_CLIP_SHAPE = (400, 16, 224, 224, 3)  # about a gigabyte

# The functions are replaced before the modules that use them are imported. Calls within calls are counted once.
_TIMED_RUN = """
import functools, json, sys, time
began, spent, depth = time.perf_counter(), [0.0], [0]

def timed(function):
    @functools.wraps(function)
    def wrapper(*args, **more):
        depth[0] += 1
        start = time.perf_counter()
        try:
            return function(*args, **more)
        finally:
            depth[0] -= 1
            spent[0] += (time.perf_counter() - start) * (depth[0] == 0)
    return wrapper

import skd_bench.integrity.checked_files as checked
for name in ("read_checked", "read_checked_json", "describe_files", "read_and_check_files"):
    setattr(checked, name, timed(getattr(checked, name)))
import skd_edge.data.store.builder as builder
builder.find_changed_rows = timed(builder.find_changed_rows)
from skd_edge.cli.main import run
code = run(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    json.dump({"seconds": time.perf_counter() - began, "checking": spent[0]}, file)
sys.exit(code)
"""


def time_run(words: list[str], folder: Path) -> dict[str, float]:
    """Run a command with the cache of a folder; returns its seconds and those of checking."""
    places = {"SKD_EDGE_CACHE": str(folder / "cache"), "SKD_EDGE_LEDGER": str(folder / "looks.jsonl")}
    result, began = folder / "times.json", time.perf_counter()
    subprocess.run([sys.executable, "-c", _TIMED_RUN, str(result), *words], env={**os.environ, **places}, check=True)
    times: dict[str, float] = json.loads(result.read_text())
    whole = time.perf_counter() - began  # with the start of Python
    return {
        "seconds": round(whole, 3),
        "checking_seconds": round(times["checking"], 4),
        "checking_share": round(times["checking"] / whole, 5),
    }


def measure_clip_speed() -> float:
    """Bytes of clips in memory that are checked in a second; the best of three."""
    pixels = np.random.default_rng(0).integers(0, 256, _CLIP_SHAPE, np.uint8)
    rows, checksums, best = range(len(pixels)), np.zeros(len(pixels), np.uint32), 0.0
    for _ in range(3):
        began = time.perf_counter()
        find_changed_rows(pixels, rows, checksums)
        best = max(best, pixels.nbytes / (time.perf_counter() - began))
    return best


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipe", default="quickstart")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = ["compress", options.recipe, "--out", str(folder / "run")]
        result = {
            "recipe": options.recipe,
            "first": time_run(words, folder),
            "cached": min((time_run(words, folder) for _ in range(3)), key=lambda times: times["seconds"]),
            "clips_bytes_per_second": round(measure_clip_speed()),
        }
    write_json(RESULTS, {"device": read_device_info(), **result})
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
