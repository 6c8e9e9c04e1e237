"""Measures how much faster a student's files are than PyTorch, and INT8 than FP32: batch 1, on the CPU.

    python -m bench.suites.latency.runtimes --prepare    # trains and compiles; some minutes, also on a busy machine
    python -m bench.suites.latency.runtimes              # exports, compares, measures; needs an otherwise idle machine

The networks are students of recipes/quickstart.yaml and recipes/human_motion.yaml, trained for a few epochs on rendered
clips of their sizes, and two networks of human_motion at 112 pixels, where layers have more work. The latter have
random weights: only their latency is measured, which does not depend on the weights. If litert-torch is installed,
--prepare also writes .tflite files, which are then measured too. Every file is measured on every runtime of this
machine, alternately in the same fresh processes; ratios are paired by process (`skd_bench.stats.ratio_of_medians`).
PyTorch runs the FP32 file's graph with its fastest settings: inference mode, folded BatchNorm, channels-last, the same
threads. Writes bench/results/speed.json and docs/speed.md.

Goals: the fastest file is at least 5 times as fast as PyTorch eager; INT8 is at least 1.5 times as fast as FP32 on the
fastest runtime that supports both, or its operators show why not; export and parity of one student take at most 60 s.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bench.suites.fixtures import make_preprocess, render_motions, train_network
from bench.suites.latency.torch_runtime import register_torch_runtimes, run_in_torch_process
from skd_bench.benchmark.latency import LatencyResult, LatencyTarget, MeasurementSettings, measure_latency
from skd_bench.device.info import device_id, read_device_info, read_device_state
from skd_bench.files import write_atomic, write_json
from skd_bench.metrics.accuracy import compute_logits
from skd_bench.runtimes import find_runtime, registered_runtimes
from skd_bench.stats import Interval, ratio_of_medians
from skd_bench.video.clip import normalise
from skd_edge.data.sources.synthetic import MOTION_CLASSES
from skd_edge.models.substages import LogitsOnly
from skd_edge.models.tsm import build_tsm
from skd_edge.recipe.loader import load_recipe
from skd_edge.recipe.schema import NetworkSpec
from skd_export.analysis.operator_profile import group_by_operator
from skd_export.analysis.parity import compute_parity, compute_torch_logits, find_violated_bound
from skd_export.exporter import QuantizationConfig, make_artefacts, read_metadata
from skd_export.targets.litert import explain_missing_converter, export_litert

ROOT = Path(__file__).resolve().parents[3]
RESULTS, PAGE = ROOT / "bench/results/speed.json", ROOT / "docs/speed.md"
STUDENTS = (
    ("quickstart", "small", None),
    ("human_motion", "small", None),
    ("human_motion", "small", 112),
    ("human_motion", "teacher", 112),
)
EAGER, COMPILED = "torch-eager", "torch-compile"
PRECISIONS = ("fp32", "int8")
CALIBRATE, COMPARE, DIFFICULTY = 128, 256, 0.12
GOAL_EAGER, GOAL_INT8, GOAL_SECONDS = 5.0, 1.5, 60.0
Json = dict[str, Any]


@dataclass(frozen=True)
class Student:
    """A network of a recipe, and the clips it takes.

    Attributes:
        title: Its name in the tables.
        spec: The network's specification from the recipe.
        frames: Frames of a clip.
        size: Height and width of a clip in pixels: the recipe's, or a larger size.
        trained: Whether it is trained; only then are its logits compared.
    """

    title: str
    spec: NetworkSpec
    frames: int
    size: int
    trained: bool

    @property
    def shape(self) -> dict[str, int]:
        """Frames and size of its clips, as keyword arguments."""
        return {"frames": self.frames, "size": self.size}


def students() -> list[Student]:
    found = []
    for name, member, larger in STUDENTS:
        recipe = load_recipe(name, ["data.root=."] if name == "human_motion" else [])
        frames, size, spec = recipe.clip.frames, larger or recipe.clip.size, recipe.networks[member]
        weights = ", random weights" if larger else ""
        title = f"{name} {member} ({spec.family} {spec.width}, {spec.temporal}), {frames}x{size}x{size}{weights}"
        found.append(Student(title, spec, frames, size, trained=larger is None))
    return found


def work_file(student: Student, work: Path, ending: str) -> Path:
    return work / f"{student.title.partition(' (')[0].replace(' ', '-')}-{student.size}{ending}"


def load_or_train(student: Student, work: Path, epochs: int) -> LogitsOnly:
    """Load the student's weights from the work folder, or train it and store the weights there."""
    weights = work_file(student, work, f".{epochs}.safetensors")
    model = LogitsOnly(build_tsm(student.spec, classes=len(MOTION_CLASSES), **student.shape, seed=0)).eval()
    if student.trained and not weights.is_file():
        data = render_motions(960, 0, difficulty=DIFFICULTY, **student.shape)
        state = train_network(student.spec, *data, epochs=epochs).state_dict()
        work.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, weights)
        print(f"trained {student.title}", flush=True)
    if student.trained:
        model.load_state_dict(load_file(weights))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # torch's stub


def export_and_compare(student: Student, model: LogitsOnly, folder: Path) -> tuple[dict[str, Path], Json]:
    """Export the student at each precision, compare it on held-out clips, and time both; nothing is reused."""
    calibration, _ = render_motions(CALIBRATE if student.trained else 16, 10**5, difficulty=DIFFICULTY, **student.shape)
    held_out, labels = render_motions(COMPARE if student.trained else 32, 10**6, difficulty=DIFFICULTY, **student.shape)
    pixels = make_preprocess(student.size)
    began = time.monotonic()
    reference = compute_torch_logits(
        model, (normalise(held_out[i : i + 32], pixels) for i in range(0, len(held_out), 32))
    )
    paths = make_artefacts(
        model,
        PRECISIONS,
        folder,
        clip_shape=(student.frames, student.size, student.size),
        classes=list(MOTION_CLASSES),
        quantization=QuantizationConfig(lambda: [normalise(calibration, pixels)], key="rendered"),
    )
    rows = {}
    for precision, path in paths.items():
        session = find_runtime("ort").load(path, threads=1)
        logits = compute_logits(session, (held_out[i : i + 32] for i in range(0, len(held_out), 32)), pixels)
        session.close()
        found = compute_parity(reference, logits, labels)
        same = {key: found[key] for key in ("n", "agreement", "relative", "accuracy_drop")}
        same |= {"verdict": find_violated_bound(found, precision)}
        rows[precision] = (same if student.trained else {}) | {"bytes": path.stat().st_size}
    seconds = time.monotonic() - began
    return paths, {"seconds": seconds, "within_goal": seconds <= GOAL_SECONDS, "files": rows}


def targets(paths: dict[str, Path], tflite: Path) -> list[LatencyTarget]:
    """One target for each file and CPU runtime. PyTorch runs FP32 only, and LiteRT only its own file."""
    lite = tflite.is_file() and registered_runtimes()["litert"].why_unavailable() is None
    return [LatencyTarget("litert fp32", tflite, "litert")] * lite + [
        LatencyTarget(f"{name} {precision}", path, name)
        for name, one in registered_runtimes().items()
        if one.why_unavailable() is None and not name.startswith(("tensorrt", "litert"))
        for precision, path in paths.items()
        if precision == "fp32" or not name.startswith("torch")
    ]


def compare_with_eager(found: dict[str, LatencyResult]) -> Json:
    """For every row milliseconds and how many times as fast as eager it is; for the student, whether goals are met."""

    def times(slow: str, fast: str) -> Interval:
        ratio = ratio_of_medians(found[slow].samples_ms, found[fast].samples_ms)
        assert ratio is not None
        return ratio

    eager, rows = f"{EAGER} fp32", {}
    for name, latency in found.items():
        ratio = times(eager, name)
        rows[name] = {
            "p50_ms": latency.p50.value if latency.p50 else None,
            "times_eager": _ratio_json(ratio),
            "load_ms": latency.load_ms,
            "steady": latency.steady,
        }
    exported_rows = [name for name in rows if not name.startswith("torch")]
    best = min(exported_rows, key=lambda name: rows[name]["p50_ms"])
    gains = {
        name.partition(" ")[0]: _ratio_json(times(f"{name.partition(' ')[0]} fp32", name))
        for name in exported_rows
        if name.endswith("int8")
    }
    both = [name for name in exported_rows if name.partition(" ")[0] in gains]  # LiteRT has an FP32 file only
    fastest_runtime = min(both, key=lambda name: rows[name]["p50_ms"]).partition(" ")[0] if both else ""
    return {
        "rows": rows,
        "best": best,
        "best_over_eager": rows[best]["times_eager"],
        "int8_over_fp32": gains,
        "met": {
            "eager": rows[best]["times_eager"]["value"] >= GOAL_EAGER,
            "int8": bool(both) and gains[fastest_runtime]["value"] >= GOAL_INT8,
        },
    }


def _ratio_json(ratio: Interval) -> Json:
    return {"value": ratio.value, "interval": [ratio.low, ratio.high]}


def operators(paths: dict[str, Path]) -> Json:
    """The executed operators: ONNX Runtime's with their share of the time, OpenVINO's by precision."""
    found: Json = {p: {"ort": group_by_operator(read_metadata(path)["fates"])} for p, path in paths.items()}
    if registered_runtimes()["openvino"].why_unavailable() is None:
        for precision, path in paths.items():
            session = find_runtime("openvino").load(path, threads=1)
            found[precision]["openvino"] = session.runtime_info()["operators"]
            session.close()
    return found


def measure(options: argparse.Namespace) -> Json:
    """For every student, time export and parity, then measure latency for each number of threads."""
    rows = []
    for student in students():
        model = load_or_train(student, options.work, options.epochs)
        with tempfile.TemporaryDirectory() as folder:
            paths, exported = export_and_compare(student, model, Path(folder))
            print(f"{student.title}: export and parity {exported['seconds']:.1f} s", flush=True)
            latency = {}
            for threads in options.threads:
                wanted = targets(paths, work_file(student, options.work, ".tflite"))
                found = measure_latency(
                    wanted,
                    MeasurementSettings(threads, options.processes, options.queries),
                    memory=False,
                    run_job=run_in_torch_process,
                )
                latency[str(threads)] = compare_with_eager(found)
                print_latency(threads, latency[str(threads)])
            rows.append(
                {"student": student.title, "export": exported, "latency": latency, "operators": operators(paths)}
            )
    device_info = read_device_info()
    versions = {name: one.version() for name, one in registered_runtimes().items() if one.why_unavailable() is None}
    return {
        "device": device_info,
        "device_id": device_id(device_info),
        "after": read_device_state(),
        "versions": versions,
        "processes": options.processes,
        "queries": options.queries,
        "rows": rows,
    }


def prepare(options: argparse.Namespace) -> None:
    """Train the students, fill torch.compile's cache, and write .tflite files if the converter is installed."""
    for student in students():
        model, tflite = (
            load_or_train(student, options.work, options.epochs),
            work_file(student, options.work, ".tflite"),
        )
        if explain_missing_converter() is None and not tflite.is_file():
            options.work.mkdir(parents=True, exist_ok=True)
            export_litert(model, tflite, clip_shape=(student.frames, student.size, student.size))
        with tempfile.TemporaryDirectory() as folder:
            clip_shape = (student.frames, student.size, student.size)
            file = make_artefacts(model, ("fp32",), folder, clip_shape=clip_shape, classes=list(MOTION_CLASSES))["fp32"]
            for threads in [] if options.no_compile else options.threads:
                measure_latency(
                    [LatencyTarget("c", file, COMPILED)],
                    MeasurementSettings(threads, processes=1, queries=1),
                    memory=False,
                    run_job=run_in_torch_process,
                )
        print(f"prepared {student.title}", flush=True)


def print_latency(threads: int, found: Json) -> None:
    for name, row in found["rows"].items():
        print(f"  {threads} thread(s), {name}: {row['p50_ms']:.3f} ms, {_format_ratio(row['times_eager'])} x eager")
    gains = {name: _format_ratio(ratio) for name, ratio in found["int8_over_fp32"].items()}
    print(f"  best {found['best']}; INT8 over FP32: {gains}", flush=True)


def _format_ratio(ratio: Json) -> str:
    return "{:.2f} [{:.2f}, {:.2f}]".format(ratio["value"], *ratio["interval"])


def main() -> None:
    """Prepare if requested; otherwise measure and write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", action="store_true", help="only train, convert and compile")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs/speed", help="folder where trained students are stored"
    )
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--queries", type=int, default=160)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--no-compile", action="store_true", help="do not fill torch.compile's cache (--prepare)")
    parser.add_argument("--no-write", action="store_true", help="only print the results")
    options = parser.parse_args()
    register_torch_runtimes()
    if options.prepare:
        return prepare(options)
    result = measure(options)
    if not options.no_write:
        from bench.suites.latency.runtimes_page import page

        write_json(RESULTS, result)
        write_atomic(PAGE, page(result))
    return None


if __name__ == "__main__":
    main()
