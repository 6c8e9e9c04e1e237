"""The one result object of a run (``report.json``), gathered from what the run found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.benchmark.latency import Latency
from skd_bench.metrics.accuracy import Accuracy
from skd_bench.stats import Interval, mean_interval, paired_difference, resolvable_points
from skd_edge import __version__
from skd_edge.evaluation.evaluator import Weighed
from skd_edge.execution.local_executor import Finished
from skd_edge.labels.dataset import Material
from skd_edge.recipe.schema import Recipe
from skd_edge.schedule.candidates import Candidate
from skd_edge.schedule.selection import Decision
from skd_export.analysis.operator_profile import by_kind

_SAMPLES = 1200
FIRST = "first teacher"  # the leg that learns from the weak labels as they are
Json = dict[str, Any]


def candidate_row(
    candidate: Candidate,
    weighed: Weighed | None,
    random: Latency | None,
    decision: Decision,
    reason: str,
    leg: str | None,
) -> Json:
    """One row of ``candidates``: measured and scored, or weighed with random weights only, or not even that."""
    latency, form = weighed.latency if weighed else random, candidate.form
    p50 = latency.p50 if latency else None
    row: Json = {
        "name": candidate.name, "path": list(candidate.path), "student": candidate.student,
        "precision": form.precision, "runtime": form.runtime, "leg": leg, "trained": weighed is not None,
        "reason": reason, "chosen": candidate.name == decision.chosen, "on_front": candidate.name in decision.front,
        **(latency_facts(latency) if latency else {"p50_ms": None}),
    }  # fmt: skip
    if weighed is None:
        return row | {"accuracy": None, "interval": None, "eligible": False}
    accuracy = weighed.accuracy
    return row | {
        "accuracy": accuracy.top1.value, "interval": [accuracy.top1.low, accuracy.top1.high],
        "macro_f1": accuracy.macro_f1, "bytes": weighed.path.stat().st_size,
        "accuracy_per_ms": accuracy.top1.value / p50.value if p50 else None,
        "eligible": weighed.refused is None, "parity": weighed.parity,
        "operators": weighed.facts.get("operators"), "ece": accuracy.ece,
        "fates": by_kind(weighed.facts.get("fates", [])), "left_out": weighed.facts.get("excluded", []),
    }  # fmt: skip


def latency_facts(latency: Latency) -> Json:
    """Percentiles in milliseconds (null where the queries do not carry them) and the cold start."""

    def value(interval: Interval | None) -> float | None:
        return None if interval is None else interval.value

    p50 = latency.p50
    return {
        "p50_ms": value(p50), "p50_interval": [p50.low, p50.high] if p50 else None, "p90_ms": value(latency.p90),
        "p99_ms": value(latency.p99), "queries": latency.n, "steady": latency.steady,
        "load_ms": latency.load_ms, "first_ms": latency.first_ms,
        **({"joules_per_clip": j.value, "joules_interval": [j.low, j.high]} if (j := latency.joules) else {}),
    }  # fmt: skip


def leg_rows(
    finished: Sequence[Finished], groups: NDArray[np.int64], pruned: Mapping[tuple[str, ...], str]
) -> list[Json]:
    """One row for each leg; a student's gain is over the same network trained alone. Pruned cascades come last.

    A cascade that was given up after a rung shows that rung's accuracy and seconds.
    """
    alone = {f.node.leg.learner.name: f for f in finished if f.node.leg.role == "alone"}
    rows = [_leg_row(f, alone, groups) for f in finished]
    rungs = {f.node.leg.path: f for f in finished if f.node.leg.role == "rung"}
    return rows + [_pruned_row(path, why, rungs.get(path)) for path, why in pruned.items()]


def _pruned_row(path: tuple[str, ...], why: str, rung: Finished | None) -> Json:
    row: Json = {
        "leg": f"pruned-{path[-1]}" if len(path) == 2 else f"pruned-{'>'.join(path[1:])}", "learner": path[-1],
        "teacher": None, "path": list(path), "role": "student", "state": "pruned", "reason": why,
    }  # fmt: skip
    if rung is None:
        return row
    return row | {"teacher": rung.node.leg.teacher, "accuracy": rung.accuracy, "epochs": rung.node.leg.epochs}


def _leg_row(f: Finished, alone: Mapping[str, Finished], groups: NDArray[np.int64]) -> Json:
    leg = f.node.leg
    accuracy = mean_interval(f.correct.astype(float), groups.tolist())
    control = alone.get(leg.learner.name) if leg.role in ("student", "kd") else None
    gain = None
    if control is not None:
        gain = paired_difference(f.correct.astype(float), control.correct.astype(float), groups.tolist())
    state, how = ("cached", "an earlier run trained it") if f.cached else ("trained", "trained in this run")
    scout = leg.role == "scout"  # the teacher's first pass is a root of its own in the drawing
    name = FIRST if scout and not (leg.start or leg.fold) else leg.path[-1]
    return {
        "leg": f.node.hash, "learner": name if scout else leg.learner.name, "teacher": leg.teacher or leg.start,
        "path": [name] if scout else list(leg.path), "kind": leg.role,
        "role": "control" if leg.role in ("alone", "kd") else "teacher" if scout else leg.role,
        "accuracy": accuracy.value, "interval": [accuracy.low, accuracy.high],
        "gain": None if gain is None else 100 * gain.value,
        "gain_interval": None if gain is None else [100 * gain.low, 100 * gain.high],
        "gain_over": None if gain is None else "the same network alone",
        "seconds": f.seconds, "epochs": leg.epochs, "state": state, "reason": how, "curve": f.curve,
    }  # fmt: skip


def test_facts(accuracy: Accuracy, rows: list[Json], looks: int, test_hash: str) -> Json:
    """The chosen file on the untouched test clips, beside the controls."""
    return {
        "accuracy": accuracy.top1.value, "interval": [accuracy.top1.low, accuracy.top1.high],
        "macro_f1": accuracy.macro_f1, "per_class": accuracy.per_class, "confusion": accuracy.confusion,
        "ece": accuracy.ece, "reliability": accuracy.reliability, "looks": looks, "hash": test_hash, "rows": rows,
    }  # fmt: skip


def resolution(n: int, accuracy: float) -> Json:
    """How small a difference the validation clips can show."""
    points = resolvable_points(n, accuracy)
    text = (
        f"{n} validation clips at {accuracy:.0%} fix an accuracy to about ±{points:.1f} points; "
        "smaller differences between candidates may be chance unless their paired interval says otherwise."
    )
    return {"n": n, "points": points, "text": text}


def data_facts(material: Material) -> Json:
    """How many clips there are, and which files could not be read."""
    clips = material.clips
    return {"train": len(clips.train), "val": len(clips.val), "test": len(clips.test), "classes": list(clips.classes),
            "quarantined": list(clips.quarantined), "split_note": clips.note}  # fmt: skip


def thinned(latency: Latency) -> list[float]:
    """At most some hundred raw samples, evenly picked, for the histogram."""
    samples = [s for process in latency.samples_ms for s in process]
    step = max(len(samples) // _SAMPLES, 1)
    return [round(s, 5) for s in samples[::step]]


def head(recipe: Recipe, seconds: float) -> Json:
    """What the run is."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"schema": 1, "name": recipe.name, "created": now, "version": __version__, "seed": recipe.seed,
            "seconds": round(seconds, 1), "licences": recipe.licences.model_dump()}  # fmt: skip
