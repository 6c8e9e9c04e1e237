"""Formats docs/speed.md from bench/results/speed.json, which runtimes.py writes."""

from __future__ import annotations

import textwrap
from typing import Any

Json = dict[str, Any]
HEAD = """# How fast a student's files are

Regenerate: `python -m bench.suites.latency.runtimes --prepare && python -m bench.suites.latency.runtimes`

Batch 1, the network alone: milliseconds from a clip in memory to logits in memory (docs/measuring.md), on {device}.
{processes} fresh processes with {queries} queries for each file; all files and runtimes alternate. The load was {load}
at the end. Each ratio is a ratio of medians, paired by process, with its 95 % interval. PyTorch eager runs the graph of
the FP32 file with its fastest settings: inference mode, folded BatchNorm, channels-last, in-place activations, the same
threads. torch.compile runs the same module. Versions: {versions}. INT8 quantises every layer, calibrated on 128 clips,
to show the largest possible gain in speed; docs/qat.md has its cost in accuracy. LiteRT has its own file format
(FP32)."""
TRIED = """**Why INT8 gains little at the recipes' sizes.** On both runtimes, every convolution runs in integers (see
the tables below); none fell back to FP32. At 24 to 40 pixels a layer takes 2 to 10 microseconds, most of which is not
arithmetic, and INT8 makes only the arithmetic faster. At 112 pixels the gain is larger. Alternatives were measured once
for OpenVINO on human_motion's small student, on a machine shared with other work (FP32 0.190 ms, INT8 0.172 ms): one
scale for each weight tensor 0.172 ms; the first convolution in FP32 0.178 ms, the last one 0.170 ms; depthwise
convolutions in FP32 0.376 ms; 7-bit weights 0.173 ms; the symmetric file for TensorRT 0.221 ms. Temporal convolutions
as 3-D convolutions, which need no transposes, change OpenVINO INT8 from 0.172 to 0.165 ms and FP32 from 0.190 to 0.188
ms, but ONNX Runtime from 0.278 to 0.611 ms (FP32) and from 0.289 to 0.909 ms (INT8). None of these gains is large
enough for a second kind of file."""
GOALS = """**Goals.** The fastest file is at least 5 times as fast as eager: {eager} of {rows} rows. INT8 is at least
1.5 times as fast as FP32 on the fastest runtime that supports both: {int8} of {rows}. Export and parity of one student
(two files, 256 clips) take at most 60 s: {seconds}."""
WHY = """## What ran

Executed operators by kind. ONNX Runtime: the nodes after its optimisations, the type they computed in, and their share
of the time under its profiler (whose overhead is largest for small nodes). OpenVINO: executed primitives by precision.
Quantise and dequantise nodes, conversions and reorders are the overhead of INT8; convolutions in FP32 are layers that
fell back."""


def page(result: Json) -> str:
    """Format the page; every number comes from the results."""
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
