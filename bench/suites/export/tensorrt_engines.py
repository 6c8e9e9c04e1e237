"""The table of docs/engines.md: TensorRT-RTX engines of the recipes' networks, for GPUs that this machine has not.

    python -m bench.suites.export.tensorrt_engines --bundle runs/quickstart/bundle

Networks have random weights: size and build time do not depend on them. Each engine is built several times; how many
different files that gave is counted. With --bundle: what FP16 does to the answers of that trained network on rendered
clips, on the CPU. Writes bench/results/engines.json and docs/engines.md. No engine is run: no GPU is needed.
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
HEAD = """# Engines that no GPU has run

Regenerate: `python -m bench.suites.export.tensorrt_engines --bundle runs/quickstart/bundle`

Every engine below was parsed, built and hashed by {library} on a machine without a GPU ({device}, beside other work).
**Built, not run**: building shows that a network's operators are all taken at that precision for that GPU, and nothing
about its answers or its speed. Jetson Orin (SM87) is not among these targets: a build here proves nothing about it.
Seconds are the builder's own on a busy machine, median of {builds} builds in one process. `files` is how many different
files these builds gave: an engine is known by its hash, and one that was built again is to be compared again."""
TABLE = """| network | precision | ONNX kB | GPU | engine kB | against FP32 | seconds | files |
|---|---|---|---|---|---|---|---|
"""
SIZES = """FP16 engines have {low:.2f} to {high:.2f} of the bytes of FP32 engines: an engine of a small network is
mostly compiled code, not weights. The goal was 0.55."""
FP16 = """The chosen network of the recipe {bundle}, trained; {n} rendered clips that training never saw, not through a
video file; ONNX Runtime on the CPU, which widens FP16 convolutions to FP32: what is seen is the rounding of weights and
of what lies between operators. It says nothing of speed, and a GPU's FP16 sums may differ more.

Largest difference over the largest logit {relative:.1e}; the same top class on {agreement:.1%} of the clips; accuracy
drop {accuracy_drop:.1f} points: {bound} the bound for FP16 (99.5 % the same). The file has {smaller:.2f} of the FP32
file's bytes."""


def export_networks(folder: Path) -> list[tuple[str, Path, Path]]:
    """Name, FP32 file and FP16 file of each network."""
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
    """Size, seconds and different files of some builds, or why there is no engine."""
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
    """What rounding to FP16 does to a trained network's answers, by ONNX Runtime on the CPU."""
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
    """The page, from the numbers alone."""
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
    if numerics := result["fp16"]:
        smaller = numerics["bytes"][1] / numerics["bytes"][0]
        bound = "within" if numerics["verdict"] is None else "outside"
        text += "\n## What FP16 does to the answers\n\n"
        text += "\n\n".join(map(wrapped, FP16.format(**numerics, smaller=smaller, bound=bound).split("\n\n"))) + "\n"
    return text


def wrapped(paragraph: str) -> str:
    """Lines of at most 120 characters; a heading stays as it is."""
    return textwrap.fill(" ".join(paragraph.split()), 120, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    """Build, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a trained bundle of the quickstart, for the numerics of FP16")
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
