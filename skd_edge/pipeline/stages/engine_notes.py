"""Sentences about engines in the report of a run: their compiler, the spread of their builds, and the GPU's clock."""

from __future__ import annotations

from skd_bench.untrusted.text import escape_name
from skd_edge.pipeline.results import EvaluatedCandidates
from skd_edge.recipe.schema import Recipe


def build_engine_notes(device: str, recipe: Recipe, evaluated: EvaluatedCandidates) -> list[str]:
    """Notes about the files on a GPU; first of all, that there is none where a double stands for TensorRT.

    Args:
        device: its name in messages.
        recipe: the run's recipe.
        evaluated: what was measured; without a file on a GPU there are no notes.
    """
    engines = [one.facts for one in evaluated.results.values() if one.facts]
    if not engines:
        return []
    bench = recipe.bench
    known = [e for e in engines if {"runtime", "version", "gpu", "sm"} <= set(e)]
    builders = sorted({f"{e['runtime']} {e['version']} for {e['gpu']} (SM{e['sm']})" for e in known})
    notes = [
        f"{', '.join(builders)} IS A DOUBLE that answers by ONNX Runtime on the CPU: these milliseconds are of no GPU, "
        "and must not be published."
        for _ in range(any("double" in str(e.get("version")) for e in engines))
    ]
    if builders:
        notes.append(
            f"Engines were compiled by {', '.join(builders)} on {device}, for batches of one clip (workspace "
            f"{bench.build.workspace} MiB, TF32 {'on' if bench.build.tf32 else 'off'}, CUDA graphs "
            f"{'on' if bench.build.graphs else 'off'}), and are in engines/ of the run. The accuracy of an engine is "
            "that of its own logits; another build may be faster or slower, and answer differently."
        )
    notes.append(
        f"Files on a GPU ran without turns: at least {bench.warm_seconds:g} s of warm-up, then at least "
        f"{bench.seconds:g} s of queries in each process. Times that drift by more than 10 % are reported as unsteady."
    )
    if failed := sorted({str(e["no_graph_reason"]) for e in engines if "no_graph_reason" in e}):
        notes.append(f"Engines without a CUDA graph, because its capture failed: {'; '.join(failed)}.")
    return [*notes, *_build_spread_notes(evaluated), *_build_clock_notes(evaluated)]


def _build_spread_notes(evaluated: EvaluatedCandidates) -> list[str]:
    """How much the builds of an engine differ, where each was built several times."""
    rebuilt = {c.name: one.builds_ms for c, one in evaluated.results.items() if one.builds_ms}
    if not rebuilt:
        return []
    spreads = (
        f"{name} {', '.join(f'{ms:.3g}' for ms in builds)} ms ({max(builds) / min(builds) - 1:.1%} apart)"
        for name, builds in rebuilt.items()
    )
    return [
        f"Each engine was built {len(next(iter(rebuilt.values())))} times, and the build of median latency was "
        f"measured and scored. Medians of the builds: {'; '.join(spreads)}."
    ]


def _build_clock_notes(evaluated: EvaluatedCandidates) -> list[str]:
    """The clock and the memory of the GPU for each engine, and the blocks that were dropped."""
    notes, dropped = [], []
    for candidate, one in evaluated.results.items():
        clocks, gpu_mb = one.latency.clocks, one.facts.get("gpu_mb")
        if clocks is None:
            continue
        known = [f"{clocks.before_mhz:.0f} MHz before and {clocks.after_mhz:.0f} MHz after"] * (
            clocks.before_mhz is not None and clocks.after_mhz is not None
        )
        known += [f"{gpu_mb:g} MiB of GPU memory"] * isinstance(gpu_mb, int | float)
        if known:
            notes.append(f"{candidate.name} {', '.join(known)}")
        if clocks.dropped:
            reasons = "; ".join(map(escape_name, clocks.reasons))
            dropped.append(f"{candidate.name} {clocks.dropped} of {clocks.blocks} ({reasons})")
    found = [f"The GPU around the queries of each engine: {'; '.join(notes)}."] if notes else []
    if dropped:
        found.append(f"Blocks of queries that were dropped and measured again: {', '.join(dropped)}.")
    return found
