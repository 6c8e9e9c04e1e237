"""docs/speed.md from bench/results/speed.json, written by speed.py."""

from __future__ import annotations

import textwrap
from typing import Any

Json = dict[str, Any]
HEAD = """# How fast a student's files are

Regenerate: `python -m bench.suites.latency.runtimes --prepare && python -m bench.suites.latency.runtimes`

Batch 1, the network alone, milliseconds from a clip in memory to logits in memory (docs/measuring.md), on {device};
{processes} fresh processes of {queries} queries for each file, every file and runtime in turns, load {load} when it
ended. A ratio is of medians, paired by process, with its 95 % interval. PyTorch eager is the FP32 file's own graph at
its best: inference mode, BatchNorm folded, channels-last, in-place activations, the same threads; torch.compile beside
it. {versions}. INT8 is plain quantisation of every layer, calibrated on 128 clips: how fast it can be; what it costs
in accuracy stands in docs/qat.md. LiteRT takes a file of its own (FP32)."""
TRIED = """**Why INT8 gains little at the recipes' sizes.** Every convolution runs in integers on both runtimes
(below): none fell back. At 24 to 40 pixels a layer takes 2 to 10 microseconds, most of it not arithmetic,
and INT8 shortens the arithmetic alone; at 112 pixels it pays. Tried for OpenVINO on human_motion's small
student, first looks on a machine shared with other work (FP32 0.190 ms, INT8 0.172): weights one scale a
tensor 0.172; the first convolution in FP32 0.178, the last 0.170; depthwise convolutions in FP32 0.376;
7-bit weights 0.173; the symmetric file for TensorRT 0.221. Temporal convolutions as 3-D ones, which needs
no transposes: OpenVINO INT8 0.172 to 0.165 and FP32 0.190 to 0.188, but ONNX Runtime 0.278 to 0.611 (FP32)
and 0.289 to 0.909 (INT8). None is worth a second kind of file."""
GOALS = """**Goals.** The fastest file at least 5 times as fast as eager: {eager} of {rows} rows. INT8 at least 1.5
times as fast as FP32 on the fastest runtime that takes both: {int8} of {rows}. Export and parity of one student (two
files, 256 clips) within 60 s: {seconds}."""
WHY = """## What ran

Operators by kind. ONNX Runtime: nodes after its optimisations, what they computed in, their share of the time under its
profiler (which adds to small nodes). OpenVINO: executed primitives by precision. Quantise and dequantise nodes,
conversions and reorders are what INT8 pays; convolutions in FP32 are layers that fell back."""


def page(result: Json) -> str:
    """The page, from the numbers alone."""
    rows = result["rows"]
    each = [found for row in rows for found in row["latency"].values()]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    device = f"{result['device']['cpu']}, {result['device']['cores_usable']} cores"
    known = {"device": device, "versions": versions, "load": result["after"]["load"][0]}
    head = HEAD.format(**(result | known))
    whole = [row["export"] for row in rows if "verdict" in row["export"]["files"]["fp32"]]
    seconds = ", ".join(f"{one['seconds']:.0f} s" for one in whole)
    goals = GOALS.format(
        eager=sum(f["met"]["eager"] for f in each),
        int8=sum(f["met"]["int8"] for f in each),
        rows=len(each),
        seconds=seconds,
    )
    first, regenerate, *text = head.split("\n\n")
    parts = [first, regenerate, *map(_wrapped, (*text, goals)), _summary(rows), _wrapped(TRIED)]
    parts += [_table(row) for row in rows]
    title, why = WHY.split("\n\n")
    parts += [title, _wrapped(why), *(_operators(row) for row in rows)]
    return "\n\n".join(parts) + "\n"


def _summary(rows: list[Json]) -> str:
    lines = [
        "| student | threads | fastest file | times as fast as eager | INT8 over FP32, on each runtime |",
        "|---|---:|---|---:|---|",
    ]
    for row in rows:
        for threads, found in row["latency"].items():
            gains = ", ".join(f"{name} {_ratio(gain)}" for name, gain in found["int8_over_fp32"].items())
            lines.append(
                f"| {row['student']} | {threads} | {found['best']} | {_ratio(found['best_over_eager'])} | {gains} |"
            )
    return "\n".join(lines)


def _table(row: Json) -> str:
    counts = list(row["latency"])
    heads = " | ".join(f"ms, {n} thread{'s' * (n != '1')} | times eager" for n in counts)
    lines = [f"## {row['student']}", "", f"| file | {heads} |", "|---|" + "---:|---:|" * len(counts)]
    for name in row["latency"][counts[0]]["rows"]:
        found = [row["latency"][n]["rows"][name] for n in counts]
        cells = " | ".join(f"{f['p50_ms']:.3f} | {_ratio(f['times_eager'])}" for f in found)
        lines.append(f"| {name} | {cells} |")
    for precision, parity in row["export"]["files"].items():
        if "verdict" not in parity:
            continue  # random weights
        verdict = "within the bounds" if parity["verdict"] is None else "outside the bounds (no layer left in FP32)"
        lines += ["", f"{precision}: the same class on {parity['agreement']:.1%} of {parity['n']} clips, {verdict}."]
    return "\n".join(lines)


def _operators(row: Json) -> str:
    lines = [f"**{row['student']}**", "", "| file | ONNX Runtime | OpenVINO |", "|---|---|---|"]
    for precision, ran in row["operators"].items():
        ort = ", ".join(f"{k['nodes']} {k['op']} {k['ran']} ({k['share']:.0%})" for k in ran["ort"])
        openvino = ", ".join(f"{count} {kind}" for kind, count in ran.get("openvino", {}).items())
        lines.append(f"| {precision} | {ort} | {openvino} |")
    return "\n".join(lines)


def _ratio(ratio: Json) -> str:
    low, high = ratio["interval"]
    return f"{ratio['value']:.2f} [{low:.2f}, {high:.2f}]"


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(" ".join(paragraph.split()), 120, break_long_words=False, break_on_hyphens=False)
