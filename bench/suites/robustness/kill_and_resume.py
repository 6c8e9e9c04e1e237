"""Kills a run with ``kill -9`` at random moments: its outcome must equal that of an uninterrupted run.

    python -m bench.suites.robustness.kill_and_resume --kills 20

A small run is executed once without interruption. Then it is executed again, it is killed at random moments (twice the
whole process group, twice the command alone, and so on), and it is started again after each kill. Both runs must choose
the same candidate and have the same job hashes and bit-equal weights, and no finished job may be trained again. A kill
can therefore lose only the work of the current jobs since their last checkpoint. A checkpoint is written every 15
seconds; `longest_job_seconds` is another upper bound. Writes bench/results/kill9.json.
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
choice: {exchange: 0}   # choose by accuracy only, because latency differs between measurements
"""


def start(recipe: Path, out: Path, cache: Path) -> subprocess.Popen[str]:
    """Start ``skd-edge compress`` in its own process group with its own cache."""
    words = [sys.executable, "-m", "skd_edge.cli", "compress", str(recipe), "--out", str(out)]
    places = {"SKD_EDGE_CACHE": str(cache), "SKD_EDGE_LEDGER": str(cache / "looks.jsonl")}
    return subprocess.Popen(
        words, env={**os.environ, **places}, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_end(process: subprocess.Popen[str]) -> float:
    """Wait for the process and return the seconds; exit if it fails."""
    began = time.monotonic()
    _, stderr = process.communicate(timeout=3600)
    if process.returncode:
        raise SystemExit(f"the run failed with {process.returncode}: {stderr[-2000:]}")
    return time.monotonic() - began


def kill_after(process: subprocess.Popen[str], seconds: float, *, alone: bool) -> bool:
    """Send SIGKILL to the process and its children after some seconds; False if it had already finished.

    Args:
        process: the command.
        seconds: when it is killed.
        alone: kill only the command; its children, which train jobs, have to notice.
    """
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill() if alone else os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    finally:
        if process.stderr:
            process.stderr.close()
    return False


def read_outcome(out: Path) -> dict[str, Any]:
    """What must be equal between the runs: the chosen candidate, and the hash and weights of each job."""
    report = json.loads((out / "report.json").read_text())
    weights = {path.parent.name: sha256_file(path) for path in sorted(out.glob("jobs/*/weights.safetensors"))}
    chosen = report["chosen"]
    return {"chosen": [chosen["path"], chosen["precision"]], "weights": weights}


def study(kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run once without interruption and once with ``kills`` kills, and compare the outcomes."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    seconds = wait_for_end(start(recipe, folder / "peace", folder / "peace-cache"))
    draw, out, moments = random.Random(seed), folder / "war", list[float]()
    while len(moments) < kills:
        # A resumed run has less work left: short waits hit imports and the first stages, long waits the later stages.
        moment = draw.uniform(0, seconds) if len(moments) % 2 else draw.uniform(0, seconds / 3)
        if not kill_after(start(recipe, out, folder / "war-cache"), moment, alone=len(moments) % 4 > 1):
            out = _make_new_run_folder(folder)  # the run had finished: the remaining kills hit a new run
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
    """Rename the cache, so that it is empty, and return the path of a new run folder."""
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
        sys.exit("the killed run has a different outcome, or trained a finished job again; see the results above")


if __name__ == "__main__":
    main()
