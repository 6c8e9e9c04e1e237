"""The tables of docs/export.md: every network of the zoo, at every precision, on every runtime of this machine.

    python bench/suites/export_matrix.py

Each network is trained briefly on rendered clips (on random weights parity proves nothing), exported, and compared with
itself on clips that neither training nor calibration saw. TensorRT-RTX builds an engine, which no GPU runs here. Writes
bench/results/export_matrix.json and docs/export.md; bench/results/other_runtimes.json is written by hand.
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
import torch
from numpy.typing import NDArray

from skd_bench.accuracy import logits_of
from skd_bench.clips import Preprocess, normalise
from skd_bench.device import device_card
from skd_bench.errors import UserError
from skd_bench.files import write_atomic, write_json
from skd_bench.runtimes import runtimes
from skd_bench.runtimes.tensorrt_build import build_engine
from skd_edge.data.generate import CLASSES, render
from skd_edge.models.substages import Deployed
from skd_edge.models.tsm import build
from skd_edge.recipe import Network
from skd_export.artefacts import PRECISIONS, Quantising, make_artefacts
from skd_export.parity import parity, torch_logits, verdict

ROOT = Path(__file__).resolve().parents[2]
RESULTS, OTHERS = ROOT / "bench/results/export_matrix.json", ROOT / "bench/results/other_runtimes.json"
PAGE = ROOT / "docs/export.md"
FAMILIES, OPERATORS = ("mobile", "resnet"), ("none", "shift", "conv")
FRAMES, SIZE, WIDTH, SM = 8, 24, 8, 86
TRAIN, CALIBRATE, COMPARE, BATCH = 480, 128, 256, 32
PREPROCESS = Preprocess(SIZE, SIZE, "crop", (0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
RTX = "tensorrt-rtx"
Json = dict[str, Any]
Pixels = NDArray[np.uint8]
HEAD = """# Every network, every precision, every runtime

Regenerate: `python bench/suites/export_matrix.py` ({minutes:.0f} minutes on a busy machine; what is there is kept)

Small networks of the zoo ({shape}, width {width}, four substages of one block), trained for {epochs} epochs on {train}
rendered clips and compared with themselves in PyTorch on {compare} clips that neither training nor calibration saw, on
{device}. A cell reads: how often the same class, and the largest difference of a logit over the largest logit. Bounds:
FP32 100 % and 1e-4, FP16 99.5 %, INT8 98 % or at most 1.0 point of accuracy; what is outside is not put in a bundle.
Without a temporal operator a network does not see the order of frames, and is at chance on motions. Costly layers are
not kept in FP32 here and nothing is fine-tuned: the INT8 rows are plain quantisation.

**INT8**: {below} of {int8} comparisons stay below 98 % agreement. One not marked outside passes because
accuracy falls by at most a point, which says little of networks whose accuracy is this low. These rows show that the
files convert and run, and not what INT8 costs a finished student: each run measures that on its own."""
NOTES = """**FP16 on a CPU** is widened to FP32: the column shows what rounding costs, and nothing of its speed.
**TensorRT-RTX** parsed and built each file for SM{sm} on a machine without a GPU: built, not run; nothing is known of
those engines' answers."""


def clips(count: int, first: int, difficulty: float = 0.12) -> tuple[Pixels, NDArray[np.int64]]:
    """Rendered clips ``(N, T, H, W, 3)`` of all classes in turn, and their classes."""
    labels = np.arange(count) % len(CLASSES)
    made = [
        render(CLASSES[c], frames=FRAMES, size=SIZE, difficulty=difficulty, seed=first + i)
        for i, c in enumerate(labels)
    ]
    return np.stack(made), labels


def trained(family: str, temporal: str, data: Pixels, labels: NDArray[np.int64], epochs: int) -> Deployed:
    """A network that answers by what it sees."""
    spec = Network.model_validate({"name": "n", "family": family, "temporal": temporal, "width": WIDTH})
    network = Deployed(build(spec, classes=len(CLASSES), frames=FRAMES, size=SIZE, seed=0)).train()
    x, y = torch.from_numpy(normalise(data, PREPROCESS)), torch.from_numpy(labels)
    steps = epochs * (len(x) // BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.02)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    order = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=order).split(BATCH)[: len(x) // BATCH]:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            cosine.step()
    return network.eval()


def files(network: Deployed, folder: Path, calibration: Pixels) -> dict[str, Path]:
    """The network at each precision."""
    quantising = Quantising(lambda: [normalise(calibration, PREPROCESS)], key="rendered")
    shape = (FRAMES, SIZE, SIZE)
    return make_artefacts(network, PRECISIONS, folder, clip_shape=shape, classes=list(CLASSES), quantising=quantising)


def row(precision: str, path: Path, held: Pixels, reference: NDArray[np.float32], labels: NDArray[np.int64]) -> Json:
    """One file on every runtime."""
    cells: Json = {}
    for name, one in runtimes().items():
        if name.startswith("torch"):
            continue  # what is compared with
        if name == RTX:
            cells[name] = engine(path)
        elif one.missing() is None and not name.startswith("tensorrt"):
            cells[name] = compared(lambda one=one: one.load(path, threads=1), precision, held, reference, labels)
    return {"precision": precision, "bytes": path.stat().st_size, "runtimes": cells}


def compared(
    load: Callable[[], Any], precision: str, held: Pixels, reference: NDArray[np.float32], labels: NDArray[np.int64]
) -> Json:
    """Parity on one runtime, or why it cannot run the file."""
    try:
        session = load()
    except UserError as error:
        return {"reason": plain(error)}
    try:
        batches = (held[i : i + BATCH] for i in range(0, len(held), BATCH))
        found = parity(reference, logits_of(session, batches, PREPROCESS), labels)
    except UserError as error:
        return {"reason": plain(error)}
    finally:
        session.close()
    return {k: v for k, v in found.items() if k != "flips"} | {"verdict": verdict(found, precision)}


def engine(path: Path) -> Json:
    """An engine of it, built and not run, or why there is none."""
    try:
        note = build_engine(path, path.with_suffix(".engine"), runtime=RTX, sms=[SM])
    except UserError as error:
        return {"reason": plain(error)}
    return {"bytes": note.bytes, "state": note.state, "seconds": note.build_seconds}


def plain(error: UserError) -> str:
    """A reason without the folders of this machine."""
    return re.sub(r"\S*/", "", str(error))


def page(result: Json, others: Json) -> str:
    """The page, from the numbers alone."""
    device = f"{result['device']['cpu']}, {result['device']['cores_usable']} cores"
    int8 = [c for r in result["rows"] if r["precision"].startswith("int8") for c in r["runtimes"].values()]
    agreed = [c["agreement"] for c in int8 if "agreement" in c]
    below = {"below": sum(a < 0.98 for a in agreed), "int8": len(agreed)}
    said = HEAD.format(device=device, **below, minutes=max(result["seconds"] / 60, 1), **result["settings"])
    first, regenerate, *text = said.split("\n\n")
    names = [n for n in runtimes() if any(n in r["runtimes"] for r in result["rows"])]
    heads = [f"{n} (SM{SM}, built, not run)" if n == RTX else n for n in names]
    lines = [
        f"| network | top-1 in PyTorch | precision | kB | {' | '.join(heads)} |",
        "|---|---:|---|---:" + "|---" * len(names) + "|",
    ]
    reasons: dict[str, int] = {}
    for one in result["rows"]:
        cells = [_cell(one["runtimes"].get(name), reasons) for name in names]
        lines.append(
            f"| {one['network']} | {one['accuracy']:.1%} | {one['precision']} | {one['bytes'] / 1000:.0f} | "
            f"{' | '.join(cells)} |"
        )
    notes = [f"({number}) {reason}" for reason, number in reasons.items()]
    absent = [f"- `{name}`: {reason}" for name, reason in result["absent"].items()]
    tried = [
        "| runtime | converts | runs | same class | off by | ms a clip | kept | why |",
        "|---|---|---|---|---|---|---|---|",
    ]
    keys = ("runtime", "converts", "runs", "agreement", "relative", "ms", "kept", "why")
    tried += [f"| {' | '.join(str(each[key]) for key in keys)} |" for each in others["rows"]]
    parts = [
        first, regenerate, *map(wrapped, text), "\n".join(lines), *map(wrapped, notes),
        wrapped(NOTES.format(sm=SM)), "## Runtimes that could not run here", "\n".join(absent),
        "## Other runtimes tried", wrapped(others["how"]), "\n".join(tried),
    ]  # fmt: skip
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


def measure(epochs: int) -> None:
    """Train, export, compare, build; what is there already (the same settings and runtimes) is kept."""
    here = sorted(name for name, one in runtimes().items() if one.missing() is None)
    settings = {"shape": f"{FRAMES}x{SIZE}x{SIZE}", "width": WIDTH, "epochs": epochs, "train": TRAIN,
                "compare": COMPARE, "here": here}  # fmt: skip
    known = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    rows, seconds = (known["rows"], known["seconds"]) if known.get("settings") == settings else ([], 0.0)
    absent = {name: reason for name, one in runtimes().items() if (reason := one.missing())}
    (train, truth), (calibration, _), (held, labels) = clips(TRAIN, 0), clips(CALIBRATE, 10**5), clips(COMPARE, 10**6)
    for family, temporal in product(FAMILIES, OPERATORS):
        name, began = f"{family}, {temporal}", time.monotonic()
        if any(one["network"] == name for one in rows):
            continue
        network = trained(family, temporal, train, truth, epochs)
        inputs = (normalise(held[i : i + BATCH], PREPROCESS) for i in range(0, COMPARE, BATCH))
        reference = torch_logits(network, inputs)
        head = {"network": name, "accuracy": float((reference.argmax(1) == labels).mean())}
        with tempfile.TemporaryDirectory() as folder:
            made = files(network, Path(folder), calibration)
            rows += [head | row(precision, path, held, reference, labels) for precision, path in made.items()]
        seconds += time.monotonic() - began
        write_json(RESULTS, {"device": device_card(), "settings": settings, "seconds": seconds, "absent": absent,
                             "rows": rows})  # fmt: skip
        print(f"{name}: {head['accuracy']:.1%} in {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--page", action="store_true", help="write the page again from the numbers that are there")
    options = parser.parse_args()
    if not options.page:
        measure(options.epochs)
    result, others = (json.loads(path.read_text("utf-8")) for path in (RESULTS, OTHERS))
    write_atomic(PAGE, page(result, others))


if __name__ == "__main__":
    main()
