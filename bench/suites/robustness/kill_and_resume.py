"""``kill -9`` at random moments of a run: what comes out is what comes out of a run that nobody killed.

    python -m bench.suites.robustness.kill_and_resume --kills 20

A small run is done once in peace, then again with its whole process group killed at moments drawn over its length,
started again after each. The two must have the same choice, the same job hashes and bit-equal weights; no job that was
finished may be trained again. So a kill loses at most what the job on its way had done since its last checkpoint; one
is written every 15 seconds, and `longest_job_seconds` bounds it from above too. Writes bench/results/kill9.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from skd_bench.device.info import read_device_info
from skd_bench.files import sha256_file, write_json
from skd_edge.run_folder import read_journal

RESULTS = Path(__file__).resolve().parents[3] / "bench/results/kill9.json"
RECIPE = """
name: kill9
data: {kind: generated, train: 80, val: 120, test: 20, frames: 4, size: 16}
clip: {frames: 4, size: 16}
augment: {shift: 1, views: 2}
labels: {noise: {kind: symmetric, rate: 0.2}}
teacher: {family: resnet, width: 8, depths: [1, 1]}
assistants: [{name: assistant, family: resnet, width: 6, depths: [1, 1]}]
students:
  - {name: small, width: 4, depths: [1, 1]}
  - {name: medium, width: 6, depths: [1, 1]}
  - {name: large, width: 8, depths: [1, 1]}
schedule: {search: halving, share: 0, rungs: [0.4], keep: 2}
training: {teacher_epochs: 4, epochs: 5, batch: 20, rounds: 1}
export: {calibration_clips: 16, int8_agreement: 0.0, precisions: [fp32]}
bench: {processes: 1, queries: 70}
choice: {exchange: 0}   # by accuracy alone: milliseconds differ from one measurement to the next
"""


def start(recipe: Path, out: Path, cache: Path) -> subprocess.Popen[str]:
    """``skd-edge compress`` in a process group of its own, with a cache of its own."""
    words = [sys.executable, "-m", "skd_edge.cli", "compress", str(recipe), "--out", str(out), "--threads", "1"]
    places = {"SKD_EDGE_CACHE": str(cache), "SKD_EDGE_LEDGER": str(cache / "looks.jsonl")}
    return subprocess.Popen(
        words, env={**os.environ, **places}, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_end(process: subprocess.Popen[str]) -> float:
    """Seconds until it ends well."""
    began = time.monotonic()
    _, stderr = process.communicate(timeout=3600)
    if process.returncode:
        raise SystemExit(f"the run failed with {process.returncode}: {stderr[-2000:]}")
    return time.monotonic() - began


def kill_after(process: subprocess.Popen[str], seconds: float) -> bool:
    """SIGKILL the process and all its children; False where it was finished before."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    finally:
        if process.stderr:
            process.stderr.close()
    return False


def read_outcome(out: Path) -> dict[str, Any]:
    """What must be equal: the choice, and each job's hash and weights."""
    report = json.loads((out / "report.json").read_text())
    weights = {path.parent.name: sha256_file(path) for path in sorted(out.glob("jobs/*/weights.safetensors"))}
    chosen = report["chosen"]
    return {"chosen": [chosen["path"], chosen["precision"]], "weights": weights}


def study(kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Once in peace, once with ``kills`` kills."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    seconds = wait_for_end(start(recipe, folder / "peace", folder / "peace-cache"))
    draw, out, moments = random.Random(seed), folder / "war", list[float]()
    while len(moments) < kills:
        # Later starts have less left to do: short waits hit imports and the first stages, long ones what is left.
        moment = draw.uniform(0, seconds) if len(moments) % 2 else draw.uniform(0, seconds / 3)
        if not kill_after(start(recipe, out, folder / "war-cache"), moment):
            out = _make_new_run_folder(folder)  # it was finished: the rest of the kills meet a new run
            continue
        moments.append(round(moment, 2))
        print(f"killed after {moment:.1f} s ({len(moments)} of {kills})", flush=True)
    wait_for_end(start(recipe, out, folder / "war-cache"))
    finished = Counter(
        (file.parent.name, e["job"])
        for file in folder.glob("war*/journal.jsonl")
        for e in read_journal(file.parent)
        if e["event"] == "job_finished"
    )
    uninterrupted, interrupted = read_outcome(folder / "peace"), read_outcome(out)
    return {
        "kills": kills,
        "seed": seed,
        "seconds_in_peace": round(seconds, 1),
        "moments": moments,
        "same_choice": uninterrupted["chosen"] == interrupted["chosen"],
        "same_jobs": set(uninterrupted["weights"]) == set(interrupted["weights"]),
        "bit_equal_weights": uninterrupted["weights"] == interrupted["weights"],
        "jobs": len(interrupted["weights"]),
        "jobs_finished_twice": sum(count > 1 for count in finished.values()),
        "longest_job_seconds": max(
            json.loads(path.read_text())["seconds"] for path in (folder / "peace").glob("jobs/*/job.json")
        ),
    }


def _make_new_run_folder(folder: Path) -> Path:
    """A new run folder, the cache emptied."""
    cache = folder / "war-cache"
    cache.rename(folder / f"{cache.name}-{time.monotonic_ns()}")
    return folder / f"war{len(list(folder.glob('war*')))}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = study(options.kills, options.seed, Path(folder))
    write_json(RESULTS, {"device": read_device_info(), **result})
    print(json.dumps(result, indent=2))
    if not (result["same_choice"] and result["bit_equal_weights"] and not result["jobs_finished_twice"]):
        sys.exit("the killed run came out differently")


if __name__ == "__main__":
    main()
