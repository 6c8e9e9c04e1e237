"""What measuring costs: the harness around each query, and our runner over the raw call of each runtime.

    python bench/suites/overhead.py

Raw and wrapped calls take turns in one process, in blocks, on one bound clip: a slow minute slows both. The network is
the quickstart's smallest with random weights (latency does not depend on them), the worst case for a relative cost.
Writes bench/results/overhead.json. The goals: at most 20 microseconds a query, at most 5 % over the raw call.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench import worker
from skd_bench.device import device_card, device_id
from skd_bench.files import write_json
from skd_bench.runtimes import runtime, runtimes
from skd_bench.stats import ratio_of_medians

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench/results/overhead.json"
ROUNDS, BLOCK, QUERIES = 500, 10, 20_000
GOAL_US, GOAL_RATIO = 20.0, 1.05
# The call that a bare loop over the runtime would make, on what our session has bound already.
RAW: dict[str, Callable[[Any], Callable[[], object]]] = {
    "ort": lambda s: lambda: s._session.run_with_iobinding(s._binding),
    "openvino": lambda s: s._request.infer,
}


class Nothing:
    """A network that takes no time: what is left is the harness."""

    def run(self, clip: object) -> None:
        """Answers nothing."""


def harness() -> dict[str, float]:
    """Microseconds a query that the loop spends: in all, and inside what is counted as the query's own time."""
    target = worker._Loaded("nothing", Nothing(), np.zeros(1), 0, 0, np.zeros(QUERIES, np.int64))  # type: ignore[arg-type]
    took = []
    for _ in range(11):
        begin = time.perf_counter_ns()
        worker._time(target, target.samples)
        took.append((time.perf_counter_ns() - begin) / QUERIES / 1000)
    return {"us_per_query": float(np.median(took)), "us_in_the_sample": float(np.median(target.samples)) / 1000}


def runner(name: str, path: Path) -> dict[str, Any]:
    """The ratio of the medians of `Session.run` and of the raw call, with its interval over rounds."""
    session: Any = runtime(name).load(path, threads=1)
    clip = np.random.default_rng(0).standard_normal([n or 1 for n in session.input.shape], dtype=np.float32)
    for _ in range(300):
        session.run(clip)
    raw, ours = RAW[name](session), lambda: session.run(clip)
    samples = {raw: [], ours: []}  # type: dict[Callable[[], object], list[list[float]]]
    for i in range(ROUNDS):
        for call in (raw, ours) if i % 2 else (ours, raw):
            call()
            samples[call].append([_timed(call) for _ in range(BLOCK)])
    ratio = ratio_of_medians(samples[ours], samples[raw])
    assert ratio is not None
    medians = [float(np.median(np.concatenate(samples[call]))) for call in (raw, ours)]
    return {
        "raw_us": medians[0], "extra_us": medians[1] - medians[0], "ratio": ratio.value,
        "interval": [ratio.low, ratio.high], "calls": ROUNDS * BLOCK,
    }  # fmt: skip


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - begin) / 1000


def network(folder: Path) -> Path:
    from skd_edge.models.build import build_network
    from skd_edge.models.substages import Deployed
    from skd_edge.recipe_file import load_recipe
    from skd_export.onnx import export_onnx

    recipe = load_recipe("quickstart")
    clip, small = recipe.clip, recipe.students[0]
    built = Deployed(build_network(small, classes=10, clip=clip, seed=0)).eval()
    path, shape = folder / "small.fp32.onnx", (clip.frames, clip.size, clip.size)
    export_onnx(built, path, clip_shape=shape, classes=[f"class {i}" for i in range(10)])
    return path


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, card, around = network(Path(folder)), device_card(), harness()
        rows = {name: runner(name, path) for name in RAW if runtimes()[name].missing() is None}
    within = {
        "harness": around["us_per_query"] <= GOAL_US,
        **{name: row["interval"][1] <= GOAL_RATIO for name, row in rows.items()},
    }
    result = {"device": card, "device_id": device_id(card), "harness": around, "runner": rows, "within_goal": within}
    write_json(RESULTS, result)
    print(f"harness: {around['us_per_query']:.2f} us a query, {around['us_in_the_sample']:.2f} us of it in the sample")
    for name, row in rows.items():
        spread = "[{:.3f}, {:.3f}]".format(*row["interval"])
        print(f"{name}: raw {row['raw_us']:.1f} us, +{row['extra_us']:.2f} us, ratio {row['ratio']:.3f} {spread}")
    print(f"within the goals: {within}; load {card['load']}")


if __name__ == "__main__":
    main()
