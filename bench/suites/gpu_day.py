"""One script for the day a GPU is at hand: a quarter of an hour, every step in a process of its own with a time limit.

    python -m bench.suites.gpu_day
    python -m bench.suites.gpu_day --double          # tries the script on the double of TensorRT and CUDA
    python -m bench.suites.gpu_day --only facts,copies

Prints one line of JSON for each step, and writes all to bench/results/gpu_day.json (--double: to a file that --out
names). A step that fails or is not possible says why, and the next one goes on. On the double no time, clock or joule
is written: they are of no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.suites.gpu_conformance import why_not_on_gpu
from bench.suites.tensorrt_double.double import environment
from skd_bench.benchmark.concurrent_sessions import ConcurrentSessions
from skd_bench.benchmark.engines.device_job import prepare_targets
from skd_bench.benchmark.gpu_timing import GpuPlan, time_on_gpu
from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings, measure_latency
from skd_bench.device.energy.meter import measure_joules_per_query, open_energy_meter
from skd_bench.device.gpu_clock import ClockReading, open_gpu_clock
from skd_bench.device.info import read_device_info
from skd_bench.errors import UserError
from skd_bench.files import write_json
from skd_bench.runtimes import find_runtime
from skd_bench.runtimes.base import CompileOptions, TimedSession, make_random_clip
from skd_bench.runtimes.cuda import call_cuda, find_gpu, import_cuda_bindings
from skd_bench.runtimes.cudart import load_cudart

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench/results/gpu_day.json"
RUNTIMES = ("tensorrt", "tensorrt-rtx", "ort-cuda", "ort-tensorrt")
_OF_NO_GPU = re.compile(r"_ms$|mhz|seconds|_s$|per_second|joules|watts|power_w|temperature|_mb$|interval|^reason$")
_COPY_BYTES, _COPIES = 1 << 16, 200
_STUDENT = {"name": "small", "width": 8, "depths": [1, 1]}
_RECIPE: dict[str, Any] = {
    "name": "gpu-day",
    "data": {"kind": "generated", "train": 64, "val": 40, "test": 40, "frames": 4, "size": 32},
    "clip": {"frames": 4, "size": 32},
    "teacher": {"family": "resnet", "width": 8, "depths": [1, 1]},
    "students": [_STUDENT],
    "labels": {"optimise": False},
    "training": {"teacher_epochs": 1, "epochs": 1, "batch": 16, "rounds": 1},
    "schedule": {"controls": []},
    "export": {"precisions": ["fp32", "fp16", "int8-trt"], "calibration_clips": 16, "int8_agreement": 0.0},
    "choice": {"budget": "5000 ms"},
}


@dataclass(frozen=True)
class StepResult:
    """What a step found.

    Attributes:
        step: its name.
        ok: whether it ran to its end.
        found: what it found, or ``{"problem": ...}``.
        seconds: how long it took, with the start of its process.
    """

    step: str
    ok: bool
    found: dict[str, Any]
    seconds: float


# ------------------------------------------------------------------------------------------------ steps
def find_facts() -> dict[str, Any]:
    """The machine, the GPU, and which runtimes can be used on it."""
    gpu = find_gpu()
    clock = open_gpu_clock()
    return {
        "device": read_device_info(),
        "gpu": str(gpu),
        "runtimes": {name: why_not_on_gpu(name, gpu) or find_runtime(name).version() for name in RUNTIMES},
        "clock": clock if isinstance(clock, str) else asdict(clock()),
    }


def compare_copies() -> dict[str, Any]:
    """Copies through cuda-bindings and through ctypes: with a graph as without, no leak, and a capture that fails."""
    found: dict[str, Any] = {}
    for name, load in (("cuda-bindings", import_cuda_bindings), ("ctypes", load_cudart)):
        try:
            found[name] = _copy_back_and_forth(load())
        except UserError as error:
            found[name] = {"problem": str(error)}
    return found


def _copy_back_and_forth(cuda: Any) -> dict[str, Any]:
    source = np.random.default_rng(0).integers(0, 256, _COPY_BYTES, np.uint8)
    target = np.zeros_like(source)
    kind, mode = cuda.cudaMemcpyKind, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    stream, memory = call_cuda(cuda.cudaStreamCreate), call_cuda(cuda.cudaMalloc, _COPY_BYTES)

    def copy() -> None:
        there, back = kind.cudaMemcpyHostToDevice, kind.cudaMemcpyDeviceToHost
        call_cuda(cuda.cudaMemcpyAsync, memory, source.ctypes.data, _COPY_BYTES, there, stream)
        call_cuda(cuda.cudaMemcpyAsync, target.ctypes.data, memory, _COPY_BYTES, back, stream)

    copy()
    call_cuda(cuda.cudaStreamSynchronize, stream)
    plain = bool((target == source).all())
    free, _ = call_cuda(cuda.cudaMemGetInfo)
    replayed = True
    for _ in range(_COPIES):
        call_cuda(cuda.cudaStreamBeginCapture, stream, mode)
        copy()
        graph = call_cuda(cuda.cudaStreamEndCapture, stream)
        made = call_cuda(cuda.cudaGraphInstantiate, graph, 0)
        source += 1
        call_cuda(cuda.cudaGraphLaunch, made, stream)
        call_cuda(cuda.cudaStreamSynchronize, stream)
        replayed &= bool((target == source).all())
        call_cuda(cuda.cudaGraphExecDestroy, made)
        call_cuda(cuda.cudaGraphDestroy, graph)
    left, _ = call_cuda(cuda.cudaMemGetInfo)
    call_cuda(cuda.cudaStreamBeginCapture, stream, mode)
    during = int(cuda.cudaStreamSynchronize(stream)[0])  # not allowed while capturing: the capture is then invalid
    ended = int(cuda.cudaStreamEndCapture(stream)[0])
    call_cuda(cuda.cudaFree, memory)
    return {
        "equal_without_graph": plain,
        "equal_with_graph": replayed,
        "leaked_bytes": free - left,
        "status_of_a_spoiled_capture": [during, ended],
    }


def measure_ramp() -> dict[str, Any]:
    """How the clock and the time of a query rise after ten idle seconds, in steps of 100 ms."""
    with tempfile.TemporaryDirectory() as folder:
        name, target, _ = next(_iter_prepared(Path(folder), ("fp32",)))
        session = find_runtime(target.runtime).load(Path(target.path), threads=1)
        clip, clock = make_random_clip(session), _open_clock()
        session.run(clip)
        time.sleep(10)
        begin, steps = time.perf_counter(), []
        while time.perf_counter() - begin < 3:
            until, times = time.perf_counter() + 0.1, []
            while time.perf_counter() < until:
                start = time.perf_counter_ns()
                session.run(clip)
                times.append(time.perf_counter_ns() - start)
            steps.append({"p50_ms": float(np.median(times)) / 1e6, "mhz": clock().mhz})
        timing = time_on_gpu(lambda: session.run(clip), GpuPlan(240, 3.0, 0.2), clock)
        session.close()
    return {"file": name, "steps": steps, "steady": timing.steady, "clocks": asdict(timing.clocks)}


def compare_energy() -> dict[str, Any]:
    """Joules of the energy counter against power times time, as nvidia-smi shows it."""
    meter = open_energy_meter()
    if isinstance(meter, str):
        raise UserError(meter)
    with tempfile.TemporaryDirectory() as folder:
        name, target, _ = next(_iter_prepared(Path(folder), ("fp32",)))
        session = find_runtime(target.runtime).load(Path(target.path), threads=1)
        clip = make_random_clip(session)
        energy = measure_joules_per_query(meter, lambda: session.run(clip), seconds=10)
        state = read_device_info()["gpu_state"]
        session.close()
    meter.close()
    return {"file": name, "energy": energy, "power_after": state}


def measure_engines() -> dict[str, Any]:
    """Every file on every runtime: build, agreement with the CPU, layers, launch, copies, five builds, streams."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, target, facts in _iter_prepared(Path(folder), ("fp32", "fp16", "int8-trt"), found):
            found[name] = {"facts": facts, **_measure_engine(target, Path(folder))}
    return found


def _measure_engine(target: LatencyTarget, folder: Path) -> dict[str, Any]:
    source = next(folder.glob(f"**/{target.name}"))
    session = find_runtime(target.runtime).load(Path(target.path), threads=1)
    on_cpu = find_runtime("ort").load(source, threads=1)
    clip = make_random_clip(session)
    logits, expected = session.run(clip), on_cpu.run(clip)
    row: dict[str, Any] = {"error_to_cpu": float(np.abs(logits - expected).max() / np.abs(expected).max())}
    row |= {"breakdown": session.time_breakdown(clip)} if isinstance(session, TimedSession) else {}
    if target.runtime in ("tensorrt", "tensorrt-rtx"):
        plain = find_runtime(f"{target.runtime}-nograph").load(Path(target.path), threads=1)
        row["equal_with_and_without_graph"] = bool((plain.run(clip) == logits).all())
        plain.close()
    streams = [find_runtime(target.runtime).load(Path(target.path), threads=1) for _ in range(4)]
    together = ConcurrentSessions(streams)
    clips = np.repeat(clip, 32, axis=0)
    row["equal_on_four_streams"] = bool((together.run(clips) == logits).all())
    together.close()
    settings = MeasurementSettings(processes=3)
    row["latency"] = measure_latency([target], settings, memory=False)[target.name].to_json()
    for one in (session, on_cpu):
        one.close()
    return row


def run_conformance() -> dict[str, Any]:
    """The conformance suite on every runtime of this GPU."""
    gpu = find_gpu()
    usable = [n for name in RUNTIMES for n in _list_launches(name) if why_not_on_gpu(n, gpu) is None]
    command = [sys.executable, "-m", "bench.suites.gpu_conformance", *usable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(done.stdout[-2000:])
    return {"runtimes": usable, "last_line": re.sub(r" in \d+.*", "", done.stdout.strip().splitlines()[-1])}


def compare_gradients() -> dict[str, Any]:
    """Loss and gradients of one step on the CPU and on the GPU, in FP32."""
    import torch

    from skd_edge.models.builder import build_network
    from skd_edge.recipe.schema import Recipe

    if not torch.cuda.is_available():
        raise UserError("this torch cannot use a GPU")
    recipe = Recipe.model_validate(_RECIPE)
    clips = torch.randn((8, 3, 4, 32, 32), generator=torch.Generator().manual_seed(0))
    grads: dict[str, list[Any]] = {}
    losses = {}
    for device in ("cpu", "cuda"):
        network = build_network(recipe.students[0], classes=10, clip=recipe.clip, seed=0).to(device)
        loss = torch.nn.functional.cross_entropy(network(clips.to(device)).logits, torch.arange(8, device=device))
        loss.backward()
        losses[device] = float(loss)
        grads[device] = [p.grad.cpu() for p in network.parameters() if p.grad is not None]
    largest = max(float(g.abs().max()) for g in grads["cpu"])
    worst = max(float((a - b).abs().max()) for a, b in zip(grads["cpu"], grads["cuda"], strict=True))
    return {"losses": losses, "largest_gradient_error": worst / largest}


def compress_on_gpu() -> dict[str, Any]:
    """A small run with engines as candidates, from recipe to bundle."""
    from skd_edge.pipeline.compress import compress
    from skd_edge.pipeline.context import RunOptions
    from skd_edge.recipe.schema import Recipe

    gpu = find_gpu()
    runtime = next((name for name in RUNTIMES if why_not_on_gpu(name, gpu) is None), None)
    if runtime is None:
        raise UserError("no runtime can use this GPU")
    bench = {"processes": 2, "runtime": [runtime, "ort"], "build": {"builds": 2}}
    with tempfile.TemporaryDirectory() as folder:
        compress(Recipe.model_validate({**_RECIPE, "bench": bench}), Path(folder) / "run", RunOptions(jobs=1))
        report = json.loads((Path(folder) / "run" / "report.json").read_text())
    names = ("name", "accuracy", "p50_ms", "reason")
    rows = [{key: row[key] for key in names if key in row} for row in report["candidates"]]
    return {"runtime": runtime, "chosen": report["chosen"] and report["chosen"]["name"], "candidates": rows}


# Each with its time limit in seconds.
STEPS: dict[str, tuple[Callable[[], dict[str, Any]], int]] = {
    "facts": (find_facts, 60),
    "copies": (compare_copies, 60),
    "ramp": (measure_ramp, 90),
    "energy": (compare_energy, 90),
    "engines": (measure_engines, 240),
    "conformance": (run_conformance, 120),
    "gradients": (compare_gradients, 60),
    "compress": (compress_on_gpu, 180),
}


def _list_launches(name: str) -> list[str]:
    return [name, f"{name}-nograph"] if name in ("tensorrt", "tensorrt-rtx") else [name]


def _open_clock() -> Callable[[], ClockReading]:
    clock = open_gpu_clock()
    return (lambda: ClockReading(None)) if isinstance(clock, str) else clock


def _iter_prepared(folder: Path, precisions: Sequence[str], refused: dict[str, Any] | None = None) -> Any:
    """Export a small network, and prepare each file on each runtime: yields (name, target, facts).

    Args:
        folder: for the files.
        precisions: of the files.
        refused: takes the reasons of what cannot run.

    Raises:
        UserError: Nothing can run.
    """
    from skd_edge.evaluation.candidate_exporter import CandidateExporter
    from skd_edge.recipe.schema import Recipe

    recipe, gpu = Recipe.model_validate(_RECIPE), find_gpu()
    exporter = CandidateExporter(recipe, tuple(map(str, range(10))), folder)
    network = exporter.build_untrained_network(recipe.students[0])
    files = exporter.export_untrained(network, "small", tuple(precisions))
    refused = {} if refused is None else refused
    any_ran = False
    for runtime in RUNTIMES:
        if why := why_not_on_gpu(runtime, gpu):
            refused[runtime] = {"problem": why}
            continue
        for precision, path in files.items():
            name = f"{precision} on {runtime}"
            settings = MeasurementSettings(builds=5 if len(files) > 1 else 1)
            prepared = prepare_targets(
                [LatencyTarget(path.name, path, runtime)], folder / "engines", CompileOptions(), settings
            )
            if path.name in prepared.refused:
                refused[name] = {"problem": prepared.refused[path.name]}
                continue
            any_ran = True
            yield name, prepared.ready[path.name], prepared.facts[path.name]
    if not any_ran:
        raise UserError(f"no file can run on this GPU: {json.dumps(refused)}")


# ------------------------------------------------------------------------------------------------ the day
def run_step(name: str, environ: dict[str, str]) -> StepResult:
    """Run a step in a process of its own."""
    begin, limit = time.monotonic(), STEPS[name][1]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        own = {"SKD_EDGE_CACHE": f"{folder}/cache", "SKD_EDGE_LEDGER": f"{folder}/looks.jsonl"}
        command = [sys.executable, "-m", "bench.suites.gpu_day", "--step", name, "--out", str(result)]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environ | own, capture_output=True, text=True, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            return StepResult(name, False, {"problem": f"not finished after {limit} s"}, time.monotonic() - begin)
        seconds = round(time.monotonic() - begin, 1)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no error message"])[-1]
            return StepResult(name, False, {"problem": last}, seconds)
        return StepResult(name, True, json.loads(result.read_text()), seconds)


def without_times(value: Any) -> Any:
    """The same without what only a GPU can tell: times, clocks, joules and memory."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if not _OF_NO_GPU.search(key)}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--double", action="store_true", help="on the double of TensorRT and CUDA; writes no times")
    parser.add_argument("--only", default=",".join(STEPS), metavar="STEP,...", help=f"of {', '.join(STEPS)}")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE.json")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.step:
        return _run_here(options.step, options.out)
    if unknown := set(options.only.split(",")) - set(STEPS):
        parser.error(f"unknown steps {', '.join(sorted(unknown))}; choose from {', '.join(STEPS)}")
    if options.double and options.out == RESULTS:
        parser.error("--double needs --out: its result is not one of bench/results")
    environ = {**os.environ, **environment()} if options.double else dict(os.environ)
    if not options.double:
        try:
            find_gpu()
        except UserError as error:
            print(f"no GPU here: {error}; --double tries the script without one", file=sys.stderr)
            return 1
    rows = []
    for name in options.only.split(","):
        result = asdict(run_step(name, environ))
        rows.append(without_times(result) if options.double else result)
        print(json.dumps(rows[-1]), flush=True)
        write_json(options.out, {"double": options.double, "steps": rows})
    return 0


def _run_here(name: str, out: Path) -> int:
    try:
        write_json(out, STEPS[name][0]())
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
