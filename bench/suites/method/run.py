"""The method's study: every row of method_rows.py in every column, on both data sets, with seeds.

    python -m bench.suites.method.run --data generated --noise sym40 clean --seeds 0 1 2 3 4
    python -m bench.suites.method.run --data human_motion --rows full KD "KD + LS" --noise sym40 --seeds 0 1
    python -m bench.suites.method.run --tables          # only the tables, from the rows that are there

Resumable: legs lie in the cache, and a row that bench/results/method.jsonl holds is not trained again; several
processes may add rows at once. docs/method_study.md is written from all rows by method_tables.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score

from bench.suites.method.rows import ROWS, THESIS, TRIALS, Row
from bench.suites.method.tables import write_tables
from skd_bench.device.info import device_card
from skd_edge.distill.trainer import predict
from skd_edge.execution.executors import use_threads
from skd_edge.execution.job_graph import Legs, Node, in_order
from skd_edge.execution.local_executor import LocalEngine
from skd_edge.labels.dataset import Material, deployed_view, gather
from skd_edge.pipeline.plan import facts_of
from skd_edge.recipe.loader import load_recipe, resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, cache_root

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "bench/results/method.jsonl"
RECIPES = {"generated": "quickstart", "human_motion": "human_motion"}
NOISE = {
    "clean": ("labels.noise.kind=none",),
    "sym20": ("labels.noise.kind=symmetric", "labels.noise.rate=0.2"),
    "sym40": ("labels.noise.kind=symmetric", "labels.noise.rate=0.4"),
    "class40": ("labels.noise.kind=classes", "labels.noise.rate=0.4"),
    "imbalanced": ("data.nothing=20", "labels.noise.kind=symmetric", "labels.noise.rate=0.2"),  # generated only
    "voters": ("labels.noise.kind=voters", "labels.noise.rate=0.45"),
}
CLEAN = {"imbalanced": ("data.nothing=20", "labels.noise.kind=none")}  # the same clips; elsewhere the recipe's
CORE = ("no KD", "no KD, clean labels", "teacher, clean labels", "KD", "KD + LS", "ELR teacher, soft labels", "full")
Json = dict[str, Any]


def known() -> list[Json]:
    """Every row so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def add(row: Json) -> None:
    """One line, appended whole, so that processes may write at once."""
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")


def measure(data: str, noise: str, one: Row, seed: int, runs: Path, card: Json) -> Json:
    """Train what a row needs, and score its network on the test clips."""
    column = CLEAN.get(noise, NOISE["clean"]) if one.clean else NOISE[noise]
    recipe = load_recipe(RECIPES[data], [f"seed={seed}", *column, *one.sets])
    times = {"teacher_epochs": one.stretch * one.teacher, "epochs": one.stretch * one.student}
    epochs = {key: round(by * getattr(recipe.training, key)) for key, by in times.items()}
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update=epochs)})
    material = gather(recipe, cache_root())
    with Run(runs / f"{data}-{noise}-{one.name.replace(' ', '_')}-{seed}", resolved_yaml(recipe)) as run:
        engine = LocalEngine(run, material, recipe.labels, deployed_view(recipe.clip)[1])
        node = one.grow(Legs(recipe, facts_of(material)), recipe.students[0])
        finished = [engine.train(n) for n in in_order([node])]
        return facts(recipe, material, engine, node) | {
            "data": data, "noise": noise, "row": one.name, "seed": seed, "val": finished[-1].accuracy,
            "leg": node.hash, "student_seconds": finished[-1].seconds, "student_epochs": node.leg.epochs,
            "seconds": round(sum(f.seconds for f in finished), 1), "device": card["cpu"],
            "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version(),
        }  # fmt: skip


def facts(recipe: Recipe, material: Material, engine: LocalEngine, node: Node) -> Json:
    """Test accuracy, clip by clip (packed bits), and how right the labels were that the student learned from."""
    clips, preprocess = material.clips, deployed_view(recipe.clip)[1]
    logits = predict(engine.network(node), clips.test, preprocess)
    correct = logits.argmax(1) == clips.test.labels
    macro = f1_score(clips.test.labels, logits.argmax(1), average="macro", zero_division=0)
    row: Json = {"test": float(correct.mean()), "macro_f1": float(macro), "clips": len(correct),
                 "correct": np.packbits(correct).tobytes().hex()}  # fmt: skip
    if node.labels is not None:
        pseudo = engine.pseudo_labels(node.labels, node.folds)
        truth = clips.train.labels if material.truth is None else material.truth
        row |= {"labels": float((pseudo.hard == truth).mean()), "noise_estimate": pseudo.noise_rate}
    return row


def main() -> None:
    """Add the rows that are missing, then write the tables of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--noise", nargs="+", default=["sym40", "clean"], choices=NOISE)
    parser.add_argument("--rows", nargs="+", default=["core"], help="names of rows; core; all; thesis; trials")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/method")
    parser.add_argument("--tables", action="store_true", help="train nothing")
    options = parser.parse_args()
    use_threads(options.threads or None)
    sets = {"all": ROWS, "thesis": THESIS, "trials": TRIALS}
    named = {word: tuple(r.name for r in rows) for word, rows in sets.items()} | {"core": CORE}
    names = named.get(options.rows[0], tuple(options.rows))
    wanted = [next(r for r in (*ROWS, *THESIS, *TRIALS) if r.name == name) for name in names]
    have = {(r["data"], r["noise"], r["row"], r["seed"]) for r in known()}
    card = device_card()
    todo = [
        (data, noise, row, seed)
        for seed in options.seeds for data in options.data for noise in options.noise for row in wanted
        if (data, noise, row.name, seed) not in have
    ]  # fmt: skip
    for number, (data, noise, row, seed) in enumerate([] if options.tables else todo):
        began = time.monotonic()
        result = measure(data, noise, row, seed, options.runs, card)
        add(result)
        print(f"{number + 1}/{len(todo)} {data} {noise} seed {seed} {row.name}: {100 * result['test']:.1f} "
              f"({time.monotonic() - began:.0f} s, pid {os.getpid()})", flush=True)  # fmt: skip
    write_tables(known(), ROOT / "docs/method_study.md")


if __name__ == "__main__":
    main()
