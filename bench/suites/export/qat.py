"""Measures what INT8 costs a student, and how much layers in FP32 or quantisation-aware training (QAT) recover.

    python -m bench.suites.export.qat --seeds 0 1

Students are distilled from a teacher on the quickstart's clips (clean labels, fewer clips and epochs). Each gives four
INT8 files: all layers quantised; the most sensitive layers in FP32 until 98 % of the validation clips keep their class
(a run also accepts a loss of at most one point of accuracy; here only agreement counts, so that every student shows the
effect); the student after QAT, all layers quantised; and, as a control, the student after the same number of further
epochs without QAT. Accuracies are those of the files on ONNX Runtime, on the test clips, paired with the FP32 file of
the original student. Resumable: rows in bench/results/qat.json are reused. Writes this file and docs/qat.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings, measure_latency
from skd_bench.device.info import read_device_info, read_device_state
from skd_bench.files import write_atomic, write_json
from skd_bench.metrics.accuracy import compute_logits
from skd_bench.runtimes import find_runtime, registered_runtimes
from skd_bench.stats import paired_difference
from skd_bench.video.clip import normalise
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.store.clip_store import ClipSplit
from skd_edge.evaluation.qat import make_qat_job
from skd_edge.execution.job_graph import JobFactory, TrainingJob, fingerprint_of, topological_order
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.execution.threads import configure_threads
from skd_edge.labels.dataset import TrainingData, load_training_data
from skd_edge.models.builder import AnyNetwork
from skd_edge.models.substages import LogitsOnly
from skd_edge.recipe.loader import load_recipe, resolved_yaml
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.run_folder import Run, open_cache
from skd_export.analysis.parity import compute_parity, compute_torch_logits
from skd_export.exporter import QuantizationConfig, make_artefacts, read_metadata
from skd_export.quantization.quantize import needs_reduced_range

ROOT = Path(__file__).resolve().parents[3]
RESULTS, PAGE = ROOT / "bench/results/qat.json", ROOT / "docs/qat.md"
SETS = (
    "data.train=1000",
    "labels.noise.kind=none",
    "labels.optimise=false",
    "teacher.width=8",
    "training.teacher_epochs=8",
    "training.epochs=12",
)
STUDENTS = {"mobile, conv": {}, "mobile, shift": {"temporal": "shift"}}
QAT_EPOCHS, CALIBRATE, AGREEMENT = 3, 128, 0.98
WAYS = ("FP32", "INT8", "INT8, costly layers in FP32", "INT8 after QAT", "INT8 after as many plain epochs")
Json = dict[str, Any]
HEAD = """# What INT8 costs, and what brings it back

Regenerate: `python -m bench.suites.export.qat --seeds {seeds}` (resumable)

Students distilled from one teacher on the generated clips of the quickstart (clean labels; {settings}), on {device}.
The tables give the accuracy of each file on {clips} test clips, on ONNX Runtime, and its difference from the FP32 file
in points: the mean over seeds, then each seed with its paired 95 % interval. Agreement is the share of clips for which
the file predicts the same class as the FP32 student; further training changes predictions too, with or without
rounding. QAT trains for {epochs} more epochs at a tenth of the learning rate, with the same teacher and losses, and
with the rounding of the INT8 file (`export.qat_epochs`). The control trains for as many epochs without rounding. The
layers that stay in FP32 are chosen on the validation clips by agreement only (98 %), so that every student shows their
effect; a run stops earlier, once the loss of accuracy is at most one point. Milliseconds are p50 with batch 1 and one
thread; all files of a student alternate. The machine was shared with other work (load {load}): compare them as ratios
only."""


def load_study_recipe(seed: int, network: Json) -> Recipe:
    recipe = load_recipe("quickstart", [f"seed={seed}", *SETS])
    student = NetworkSpec.model_validate(recipe.students[0].model_dump() | network)
    return recipe.model_copy(update={"students": (student,), "assistants": ()})


class StudentScorer:
    """Exports a student and computes logits of its files, on the clips of a recipe."""

    def __init__(self, recipe: Recipe, training_data: TrainingData, folder: Path) -> None:
        self.recipe, self.clips, self.folder = recipe, training_data.clips, folder
        self.preprocess = inference_preprocessing(recipe.clip)[1]

    def compute_logits(self, path: Path, clips: ClipSplit) -> NDArray[np.float32]:
        """Logits of a file on ONNX Runtime."""
        session = find_runtime("ort").load(path, threads=1)
        try:
            return compute_logits(session, _iter_batches(clips), self.preprocess)
        finally:
            session.close()

    def export_file(self, network: AnyNetwork, name: str, precision: str, *, exclude: bool = False) -> Path:
        """Export the network; with ``exclude``, layers stay in FP32 until it agrees on the validation clips."""
        rows = np.sort(np.random.default_rng(self.recipe.seed).permutation(len(self.clips.train))[:CALIBRATE])
        reference = compute_torch_logits(LogitsOnly(network).eval(), self._batches(self.clips.val)) if exclude else None

        def find_violation(path: Path, _: str) -> str | None:
            if reference is None:
                return None
            agreed = compute_parity(reference, self.compute_logits(path, self.clips.val))["agreement"]
            return None if agreed >= AGREEMENT else f"{agreed:.1%} of the validation clips keep their class"

        clip = self.recipe.clip
        return make_artefacts(
            LogitsOnly(network).eval(),
            (precision,),
            self.folder / name,
            clip_shape=(clip.frames, clip.size, clip.size),
            classes=list(self.clips.classes),
            quantization=QuantizationConfig(
                lambda: [normalise(self.clips.train.clips[rows], self.preprocess)], find_violation=find_violation
            ),
        )[precision]

    def _batches(self, clips: ClipSplit) -> Any:
        return (normalise(piece, self.preprocess) for piece in _iter_batches(clips))


def measure(seed: int, name: str, runs: Path) -> Json:
    """Train a student and both continuations, export the five files, and measure accuracy and latency."""
    recipe = load_study_recipe(seed, STUDENTS[name])
    training_data = load_training_data(recipe, open_cache())
    with (
        Run(runs / f"{name.replace(', ', '-')}-{seed}", resolved_yaml(recipe)) as run,
        tempfile.TemporaryDirectory() as folder,
    ):
        executor = LocalExecutor(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1])
        job = JobFactory(recipe, fingerprint_of(training_data)).make_cascade_job(recipe.students[0], ())
        qat_job = make_qat_job(job, QAT_EPOCHS, 7 if needs_reduced_range() else 8)
        plain_job: TrainingJob = replace(qat_job, spec=replace(qat_job.spec, rounded=None))
        for one in topological_order([job, qat_job, plain_job]):
            executor.train_job(one)
        scorer = StudentScorer(recipe, training_data, Path(folder))
        student, rounded, longer_on = (executor.load_network(n) for n in (job, qat_job, plain_job))
        paths = {
            WAYS[0]: scorer.export_file(student, "student", "fp32"),
            WAYS[1]: scorer.export_file(student, "plain", "int8"),
            WAYS[2]: scorer.export_file(student, "excluded", "int8", exclude=True),
            WAYS[3]: scorer.export_file(rounded, "rounded", "int8"),
            WAYS[4]: scorer.export_file(longer_on, "longer", "int8"),
        }
        return {
            "seed": seed,
            "student": name,
            "clips": len(training_data.clips.test),
            "rows": _measure_rows(scorer, paths),
        }


def _measure_rows(scorer: StudentScorer, paths: dict[str, Path]) -> Json:
    test = scorer.clips.test.unseal()
    logits = {way: scorer.compute_logits(path, test) for way, path in paths.items()}
    right = {way: file_logits.argmax(1) == test.labels for way, file_logits in logits.items()}
    available = [r for r in ("ort", "openvino") if registered_runtimes()[r].why_unavailable() is None]
    targets = [LatencyTarget(f"{way} @ {r}", path, r) for way, path in paths.items() for r in available]
    found = measure_latency(targets, MeasurementSettings(processes=3, queries=80), memory=False)
    rows = {}
    for way, path in paths.items():
        lost = paired_difference(right[way], right["FP32"], test.groups.tolist())
        times = {r: one.value for r in available if (one := found[f"{way} @ {r}"].p50)}
        metadata = read_metadata(path)
        rows[way] = {
            "accuracy": float(right[way].mean()),
            "difference": [lost.value, lost.low, lost.high],
            "agreement": float((logits[way].argmax(1) == logits["FP32"].argmax(1)).mean()),
            "p50_ms": times,
            "bytes": path.stat().st_size,
            "excluded": metadata.get("excluded", []),
            "tried": len(metadata.get("tried", [])),
        }
    return rows


def _iter_batches(clips: ClipSplit) -> Any:
    return (np.asarray(clips.clips[i : i + 32]) for i in range(0, len(clips), 32))


def page(result: Json) -> str:
    """Format the page; every number comes from the results."""
    rows = result["rows"]
    seeds = " ".join(map(str, sorted({r["seed"] for r in rows})))
    head_text = HEAD.format(
        seeds=seeds,
        settings=", ".join(result["sets"]),
        device=result["device"]["cpu"],
        clips=rows[0]["clips"],
        epochs=QAT_EPOCHS,
        load=result["load"],
    )
    first, regenerate, text = head_text.split("\n\n")
    parts = [first, regenerate, _wrapped(text)]
    parts += [_table(name, [r["rows"] for r in rows if r["student"] == name]) for name in STUDENTS]
    return "\n\n".join(parts) + "\n"


def _table(name: str, each: list[Json]) -> str:
    runtime_names = list(each[0]["FP32"]["p50_ms"])
    lines = [
        f"## {name}",
        "",
        f"| file | accuracy | points relative to FP32, mean (each seed) | agreement | layers in FP32 | kB | "
        f"{' | '.join(f'ms, {r}' for r in runtime_names)} |",
        "|---|---:|---|---:|---:|---:" + "|---:" * len(runtime_names) + "|",
    ]
    for way in WAYS:
        found = [rows[way] for rows in each]
        differences = [100 * np.array(f["difference"]) for f in found]
        seeds = ", ".join("{:+.1f} [{:+.1f}, {:+.1f}]".format(*d) for d in differences)
        gap = "" if way == "FP32" else f"{np.mean([d[0] for d in differences]):+.1f} ({seeds})"
        left = "" if way == "FP32" else ", ".join(_format_excluded_layers(f) for f in found)
        times = " | ".join(f"{np.mean([f['p50_ms'][r] for f in found]):.3f}" for r in runtime_names)
        accuracy, agreed, size = (np.mean([f[k] for f in found]) for k in ("accuracy", "agreement", "bytes"))
        lines.append(f"| {way} | {accuracy:.1%} | {gap} | {agreed:.1%} | {left} | {size / 1000:.0f} | {times} |")
    gains = [100 * (rows[WAYS[3]]["accuracy"] - rows[WAYS[4]]["accuracy"]) for rows in each]
    lines += [
        "",
        f"QAT compared with as many plain epochs, in points, for each seed: {', '.join(f'{g:+.1f}' for g in gains)}.",
    ]
    return "\n".join(lines)


def _format_excluded_layers(found: Json) -> str:
    """How many layers stay in FP32. If half of the layers were not enough, all are quantised again."""
    return "0 (half were not enough)" if found["tried"] and not found["excluded"] else str(len(found["excluded"]))


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(" ".join(paragraph.split()), 120, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    """Measure missing rows, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/qat")
    parser.add_argument("--page", action="store_true", help="only write the page, from existing results")
    options = parser.parse_args()
    configure_threads(options.threads)
    previous = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    rows = previous["rows"] if previous.get("sets") == list(SETS) else []
    for seed in [] if options.page else options.seeds:
        for name in STUDENTS:
            if any((r["seed"], r["student"]) == (seed, name) for r in rows):
                continue
            rows.append(measure(seed, name, options.runs))
            load = read_device_state()["load"][0]
            write_json(RESULTS, {"device": read_device_info(), "sets": list(SETS), "load": load, "rows": rows})
            summary = {way: (r["accuracy"], r["agreement"]) for way, r in rows[-1]["rows"].items()}
            print(f"seed {seed}, {name}: {summary}", flush=True)
    write_atomic(PAGE, page(json.loads(RESULTS.read_text("utf-8"))))


if __name__ == "__main__":
    main()
