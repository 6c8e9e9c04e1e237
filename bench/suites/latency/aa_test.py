"""How reliable are our comparisons? Compares a file with itself and with a 5 % slower file, a hundred times.

    python -m bench.suites.latency.aa_test --repeats 100

Each repeat measures three files alternately in the same fresh processes, as `skd-edge bench` does: a chain of 20 equal
convolutions twice (A and A'), and a chain of 21 (B, 5 % more work). Counted over all repeats:

- A/A claims: how often the paired interval of A'/A excludes 1. Goal: at most 5 of 100.
- B found: how often the interval of B/A is above 1. Goal: at least 80 of 100.
- Ratios overlap: how often the intervals of B/A of two consecutive repeats overlap. Goal: at least 95 of 100.
- Absolute repeats: how often the p50 intervals of A of two consecutive repeats overlap. Goal: at least 95 of 100. Only
  pairs that pass the load gate count: the load average is below three quarters of the usable cores (this suite itself
  is about 1), and the warm-up was steady. The number of pairs that did not pass is reported.

Writes bench/results/aa.json.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.suites.latency.cross_check import write_conv_chain
from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings, measure_latency
from skd_bench.device.info import device_id, read_device_info, read_device_state
from skd_bench.files import write_json
from skd_bench.stats import ratio_of_medians, wilson_interval

RESULTS = Path(__file__).resolve().parents[3] / "bench/results/aa.json"
LAYERS = 20
Json = dict[str, Any]


def measure_repeat(files: dict[str, Path], processes: int, queries: int, seed: int, cores: float) -> Json:
    """Measure the three files alternately, once; ``seed`` is the number of the repeat."""
    load = (read_device_state()["load"] or [0.0])[0]
    targets = [LatencyTarget(name, path) for name, path in files.items()]
    settings = MeasurementSettings(processes=processes, queries=queries)
    found = measure_latency(targets, settings, seed=1000 * seed, memory=False)
    samples = {name: latency.samples_ms for name, latency in found.items()}
    aa, ba = ratio_of_medians(samples["A'"], samples["A"]), ratio_of_medians(samples["B"], samples["A"])
    p50 = found["A"].p50
    assert aa is not None
    assert ba is not None
    assert p50 is not None
    steady = all(latency.steady for latency in found.values())
    return {
        "load": load,
        "steady": steady,
        "gate": load <= 0.75 * cores and steady,
        "aa": [aa.value, aa.low, aa.high],
        "ba": [ba.value, ba.low, ba.high],
        "p50": [p50.value, p50.low, p50.high],
    }


def intervals_overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether the intervals of two ``(value, low, high)`` overlap."""
    return a[1] <= b[2] and b[1] <= a[2]


def verdicts(repeats: Sequence[Json]) -> Json:
    """The four counts, each with its Wilson interval and its goal, and the median of B/A."""
    pairs = [(a, b) for a, b in zip(repeats, [*repeats[1:], repeats[0]], strict=True)] if len(repeats) > 1 else []
    gated = [(a, b) for a, b in pairs if a["gate"] and b["gate"]]
    return {
        "A/A claims": _count_hits([not r["aa"][1] <= 1 <= r["aa"][2] for r in repeats], "at most", 0.05),
        "B found": _count_hits([r["ba"][1] > 1 for r in repeats], "at least", 0.80),
        "ratios overlap": _count_hits([intervals_overlap(a["ba"], b["ba"]) for a, b in pairs], "at least", 0.95),
        "absolute repeats overlap": _count_hits(
            [intervals_overlap(a["p50"], b["p50"]) for a, b in gated], "at least", 0.95
        )
        | {"held back by the load gate": len(pairs) - len(gated)},
        "B/A": float(np.median([r["ba"][0] for r in repeats])),
    }


def _count_hits(hits: Sequence[bool], side: str, goal: float) -> Json:
    n, count = len(hits), sum(hits)
    if not n:
        return {"count": 0, "n": 0, "goal": f"{side} {goal:.0%}", "met": None}
    met = count / n <= goal if side == "at most" else count / n >= goal
    return {
        "count": count,
        "n": n,
        "interval": list(wilson_interval(count, n)),
        "goal": f"{side} {goal:.0%}",
        "met": met,
    }


def main() -> None:
    """Repeat the measurement, count, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--queries", type=int, default=240)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    device_info, repeats = read_device_info(), []
    with tempfile.TemporaryDirectory() as folder:
        base_file, slower_file = (write_conv_chain(Path(folder) / f"{n}.onnx", n) for n in (LAYERS, LAYERS + 1))
        files = {"A": base_file, "A'": base_file, "B": slower_file}
        for seed in range(options.repeats):
            repeats.append(
                measure_repeat(files, options.processes, options.queries, seed, float(device_info["cores_usable"] or 1))
            )
            aa, ba = (
                f"{value:.4f} [{low:.4f}, {high:.4f}]" for value, low, high in (repeats[-1][k] for k in ("aa", "ba"))
            )
            print(seed + 1, f"A'/A {aa}  B/A {ba}  load {repeats[-1]['load']}", flush=True)
    found = verdicts(repeats)
    for name, row in found.items():
        print(f"{name}: {row}")
    write_json(
        options.out,
        {
            "processes": options.processes,
            "queries": options.queries,
            "repeats": repeats,
            "verdicts": found,
            "device": device_info,
            "device_id": device_id(device_info),
            "after": read_device_state(),
        },
    )


if __name__ == "__main__":
    main()
