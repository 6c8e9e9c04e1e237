"""Runs the method's study: every row of rows.py in every column, on both data sets, with several seeds.

    python -m bench.suites.method.run --data generated --noise sym40 clean --seeds 0 1 2 3 4
    python -m bench.suites.method.run --data human_motion --rows full KD "KD + LS" --noise sym40 --seeds 0 1
    python -m bench.suites.method.run --tables          # only the tables, from existing rows

A column is a data set with a kind of label noise. Resumable: jobs are stored in the cache, and rows in
bench/results/method.jsonl are not trained again. Several processes may add rows at the same time. tables.py writes
docs/method_study.md from all rows.
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
from skd_bench.device.info import read_device_info
from skd_bench.video.types import Preprocessing
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.store.clip_store import ClipDataset
from skd_edge.distill.trainer import predict
from skd_edge.execution.job_graph import JobFactory, TrainingJob, fingerprint_of, topological_order
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.execution.threads import configure_threads
from skd_edge.labels.dataset import TrainingData, load_training_data
from skd_edge.models.builder import AnyNetwork
from skd_edge.recipe.loader import load_recipe, resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, open_cache

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "bench/results/method.jsonl"
RECIPES = {"generated": "quickstart", "human_motion": "human_motion"}
NOISE = {
    "clean": ("labels.noise.kind=none",),
    "sym20": ("labels.noise.kind=symmetric", "labels.noise.rate=0.2"),
    "sym40": ("labels.noise.kind=symmetric", "labels.noise.rate=0.4"),
    "class40": ("labels.noise.kind=classes", "labels.noise.rate=0.4"),
    "imbalanced": (
        "data.nothing=20",
        "labels.noise.kind=symmetric",
        "labels.noise.rate=0.2",
    ),  # only for the generated set
    "voters": ("labels.noise.kind=voters", "labels.noise.rate=0.45"),
}
CLEAN = {
    "imbalanced": ("data.nothing=20", "labels.noise.kind=none")
}  # the same clips; other columns use those of the recipe
CORE = ("no KD", "no KD, clean labels", "teacher, clean labels", "KD", "KD + LS", "ELR teacher, soft labels", "full")
Json = dict[str, Any]


def load_rows() -> list[Json]:
    """All rows so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def append_row(row: Json) -> None:
    """Append one line in a single write, so that several processes can write at the same time."""
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")


def measure(data: str, noise: str, row: Row, seed: int, runs: Path, device_info: Json) -> Json:
    """Train what a row needs, and evaluate its network on the test clips."""
    column = CLEAN.get(noise, NOISE["clean"]) if row.clean else NOISE[noise]
    recipe = load_recipe(RECIPES[data], [f"seed={seed}", *column, *row.sets])
    times = {"teacher_epochs": row.stretch * row.teacher, "epochs": row.stretch * row.student}
    epochs = {key: round(by * getattr(recipe.training, key)) for key, by in times.items()}
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update=epochs)})
    training_data = load_training_data(recipe, open_cache())
    with Run(runs / f"{data}-{noise}-{row.name.replace(' ', '_')}-{seed}", resolved_yaml(recipe)) as run:
        executor = LocalExecutor(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1])
        job = row.build_job(JobFactory(recipe, fingerprint_of(training_data)), recipe.students[0])
        finished = [executor.train_job(n) for n in topological_order([job])]
        return score_student(recipe, training_data, executor, job) | {
            "data": data,
            "noise": noise,
            "row": row.name,
            "seed": seed,
            "val": finished[-1].accuracy,
            "job": job.hash,
            "student_seconds": finished[-1].seconds,
            "student_epochs": job.spec.epochs,
            "seconds": round(sum(f.seconds for f in finished), 1),
            "device": device_info["cpu"],
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }


def score_student(recipe: Recipe, training_data: TrainingData, executor: LocalExecutor, job: TrainingJob) -> Json:
    """Evaluate a network: test accuracy, correct clips as packed bits, and accuracy of its training labels."""
    clips = training_data.clips
    row = score_network(executor.load_network(job), clips, inference_preprocessing(recipe.clip)[1])
    if job.labels is not None:
        pseudo = executor.pseudo_labels(job.labels, job.folds)
        truth = clips.train.labels if training_data.truth is None else training_data.truth
        row |= {"labels": float((pseudo.hard == truth).mean()), "noise_estimate": pseudo.noise_rate}
    return row


def score_network(network: AnyNetwork, clips: ClipDataset, preprocess: Preprocessing) -> Json:
    """Test accuracy, macro-F1, and the correct clips as packed bits."""
    predicted = predict(network, clips.test.unseal(), preprocess).argmax(1)
    correct = predicted == clips.test.labels
    return {
        "test": float(correct.mean()),
        "macro_f1": float(f1_score(clips.test.labels, predicted, average="macro", zero_division=0)),
        "clips": len(correct),
        "correct": np.packbits(correct).tobytes().hex(),
    }


def main() -> None:
    """Train missing rows, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--noise", nargs="+", default=["sym40", "clean"], choices=NOISE)
    parser.add_argument(
        "--rows", nargs="+", default=["core"], help="names of rows, or one of: core, all, thesis, trials"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/method")
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    options = parser.parse_args()
    configure_threads(options.threads or None)
    sets = {"all": ROWS, "thesis": THESIS, "trials": TRIALS}
    named = {word: tuple(r.name for r in rows) for word, rows in sets.items()} | {"core": CORE}
    names = named.get(options.rows[0], tuple(options.rows))
    wanted = [next(r for r in (*ROWS, *THESIS, *TRIALS) if r.name == name) for name in names]
    have = {(r["data"], r["noise"], r["row"], r["seed"]) for r in load_rows()}
    device_info = read_device_info()
    todo = [
        (data, noise, row, seed)
        for seed in options.seeds
        for data in options.data
        for noise in options.noise
        for row in wanted
        if (data, noise, row.name, seed) not in have
    ]
    for number, (data, noise, row, seed) in enumerate([] if options.tables else todo):
        began = time.monotonic()
        result = measure(data, noise, row, seed, options.runs, device_info)
        append_row(result)
        print(
            f"{number + 1}/{len(todo)} {data} {noise} seed {seed} {row.name}: {100 * result['test']:.1f} "
            f"({time.monotonic() - began:.0f} s, pid {os.getpid()})",
            flush=True,
        )
    write_tables(load_rows(), ROOT / "docs/method_study.md")


if __name__ == "__main__":
    main()
