"""Writes docs/export.md: every network family at every precision on every runtime of this machine.

    python -m bench.suites.export.export_matrix

Each network is trained on easy rendered clips, because parity of random weights, or of a network at chance, proves
nothing. It is exported as in a run: its most sensitive layers stay in FP32 if INT8 is outside its bounds. The files are
then compared with the network on held-out clips, which were used neither for training nor calibration nor for that
decision. TensorRT-RTX builds an engine, which is not run. Writes bench/results/export_matrix.json and docs/export.md;
bench/results/other_runtimes.json is written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import textwrap
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.suites.fixtures import make_preprocess, render_tints, train_network
from skd_bench.device.info import read_device_info
from skd_bench.errors import UserError
from skd_bench.files import write_atomic, write_json
from skd_bench.metrics.accuracy import compute_logits
from skd_bench.runtimes import registered_runtimes
from skd_bench.runtimes.tensorrt.builder import build_engine
from skd_bench.video.clip import normalise
from skd_edge.models.substages import LogitsOnly
from skd_edge.recipe.schema import NetworkSpec
from skd_export.analysis.parity import compute_parity, compute_torch_logits, find_violated_bound
from skd_export.exporter import PRECISIONS, QUANTIZED, QuantizationConfig, make_artefacts, read_metadata

ROOT = Path(__file__).resolve().parents[3]
RESULTS, OTHERS = ROOT / "bench/results/export_matrix.json", ROOT / "bench/results/other_runtimes.json"
PAGE = ROOT / "docs/export.md"
FAMILIES, OPERATORS = ("mobile", "resnet"), ("none", "shift", "conv")
FRAMES, SIZE, WIDTH, SM = 8, 24, 8, 89
TRAIN, CALIBRATE, VALIDATE, COMPARE, BATCH = 640, 128, 256, 512, 32
CLASSES = tuple(f"class {i}" for i in range(10))
EPOCHS = 10
PREPROCESS = make_preprocess(SIZE)
RTX = "tensorrt-rtx"
Json = dict[str, Any]
Pixels = NDArray[np.uint8]
HEAD = """# Every network, every precision, every runtime

Regenerate: `python -m bench.suites.export.export_matrix`
({minutes:.0f} minutes on a busy machine; existing rows are reused)

Small networks ({shape}, width {width}, four substages with one block each) were trained for {epochs} epochs on {train}
easy rendered clips, on {device}. Each exported file was compared with its network in PyTorch on {compare} held-out
clips, which were used neither for training, nor for calibration ({calibrate} clips), nor for choosing the layers that
stay in FP32 ({judge} clips). The classes are five hues that become stronger or weaker. Networks without a temporal
operator cannot detect the order of frames, so their classes are ten hues. Each cell gives the share of clips with the
same top class, and the largest difference of a logit divided by the largest logit. Bounds: FP32 100 % and 1e-4, FP16
99.5 %, BF16 99 %, INT8 and FP8 98 % or a loss of at most 1.0 point of accuracy. A run does not put a file outside its
bounds into a bundle. As in a run, the layers that are most sensitive to INT8 stay in FP32 (FP8: in FP16) until the file
is within its bounds (docs/precision.md); the table gives their number.

**INT8**: {inside} of {int8} comparisons are within the bounds, {below} of {int8} are below 98 % agreement. These are
easy clips and confident networks. Each run measures the cost of INT8 for its own student on your clips; docs/qat.md has
it for the quickstart."""
NOTES = """**FP16 on a CPU** is converted to FP32: the column shows the rounding error, but nothing about the speed.
**TensorRT-RTX** parsed and built each file for SM{sm} on a machine without a GPU. The engines were built, but not run:
their logits are unknown."""


def render_clips(count: int, first: int, temporal: str) -> tuple[Pixels, NDArray[np.int64]]:
    """Clips ``(N, T, H, W, 3)`` that a network with this temporal operator can learn, and their classes."""
    return render_tints(count, first, frames=FRAMES, size=SIZE, fading=temporal != "none")


def export_files(network: LogitsOnly, folder: Path, temporal: str) -> dict[str, Path]:
    """Export the network at each precision, as a run does."""
    calibration, _ = render_clips(CALIBRATE, 10**5, temporal)
    validation, labels = render_clips(VALIDATE, 2 * 10**5, temporal)
    reference = compute_torch_logits(
        network, (normalise(validation[i : i + BATCH], PREPROCESS) for i in range(0, VALIDATE, BATCH))
    )

    def find_violation(path: Path, precision: str) -> str | None:
        session = registered_runtimes()["ort"].load(path, threads=1)
        logits = compute_logits(session, (validation[i : i + BATCH] for i in range(0, VALIDATE, BATCH)), PREPROCESS)
        return find_violated_bound(compute_parity(reference, logits, labels), precision)

    quantising = QuantizationConfig(
        lambda: [normalise(calibration, PREPROCESS)], key="rendered", find_violation=find_violation
    )
    shape = (FRAMES, SIZE, SIZE)
    return make_artefacts(network, PRECISIONS, folder, clip_shape=shape, classes=list(CLASSES), quantization=quantising)


def measure_file(
    precision: str, path: Path, held_out: Pixels, reference: NDArray[np.float32], labels: NDArray[np.int64]
) -> Json:
    """Compare one file with its network on every runtime."""
    cells: Json = {}
    for name, one in registered_runtimes().items():
        if name.startswith("torch"):
            continue  # PyTorch is the reference
        if name == RTX:
            cells[name] = try_building_engine(path)
        elif one.why_unavailable() is None and not name.startswith(("tensorrt", "litert")):  # not from ONNX files
            cells[name] = compare_on_runtime(
                lambda one=one: one.load(path, threads=1), precision, held_out, reference, labels
            )
    left = {"excluded": len(read_metadata(path)["excluded"])} if precision in QUANTIZED else {}
    return {"precision": precision, "bytes": path.stat().st_size, **left, "runtimes": cells}


def compare_on_runtime(
    load: Callable[[], Any], precision: str, held_out: Pixels, reference: NDArray[np.float32], labels: NDArray[np.int64]
) -> Json:
    """Parity on one runtime, or the reason why it cannot run the file."""
    try:
        session = load()
    except UserError as error:
        return {"reason": strip_folders(error)}
    try:
        batches = (held_out[i : i + BATCH] for i in range(0, len(held_out), BATCH))
        found = compute_parity(reference, compute_logits(session, batches, PREPROCESS), labels)
    except UserError as error:
        return {"reason": strip_folders(error)}
    finally:
        session.close()
    return {k: v for k, v in found.items() if k != "flips"} | {"verdict": find_violated_bound(found, precision)}


def try_building_engine(path: Path) -> Json:
    """Build an engine without running it; returns its size, or the reason why it cannot be built."""
    try:
        note = build_engine(path, path.with_suffix(".engine"), runtime=RTX, sms=[SM])
    except UserError as error:
        return {"reason": strip_folders(error)}
    return {"bytes": note.bytes, "state": note.state, "seconds": note.build_seconds}


def strip_folders(error: UserError) -> str:
    """The message of an error without the folders of this machine."""
    return re.sub(r"\S*/", "", str(error))


def page(result: Json, others: Json) -> str:
    """Format the page; every number comes from the results."""
    device = f"{result['device']['cpu']}, {result['device']['cores_usable']} cores"
    int8 = [c for r in result["rows"] if r["precision"].startswith("int8") for c in r["runtimes"].values()]
    agreed = [c["agreement"] for c in int8 if "agreement" in c]
    inside = sum("agreement" in c and c["verdict"] is None for c in int8)
    below = {"below": sum(a < 0.98 for a in agreed), "int8": len(agreed), "inside": inside}
    head_text = HEAD.format(device=device, **below, minutes=max(result["seconds"] / 60, 1), **result["settings"])
    first, regenerate, *text = head_text.split("\n\n")
    names = [n for n in registered_runtimes() if any(n in r["runtimes"] for r in result["rows"])]
    heads = [f"{n} (SM{SM}, built, not run)" if n == RTX else n for n in names]
    lines = [
        f"| network | top-1 in PyTorch | precision | layers left in FP32 | kB | {' | '.join(heads)} |",
        "|---|---:|---|---:|---:" + "|---" * len(names) + "|",
    ]
    reasons: dict[str, int] = {}
    for one in result["rows"]:
        cells = [_cell(one["runtimes"].get(name), reasons) for name in names]
        lines.append(
            f"| {one['network']} | {one['accuracy']:.1%} | {one['precision']} | {one.get('excluded', '')} | "
            f"{one['bytes'] / 1000:.0f} | "
            f"{' | '.join(cells)} |"
        )
    notes = [f"({number}) {reason}" for reason, number in reasons.items()]
    absent = [f"- `{name}`: {reason}" for name, reason in result["absent"].items()]
    tried = [
        "| runtime | converts | runs | same class | difference | ms per clip | used | reason |",
        "|---|---|---|---|---|---|---|---|",
    ]
    keys = ("runtime", "converts", "runs", "agreement", "relative", "ms", "kept", "why")
    tried += [f"| {' | '.join(str(each[key]) for key in keys)} |" for each in others["rows"]]
    parts = [
        first,
        regenerate,
        *map(wrapped, text),
        "\n".join(lines),
        *map(wrapped, notes),
        wrapped(NOTES.format(sm=SM)),
        "## Runtimes that could not run here",
        "\n".join(absent),
        "## Other runtimes tried",
        wrapped(others["how"]),
        "\n".join(tried),
    ]
    return "\n\n".join(parts) + "\n"


def _cell(found: Json | None, reasons: dict[str, int]) -> str:
    if found is None:
        return ""
    if "reason" in found:
        kind = re.sub(r"'[^']*'|of \S+\.onnx( \(the first of \d+ problems\))?", "…", found["reason"])
        return f"none ({reasons.setdefault(kind, len(reasons) + 1)})"
    if "agreement" not in found:
        return f"{found['bytes'] / 1000:.0f} kB"
    outside = "" if found["verdict"] is None else ", **outside**"
    drop = f", {found['accuracy_drop']:+.1f} points lost" if found["agreement"] < 1 else ""
    return f"{found['agreement']:.1%}, {found['relative']:.0e}{drop}{outside}"


def wrapped(paragraph: str) -> str:
    """Lines of at most 120 characters."""
    return textwrap.fill(" ".join(paragraph.split()), 120, break_long_words=False, break_on_hyphens=False)


def measure() -> None:
    """Train, export, compare and build; rows with the same settings and runtimes are reused."""
    available = sorted(name for name, one in registered_runtimes().items() if one.why_unavailable() is None)
    settings = {
        "shape": f"{FRAMES}x{SIZE}x{SIZE}",
        "width": WIDTH,
        "train": TRAIN,
        "classes": "fading hues",
        "epochs": EPOCHS,
        "calibrate": CALIBRATE,
        "judge": VALIDATE,
        "compare": COMPARE,
        "here": available,
        "precisions": list(PRECISIONS),
    }
    previous = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    rows, seconds = (previous["rows"], previous["seconds"]) if previous.get("settings") == settings else ([], 0.0)
    absent = {name: reason for name, one in registered_runtimes().items() if (reason := one.why_unavailable())}
    for family, temporal in product(FAMILIES, OPERATORS):
        name, began = f"{family}, {temporal}", time.monotonic()
        if any(one["network"] == name for one in rows):
            continue
        spec = NetworkSpec.model_validate({"name": "n", "family": family, "temporal": temporal, "width": WIDTH})
        network = train_network(spec, *render_clips(TRAIN, 0, temporal), epochs=EPOCHS)
        held_out, labels = render_clips(COMPARE, 10**6, temporal)
        inputs = (normalise(held_out[i : i + BATCH], PREPROCESS) for i in range(0, COMPARE, BATCH))
        reference = compute_torch_logits(network, inputs)
        head = {"network": name, "accuracy": float((reference.argmax(1) == labels).mean())}
        with tempfile.TemporaryDirectory() as folder:
            exported = export_files(network, Path(folder), temporal)
            rows += [
                head | measure_file(precision, path, held_out, reference, labels)
                for precision, path in exported.items()
            ]
        seconds += time.monotonic() - began
        write_json(
            RESULTS,
            {"device": read_device_info(), "settings": settings, "seconds": seconds, "absent": absent, "rows": rows},
        )
        print(f"{name}: {head['accuracy']:.1%} in {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only write the page, from existing results")
    options = parser.parse_args()
    if not options.page:
        measure()
    result, others = (json.loads(path.read_text("utf-8")) for path in (RESULTS, OTHERS))
    write_atomic(PAGE, page(result, others))


if __name__ == "__main__":
    main()
