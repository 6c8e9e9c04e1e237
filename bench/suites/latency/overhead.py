"""Measures the overhead of our benchmark: the harness for each query, our sessions, and the pack for devices.

    python -m bench.suites.latency.overhead

Raw calls and calls of our session alternate in one process, in blocks, with the same clip, so that a slow period of
the machine affects both. The network is the quickstart's smallest student with random weights (latency does not depend
on them): its short latency is the worst case for a relative overhead. For the pack: its size without the files that it
measures, and the seconds from Python's start until its first benchmark process starts (median of 11 starts). Writes
bench/results/overhead.json.

Goals: at most 20 microseconds for each query, at most 5 % more than the raw call, a pack of at most 1 MiB that starts
measuring within 1 s.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.benchmark import worker
from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings
from skd_bench.device.info import device_id, read_device_info
from skd_bench.files import write_json
from skd_bench.remote.pack import pack_files
from skd_bench.runtimes import find_runtime, registered_runtimes
from skd_bench.stats import ratio_of_medians

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "bench/results/overhead.json"
ROUNDS, BLOCK, QUERIES, STARTS = 500, 10, 20_000, 11
GOAL_US, GOAL_RATIO = 20.0, 1.05
# The call that a simple loop over the runtime would make, with the buffers that our session has bound.
RAW: dict[str, Callable[[Any], Callable[[], object]]] = {
    "ort": lambda s: lambda: s._session.run_with_iobinding(s._binding),
    "openvino": lambda s: s._request.infer,
}


class NoOpNetwork:
    """A network that does nothing, so the measured time is that of the harness."""

    def run(self, clip: object) -> None:
        """Do nothing."""


def measure_harness() -> dict[str, float]:
    """Microseconds of the harness for each query: in total, and the part that is counted as the query's latency."""
    clip, samples = np.zeros(1), np.zeros(QUERIES, np.int64)
    target = worker.LoadedTarget("nothing", NoOpNetwork(), clip, 0, 0, samples)  # type: ignore[arg-type]
    took = []
    for _ in range(11):
        begin = time.perf_counter_ns()
        worker.time_queries(target, target.samples)
        took.append((time.perf_counter_ns() - begin) / QUERIES / 1000)
    return {"us_per_query": float(np.median(took)), "us_in_the_sample": float(np.median(target.samples)) / 1000}


def measure_runner(name: str, path: Path) -> dict[str, Any]:
    """Ratio of the median latencies of our session's ``run`` and the raw call, with its interval over rounds."""
    session: Any = find_runtime(name).load(path, threads=1)
    clip = np.random.default_rng(0).standard_normal([n or 1 for n in session.input.shape], dtype=np.float32)
    for _ in range(300):
        session.run(clip)
    raw, wrapped = RAW[name](session), lambda: session.run(clip)
    samples = {raw: [], wrapped: []}  # type: dict[Callable[[], object], list[list[float]]]
    for i in range(ROUNDS):
        for call in (raw, wrapped) if i % 2 else (wrapped, raw):
            call()
            samples[call].append([_timed(call) for _ in range(BLOCK)])
    ratio = ratio_of_medians(samples[wrapped], samples[raw])
    assert ratio is not None
    medians = [float(np.median(np.concatenate(samples[call]))) for call in (raw, wrapped)]
    return {
        "raw_us": medians[0],
        "extra_us": medians[1] - medians[0],
        "ratio": ratio.value,
        "interval": [ratio.low, ratio.high],
        "calls": ROUNDS * BLOCK,
    }


def measure_pack(network: Path, folder: Path) -> dict[str, float]:
    """Bytes of the pack without the file that it measures, and seconds until it starts measuring."""
    path, took = folder / "pack.pyz", []
    path.write_bytes(pack_files([LatencyTarget("small", network)], MeasurementSettings(processes=1, queries=64)))
    with zipfile.ZipFile(path) as packed:
        parcel = sum(i.compress_size for i in packed.infolist() if i.filename.startswith("parcel/files"))
    for number in range(STARTS):
        fresh = folder / str(number) / path.name  # a new folder: a pack resumes from results beside it
        fresh.parent.mkdir()
        shutil.copy(path, fresh)
        begin = time.perf_counter()
        words, pipe = [sys.executable, "-I", str(fresh), "--tether"], subprocess.PIPE
        with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdout is not None
            first = next((line for line in process.stdout if "progress" in line), None)
            took.append(time.perf_counter() - begin)
            process.terminate()
        if first is None:
            sys.exit("the pack ended before it started measuring")
    return {"bytes": path.stat().st_size - parcel, "seconds_to_measuring": float(np.median(took))}


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - begin) / 1000


def export_smallest_student(folder: Path) -> Path:
    from skd_edge.models.builder import build_network
    from skd_edge.models.substages import LogitsOnly
    from skd_edge.recipe.loader import load_recipe
    from skd_export.graph.onnx_export import export_onnx

    recipe = load_recipe("quickstart")
    clip, small = recipe.clip, recipe.students[0]
    built = LogitsOnly(build_network(small, classes=10, clip=clip, seed=0)).eval()
    path, shape = folder / "small.fp32.onnx", (clip.frames, clip.size, clip.size)
    export_onnx(built, path, clip_shape=shape, classes=[f"class {i}" for i in range(10)])
    return path


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, device_info, harness_cost = export_smallest_student(Path(folder)), read_device_info(), measure_harness()
        rows = {
            name: measure_runner(name, path) for name in RAW if registered_runtimes()[name].why_unavailable() is None
        }
        pack_cost = measure_pack(path, Path(folder))
    within = {
        "harness": harness_cost["us_per_query"] <= GOAL_US,
        "pack": pack_cost["bytes"] <= 1 << 20 and pack_cost["seconds_to_measuring"] <= 1,
        **{name: row["interval"][1] <= GOAL_RATIO for name, row in rows.items()},
    }
    result = {
        "device": device_info,
        "device_id": device_id(device_info),
        "harness": harness_cost,
        "runner": rows,
        "pack": pack_cost,
        "within_goal": within,
    }
    write_json(RESULTS, result)
    print(
        f"harness: {harness_cost['us_per_query']:.2f} us per query, of which {harness_cost['us_in_the_sample']:.2f} us "
        "are counted as latency"
    )
    for name, row in rows.items():
        interval_text = "[{:.3f}, {:.3f}]".format(*row["interval"])
        print(
            f"{name}: raw {row['raw_us']:.1f} us, +{row['extra_us']:.2f} us, ratio {row['ratio']:.3f} {interval_text}"
        )
    print(
        f"pack: {pack_cost['bytes'] / 1024:.0f} KiB, starts measuring after {pack_cost['seconds_to_measuring']:.2f} s"
    )
    print(f"within the goals: {within}; load {device_info['load']}")


if __name__ == "__main__":
    main()
