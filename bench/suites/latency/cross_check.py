"""Does our latency agree with that of other tools? Times the same ONNX file alternately in three ways.

    python -m bench.suites.latency.cross_check --rounds 20

Each round starts three fresh processes in random order: ours (`skd_bench.benchmark.worker`), a bare loop over
`InferenceSession.run_with_iobinding`, and Polygraphy's `run --onnxrt` (its `Comparator` with its `OnnxrtRunner`, as the
command does, with the same session options). Polygraphy itself takes the time around `session.run`. Medians are
compared: the ratio is the median over rounds, with its bootstrap interval. Writes bench/results/crosscheck.json.

Goals: ours is within 3 % of the bare loop and within 5 % of Polygraphy. This suite runs on the CPU only.
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
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "bench/results/crosscheck.json"
GOALS = {"bare": 0.03, "polygraphy": 0.05}
Json = dict[str, Any]


def write_conv_chain(path: Path, layers: int, *, channels: int = 32, size: int = 16) -> Path:
    """Write an ONNX file of equal 3x3 convolutions; by default, each has 4.7 million multiplications."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.06, (channels, channels, 3, 3)).astype(np.float32), f"w{i}")
        for i in range(layers)
    ]
    nodes = []
    for i in range(layers):
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"]))
    nodes.append(helper.make_node("GlobalAveragePool", [f"x{layers}"], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["logits"]))
    shape = ["batch", channels, size, size]
    graph = helper.make_graph(
        nodes,
        f"chain of {layers}",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", channels])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


# ------------------------------------------------------------------------------------------- one way, one process
def time_with_worker(model: str, queries: int) -> list[float]:
    """Milliseconds of each query, measured as `skd-edge bench` does."""
    from skd_bench.benchmark.worker import run_job
    from skd_bench.benchmark.worker_job import WorkerJob

    job: WorkerJob = {
        "targets": [{"name": "m", "path": model, "runtime": "ort"}],
        "threads": 1,
        "queries": queries,
        "seed": 0,
    }
    return [ns / 1e6 for ns in run_job(job)["targets"][0]["samples_ns"]]


def time_bare_loop(model: str, queries: int) -> list[float]:
    """Milliseconds of each query in a simple loop with bound input and output, without any code of skd_bench."""
    import gc

    session = _make_session(model)
    feed = _make_feed(session)
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_cpu_input(name, array)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    for _ in range(50):
        session.run_with_iobinding(binding)
    gc.collect()
    gc.disable()
    times = []
    for _ in range(queries):
        begin = time.perf_counter_ns()
        session.run_with_iobinding(binding)
        times.append((time.perf_counter_ns() - begin) / 1e6)
    return times


def time_polygraphy(model: str, queries: int) -> list[float]:
    """Milliseconds of each query as in `polygraphy run --onnxrt --iterations N --warm-up 50`, same session options."""
    from polygraphy.backend.onnxrt import OnnxrtRunner
    from polygraphy.comparator import Comparator
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    session = _make_session(model)
    feed = _make_feed(session)
    results = Comparator.run([OnnxrtRunner(session)], warm_up=50, data_loader=[feed] * queries)
    return [1000 * iteration.runtime for iteration in results[0][1]]


WAYS = {"ours": time_with_worker, "bare": time_bare_loop, "polygraphy": time_polygraphy}


def _make_session(model: str) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _make_feed(session: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        i.name: rng.standard_normal([n if isinstance(n, int) else 1 for n in i.shape], dtype=np.float32)
        for i in session.get_inputs()
    }


# ----------------------------------------------------------------------------------------------------- the rounds
def time_in_process(way: str, model: Path, queries: int) -> float:
    """The median milliseconds of one way of timing, in a fresh process."""
    python_path = os.pathsep.join(filter(None, [str(ROOT / "bench"), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, __file__, "--way", way, "--model", str(model), "--queries", str(queries)]
    environment = {**os.environ, "PYTHONPATH": python_path, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return float(np.median(json.loads(done.stdout.splitlines()[-1])))


def compare_ways(rounds: list[dict[str, float]]) -> Json:
    """Divide our median by that of each other way: median over rounds, 95 % interval, and whether the goal is met."""
    rng = np.random.default_rng(0)
    found: Json = {}
    for way, goal in GOALS.items():
        values = np.asarray([r["ours"] / r[way] for r in rounds])
        draws = np.median(rng.choice(values, (4000, len(values))), axis=1)
        low, high = np.quantile(draws, [0.025, 0.975]).tolist()
        ratio = float(np.median(values))
        found[way] = {"ratio": ratio, "interval": [low, high], "goal": goal, "met": abs(ratio - 1) <= goal}
    return found


def main() -> None:
    """Time the ways alternately, compare them, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--queries", type=int, default=1000, help="in each process")
    parser.add_argument("--model", type=Path, help="an ONNX file; default: a chain of 20 convolutions")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(WAYS[options.way](str(options.model), options.queries)))
        return
    from skd_bench.device.info import device_id, read_device_info, read_device_state
    from skd_bench.files import write_json

    device_info, rng, rounds = read_device_info(), np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or write_conv_chain(Path(folder) / "chain.onnx", 20)
        for i in range(options.rounds):
            order = rng.permutation(list(WAYS)).tolist()
            rounds.append({way: time_in_process(way, model, options.queries) for way in order})
            print(i + 1, {way: round(ms, 4) for way, ms in rounds[-1].items()}, flush=True)
    found = compare_ways(rounds)
    for way, row in found.items():
        low, high = row["interval"]
        print(f"ours / {way}: {row['ratio']:.4f} [{low:.4f}, {high:.4f}], goal {row['goal']:.0%}: met: {row['met']}")
    write_json(
        options.out,
        {
            "model": options.model.name if options.model else "chain of 20 convolutions",
            "queries": options.queries,
            "rounds": rounds,
            "ratios": found,
            "device": device_info,
            "device_id": device_id(device_info),
            "after": read_device_state(),
        },
    )


if __name__ == "__main__":
    main()
