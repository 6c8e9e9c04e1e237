"""How well does `skd-edge labels audit` find planted label noise? Precision of its first 100, and estimated noise rate.

    python -m bench.suites.labels.audit_recall --data generated --rates 0.2 0.4 --seeds 0 1 2 3 4
    python -m bench.suites.labels.audit_recall --data human_motion --rates 0.2 0.4 --seeds 0 1 2
    python -m bench.suites.labels.audit_recall --tables          # only the table, from the measured cells

A cell is one data set, noise rate and seed. Its labels get planted noise (the seed decides which labels are wrong), the
recipe's teacher is trained on them, and the audit ranks the labels. Resumable: jobs are stored in the cache, and cells
in bench/results/audit.json are not measured again. The table is written into docs/labels.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.device.info import read_device_info
from skd_bench.files import write_atomic, write_json
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.execution.threads import configure_threads
from skd_edge.labels.audit.label_errors import estimate_noise, rank_label_errors
from skd_edge.labels.cleaning.pseudo_labels import PseudoLabels
from skd_edge.labels.dataset import TrainingData, load_training_data
from skd_edge.pipeline.audit_labels import estimate_labels_with_teacher
from skd_edge.pipeline.console import RunConsole
from skd_edge.recipe.loader import load_recipe, resolved_yaml
from skd_edge.run_folder import Run, open_cache

ROOT = Path(__file__).resolve().parents[3]
RESULTS, PAGE = ROOT / "bench/results/audit.json", ROOT / "docs/labels.md"
RECIPES = {"generated": "quickstart", "human_motion": "human_motion"}
START, END = "<!-- audit table -->", "<!-- end of audit table -->"
Json = dict[str, Any]


def measure(data: str, kind: str, rate: float, seed: int, runs: Path) -> Json:
    """Measure one cell: plant noise, train the teacher, run the audit, and compare it with the planted noise."""
    noise = (f"labels.noise.kind={kind}", f"labels.noise.rate={rate}")
    recipe = load_recipe(RECIPES[data], [f"seed={seed}", *noise])
    training_data = load_training_data(recipe, open_cache())
    with Run(runs / f"{data}-{kind}-{rate}-{seed}", resolved_yaml(recipe)) as run:
        executor = LocalExecutor(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1])
        began = time.monotonic()
        pseudo, right = estimate_labels_with_teacher(recipe, training_data, executor, RunConsole())
        return (
            {"data": data, "noise": kind, "rate": rate, "seed": seed}
            | score_audit(pseudo, training_data)
            | {"teacher": right, "seconds": round(time.monotonic() - began, 1)}
        )


def score_audit(pseudo: PseudoLabels, training_data: TrainingData) -> Json:
    """Compare the audit's ranking, proposals and noise estimate with the planted noise."""
    weak, truth = training_data.weak_labels, training_data.truth
    assert truth is not None
    assert pseudo.evidence is not None
    ranked = rank_label_errors(weak, pseudo.evidence)
    wrong = np.array([truth[s.clip] != s.label for s in ranked])
    proposal = np.array([truth[s.clip] == s.proposed for s in ranked])
    noise = estimate_noise(weak, pseudo.evidence.class_probabilities, training_data.clips.train.groups)
    planted = np.zeros_like(noise.matrix)
    np.add.at(planted, (truth, weak), 1.0)
    planted /= planted.sum(1, keepdims=True)
    return {
        "clips": len(weak),
        "planted": float((weak != truth).mean()),
        "precision100": float(wrong[:100].mean()),
        "proposed100": float(proposal[:100].mean()),
        "precision_all": float(wrong[: wrong.sum()].mean()),
        "estimate": noise.rate.value,
        "interval": [noise.rate.low, noise.rate.high],
        "matrix_off": float(np.abs(noise.matrix - planted).mean()),
        "matrix_covered": float(((noise.low <= planted) & (planted <= noise.high)).mean()),
        "labels_right_after": float((pseudo.hard == truth).mean()),
    }


def table(cells: list[Json]) -> str:
    """The cells as a Markdown table: one row for each data set, noise and rate, with mean and worst seed."""
    lines = [
        "| data | noise | seeds | precision@100 | proposal right @100 | precision @ number of wrong labels "
        "| estimated rate − planted, points | 95 % interval holds it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    keys = dict.fromkeys(
        (c["data"], c["noise"], c["rate"]) for c in sorted(cells, key=lambda c: (c["data"], c["rate"]))
    )
    for data, kind, rate in keys:
        matching = [c for c in cells if (c["data"], c["noise"], c["rate"]) == (data, kind, rate)]
        matching.sort(key=lambda c: c["seed"])
        off = [100 * (c["estimate"] - c["planted"]) for c in matching]
        covered = sum(c["interval"][0] <= c["planted"] <= c["interval"][1] for c in matching)
        columns = [
            data,
            f"{kind} {100 * rate:.0f} %",
            ", ".join(str(c["seed"]) for c in matching),
            *(_format_range([c[k] for c in matching]) for k in ("precision100", "proposed100", "precision_all")),
            ", ".join(f"{x:+.1f}" for x in off),
            f"{covered} of {len(matching)}",
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def _format_range(values: list[float]) -> str:
    return f"{min(values):.2f}" if len(values) == 1 else f"{np.mean(values):.2f} (worst {min(values):.2f})"


def write_table(cells: list[Json]) -> None:
    """Replace the table between its marks in the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    write_atomic(PAGE, f"{before}{START}\n{table(cells)}\n{END}{rest.partition(END)[2]}")


def main() -> None:
    """Measure the cells that are missing, then write the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--noise", default="symmetric", choices=["symmetric", "classes", "model"])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.2, 0.4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/audit")
    parser.add_argument("--tables", action="store_true", help="only write the table")
    options = parser.parse_args()
    configure_threads(options.threads or None)
    cells: list[Json] = json.loads(RESULTS.read_text())["cells"] if RESULTS.exists() else []
    have = {(c["data"], c["noise"], c["rate"], c["seed"]) for c in cells}
    for cell in [(d, options.noise, r, s) for s in options.seeds for d in options.data for r in options.rates]:
        if cell in have or options.tables:
            continue
        cells.append(measure(*cell, options.runs))
        write_json(RESULTS, {"device": read_device_info()["cpu"], "cells": cells})
        last = cells[-1]
        print(
            f"{cell}: precision@100 {last['precision100']:.2f}, estimate {last['estimate']:.3f} of "
            f"{last['planted']:.3f} ({last['seconds']} s)",
            flush=True,
        )
    write_table(cells)


if __name__ == "__main__":
    main()
