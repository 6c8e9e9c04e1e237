"""Writes docs/engines.md: TensorRT-RTX engines of the recipes' networks, for GPUs that this machine does not have.

    python -m bench.suites.export.tensorrt_engines --bundle runs/quickstart/bundle

Networks have random weights: size and build time do not depend on them. Each engine is built several times, and the
number of different files is counted. With --bundle, also measures how FP16 changes the logits of that trained network
on rendered clips, on the CPU. Writes bench/results/engines.json and docs/engines.md. No engine is run, so no GPU is
needed.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from skd_bench.bundle.manifest import Manifest, resolve_bundle_path
from skd_bench.device.info import read_device_info
from skd_bench.errors import UserError
from skd_bench.files import write_atomic, write_json
from skd_bench.runtimes.tensorrt.builder import SUPPORTED_SMS, build_engine
from skd_bench.runtimes.tensorrt.library import import_library
from skd_bench.video.clip import normalise
from skd_edge.data.sources.synthetic import render_clip
from skd_edge.models.builder import build_network
from skd_edge.models.substages import LogitsOnly
from skd_edge.recipe.loader import load_recipe
from skd_edge.recipe.schema import NetworkSpec
from skd_export.analysis.parity import compute_parity, find_violated_bound
from skd_export.graph.onnx_export import export_onnx
from skd_export.quantization.quantize import convert_fp16

ROOT = Path(__file__).resolve().parents[3]
RESULTS, PAGE = ROOT / "bench/results/engines.json", ROOT / "docs/engines.md"
NETWORKS = (("quickstart", "small"), ("quickstart", "large"), ("human_motion", "small"), ("human_motion", "teacher"))
RTX, CLASSES, CLIPS = "tensorrt-rtx", 10, 256
Json = dict[str, Any]
HEAD = """# Engines that were built but not run

Regenerate: `python -m bench.suites.export.tensorrt_engines --bundle runs/quickstart/bundle`

Every network below was parsed and built into an engine by {library} on a machine without a GPU ({device}, with other
work running). **Built, not run**: a successful build shows that all operators of the network are supported at that
precision on that GPU. It shows nothing about logits or speed. Jetson Orin (SM87) is not among these targets, so these
builds show nothing about it. Seconds are reported by the builder on a busy machine; the table gives the median of
{builds} builds in one process. `files` is the number of different files that these builds gave. Engines are identified
by their hash, so an engine that was built again must be verified again."""
TABLE = """| network | precision | ONNX kB | GPU | engine kB | relative to FP32 | seconds | files |
|---|---|---|---|---|---|---|---|
"""
SIZES = """FP16 engines are {low:.2f} to {high:.2f} times as large as FP32 engines: the engine of a small network is
mostly compiled code, not weights. The goal was 0.55 times."""
FP16 = """The trained network that the recipe {bundle} chose, on {n} rendered clips that were not used for training and
not encoded as video files. ONNX Runtime on the CPU converts FP16 convolutions to FP32, so these numbers show the
rounding of weights and of values between operators. They show nothing about speed, and the FP16 sums of a GPU may
differ more.

The largest difference divided by the largest logit is {relative:.1e}. The top class is the same on {agreement:.1%} of
the clips. Accuracy drops by {accuracy_drop:.1f} points. This is {bound} the bound for FP16 (the same class on 99.5 %).
The FP16 file has {smaller:.2f} times the bytes of the FP32 file."""


POLYGRAPHY = """## Why not Polygraphy

NVIDIA's Polygraphy builds and runs engines too. Version 0.53.6, as installed beside skd-edge, was read and tried:

- **Dependencies**: none in its metadata, Python 3.8 or newer, 4.8 MB. It finds libcudart by itself through ctypes, so
that a Jetson needs nothing else. This speaks for it.
- **Building**: it covers TensorRT 8 to 11 and, by an environment variable for the whole process, TensorRT-RTX: one
process cannot use both. It imports `tensorrt_rtx`, and the wheel of the bindings here is `tensorrt_rtx_bindings`: it
only built our network for this page after the module was renamed by hand. For TensorRT 10, networks are weakly
typed unless asked.
- **Errors**: for a file that the parser refuses it raises "Could not parse ONNX correctly"; the operator and the node
are lines of its log. Ours names both in one sentence, with what to do.
- **Files**: `NetworkFromOnnxPath` lets the parser read other files beside the ONNX file. It has no metadata beside an
engine, so nothing refuses one for another GPU, version or driver before it is loaded, and no hash says which was
measured.
- **Timing**: `TrtRunner` has no CUDA graphs and no pinned memory, and measures with `time.time`. For each query it asks
the engine for its tensors, compares shapes and addresses, and makes new views of the outputs in Python. How much
of a query of 0.2 ms that is was not measured: no GPU was at hand.

So it would replace the building: about 200 of the 1,270 lines in `bench/skd_bench/runtimes/tensorrt/`. Metadata,
refusals, error messages, CUDA graphs, transfers and layers would stay ours. A session over two libraries with two
CUDA wrappers is more to trust than one, so ours is kept. Our calls are checked against the real bindings of
six versions (`tests/suites/tensorrt_contract`). `bench/suites/latency/cross_check.py` uses Polygraphy as a second
stopwatch on ONNX Runtime."""


def export_networks(folder: Path) -> list[tuple[str, Path, Path]]:
    """Export the networks; returns title, FP32 file and FP16 file of each."""
    found = []
    for recipe_name, name in NETWORKS:
        recipe = load_recipe(recipe_name if recipe_name == "quickstart" else str(ROOT / f"recipes/{recipe_name}.yaml"))
        network: NetworkSpec = (
            recipe.teacher if name == "teacher" else next(s for s in recipe.students if s.name == name)
        )
        clip = recipe.clip
        built = LogitsOnly(build_network(network, classes=CLASSES, clip=clip, seed=0)).eval()
        title = f"{recipe_name} {name} ({network.family} {network.width}), {clip.frames}x{clip.size}x{clip.size}"
        fp32, fp16 = (folder / f"{recipe_name}-{name}.{p}.onnx" for p in ("fp32", "fp16"))
        shape = (clip.frames, clip.size, clip.size)
        export_onnx(built, fp32, clip_shape=shape, classes=[f"class {i}" for i in range(CLASSES)])
        convert_fp16(fp32, fp16)
        found.append((title, fp32, fp16))
    return found


def build(onnx: Path, sm: int, builds: int) -> Json:
    """Build an engine several times; returns size, seconds and hashes, or the reason why it cannot be built."""
    try:
        engine = onnx.with_suffix(".engine")
        notes = [build_engine(onnx, engine, runtime=RTX, sms=[sm]) for _ in range(builds)]
    except UserError as error:
        return {"reason": re.sub(r"\S+/", "", str(error))}
    return {
        "bytes": notes[0].bytes,
        "sha256": [note.sha256 for note in notes],
        "seconds": [note.build_seconds for note in notes],
        "flags": notes[0].flags,
        "state": notes[0].state,
    }


def fp16_numerics(bundle: Path) -> Json:
    """Parity of a trained network's FP16 file with its FP32 file, on ONNX Runtime on the CPU."""
    manifest = Manifest.load(bundle)
    fp32 = resolve_bundle_path(bundle, next(a.file for a in manifest.artefacts if a.precision == "fp32"))
    p, frames = manifest.preprocess, manifest.sampling.frames
    truth = np.arange(CLIPS) % len(manifest.classes)
    clips = np.stack(
        [
            render_clip(manifest.classes[c], frames=frames, size=p.height, difficulty=0.12, seed=10**6 + i)
            for i, c in enumerate(truth)
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        fp16 = Path(folder) / "fp16.onnx"
        convert_fp16(fp32, fp16)
        logits = [
            ort.InferenceSession(str(f), providers=["CPUExecutionProvider"]).run(None, {"clip": normalise(clips, p)})[0]
            for f in (fp32, fp16)
        ]
        sizes = [f.stat().st_size for f in (fp32, fp16)]
    found = compute_parity(*logits, truth)
    return {"bundle": manifest.name, "bytes": sizes, **found, "verdict": find_violated_bound(found, "fp16")}


def page(result: Json) -> str:
    """Format the page; every number comes from the results."""
    device = f"{result['device']['cpu']}, {result['device']['cores_usable']} threads"
    head_text = HEAD.format(library=result["library"], device=device, builds=result["builds"])
    text = "\n\n".join(map(wrapped, head_text.split("\n\n"))) + "\n\n" + TABLE
    fp32 = {(r["network"], r["sm"]): r["bytes"] for r in result["rows"] if r["precision"] == "fp32" and "bytes" in r}
    reasons: dict[str, tuple[int, str]] = {}
    ratios = []
    for row in result["rows"]:
        head = f"| {row['network']} | {row['precision']} | {row['onnx_bytes'] / 1000:.0f} | SM{row['sm']} |"
        if "reason" in row:
            kind = re.sub(r"build \S+ for|operation '[^']+'", "", row["reason"])
            number, _ = reasons.setdefault(kind, (len(reasons) + 1, row["reason"]))
            text += f"{head} none ({number}) | | | |\n"
            continue
        before = fp32.get((row["network"], row["sm"])) if row["precision"] == "fp16" else None
        ratios += [row["bytes"] / before] if before else []
        ratio = f"{ratios[-1]:.2f}" if before else ""
        seconds = statistics.median(row["seconds"])
        text += f"{head} {row['bytes'] / 1000:.0f} | {ratio} | {seconds:.2f} | {len(set(row['sha256']))} |\n"
    text += "".join(f"\n{wrapped(f'({number}) {reason}')}\n" for number, reason in reasons.values())
    text += "\n" + wrapped(SIZES.format(low=min(ratios), high=max(ratios))) + "\n"
    text += "\n" + format_weighing(POLYGRAPHY) + "\n"
    if numerics := result["fp16"]:
        smaller = numerics["bytes"][1] / numerics["bytes"][0]
        bound = "within" if numerics["verdict"] is None else "outside"
        text += "\n## How FP16 changes the logits\n\n"
        text += "\n\n".join(map(wrapped, FP16.format(**numerics, smaller=smaller, bound=bound).split("\n\n"))) + "\n"
    return text


def format_weighing(text: str) -> str:
    """A text of paragraphs, lists and a heading, in lines of at most 120 characters."""
    return "\n\n".join("\n".join(map(wrapped, re.split(r"\n(?=- )", part))) for part in text.split("\n\n"))


def wrapped(paragraph: str) -> str:
    """Lines of at most 120 characters; a heading stays as it is."""
    return textwrap.fill(" ".join(paragraph.split()), 120, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    """Build the engines, and write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a bundle of the quickstart, for the parity of FP16")
    parser.add_argument("--builds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for title, *files in export_networks(Path(folder)):
            for precision, file in zip(("fp32", "fp16"), files, strict=True):
                for sm in SUPPORTED_SMS:
                    row = {"network": title, "precision": precision, "sm": sm, "onnx_bytes": file.stat().st_size}
                    rows.append(row | build(file, sm, options.builds))
                    print(title, precision, f"SM{sm}", rows[-1].get("bytes", rows[-1].get("reason")), flush=True)
    result = {
        "library": import_library(RTX).title,
        "device": read_device_info(),
        "builds": options.builds,
        "rows": rows,
        "fp16": fp16_numerics(options.bundle) if options.bundle else None,
    }
    write_json(RESULTS, result)
    write_atomic(PAGE, page(result))


if __name__ == "__main__":
    main()
