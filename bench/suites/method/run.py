"""Runs the method's study: every row of rows.py in every column, on both data sets, with several seeds.

    python -m bench.suites.method.run --data generated --noise sym40 clean --seeds 0 1 2 3 4
    python -m bench.suites.method.run --data human_motion --rows full KD "KD + LS" --noise sym40 --seeds 0 1
    python -m bench.suites.method.run --tables          # only the tables, from existing rows

Seconds of a row are its steps times a paced step: steps of each kind of job are timed before any row begins, with
nothing beside them. So rows can use all cores, and their seconds stay those of a job that is alone.

A column is a data set with a kind of label noise. Resumable: jobs are stored in the cache, and rows in
bench/results/method.jsonl are not trained again. Rows are trained beside each other, each in a process with one thread;
a job that several rows need is trained once, and the others wait for it. tables.py writes docs/method_study.md from all
rows.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.suites.method.rows import ROWS, THESIS, TRIALS, Row
from bench.suites.method.tables import write_tables
from skd_bench.device.info import read_device_info
from skd_bench.metrics.class_averages import compute_metric_value, has_unequal_classes
from skd_bench.video.types import Preprocessing
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.store.clip_store import ClipDataset
from skd_edge.distill.prediction import predict
from skd_edge.execution.job_graph import JobFactory, TrainingJob, fingerprint_of, topological_order
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.execution.threads import configure_threads, count_parallel_jobs
from skd_edge.labels.dataset import TrainingData, load_training_data
from skd_edge.models.builder import AnyNetwork
from skd_edge.recipe.loader import load_recipe, resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.run_files.work_lock import lock_work
from skd_edge.run_folder import Run, open_cache
from skd_edge.schedule.job_seconds import Paces, estimate_paced_seconds, time_jobs, timing_key

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


def make_recipe(data: str, noise: str, row: Row, seed: int) -> Recipe:
    """The recipe of a row in a column."""
    column = CLEAN.get(noise, NOISE["clean"]) if row.clean else NOISE[noise]
    recipe = load_recipe(RECIPES[data], [f"seed={seed}", *column, *row.sets])
    times = {"teacher_epochs": row.stretch * row.teacher, "epochs": row.stretch * row.student}
    epochs = {key: round(by * getattr(recipe.training, key)) for key, by in times.items()}
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=epochs)})


def pace_rows(rows: Iterable[tuple[str, str, str, int]]) -> Paces:
    """Time steps of each kind of job that the rows (data, noise, name, seed) need; call it when nothing else runs."""
    paces = Paces()
    for data, noise, name, seed in rows:
        recipe = make_recipe(data, noise, find_row(name), seed)
        configure_threads(recipe.training.threads)
        training_data = load_training_data(recipe, open_cache())
        jobs = list_jobs(recipe, training_data, find_row(name))
        new = [job for job in jobs if timing_key(job) not in paces]
        paces |= time_jobs(recipe, new, training_data.clips.classes)
    return paces


def list_jobs(recipe: Recipe, training_data: TrainingData, row: Row) -> list[TrainingJob]:
    """The jobs that a row needs, teachers first; the last one trains the network that is evaluated."""
    return topological_order([row.build_job(JobFactory(recipe, fingerprint_of(training_data)), recipe.students[0])])


def measure(data: str, noise: str, row: Row, seed: int, runs: Path, paces: Paces) -> Json:
    """Train what a row needs, and evaluate its network on the test clips."""
    recipe = make_recipe(data, noise, row, seed)
    training_data = load_training_data(recipe, open_cache())
    with Run(runs / f"{data}-{noise}-{row.name.replace(' ', '_')}-{seed}", resolved_yaml(recipe)) as run:
        executor = LocalExecutor(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1])
        jobs = list_jobs(recipe, training_data, row)
        job, finished = jobs[-1], []
        for needed in jobs:
            with lock_work(run.cache / "locks" / needed.hash, wait=True):  # rows beside this one may need it too
                finished.append(executor.train_job(needed))
        splits = {"train": len(training_data.clips.train), "val": len(training_data.clips.val)}
        seconds = estimate_paced_seconds(jobs, paces, splits)
        return score_student(recipe, training_data, executor, job) | {
            "data": data,
            "noise": noise,
            "row": row.name,
            "seed": seed,
            "val": finished[-1].accuracy,
            "job": job.hash,
            "student_seconds": round(seconds[-1], 1),
            "student_epochs": job.spec.epochs,
            "seconds": round(sum(seconds), 1),
            "paced": True,
            "device": read_device_info()["cpu"],
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }


def find_row(name: str) -> Row:
    """The row with this name."""
    return next(row for row in (*ROWS, *THESIS, *TRIALS) if row.name == name)


def measure_in_process(data: str, noise: str, name: str, seed: int, runs: Path, paces: Paces) -> Json:
    """`measure` in a process of the pool; rows go by their names, because their builders cannot be pickled."""
    began = time.monotonic()
    configure_threads(make_recipe(data, noise, find_row(name), seed).training.threads)
    return measure(data, noise, find_row(name), seed, runs, paces) | {
        "wall_seconds": round(time.monotonic() - began, 1)
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
    """Test accuracy, macro-F1, balanced accuracy where classes are unequal, and the correct clips as packed bits."""
    labels, predicted = clips.test.labels, predict(network, clips.test.unseal(), preprocess).argmax(1)
    correct = predicted == labels
    balanced = {"balanced": compute_metric_value("balanced", labels, predicted)} if has_unequal_classes(labels) else {}
    return {
        "test": float(correct.mean()),
        "macro_f1": compute_metric_value("macro-f1", labels, predicted),
        **balanced,
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
    parser.add_argument("--jobs", type=int, default=count_parallel_jobs(1), help="rows at the same time")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/method")
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    options = parser.parse_args()
    sets = {"all": ROWS, "thesis": THESIS, "trials": TRIALS}
    named = {word: tuple(r.name for r in rows) for word, rows in sets.items()} | {"core": CORE}
    names = named.get(options.rows[0], tuple(options.rows))
    have = {(r["data"], r["noise"], r["row"], r["seed"]) for r in load_rows()}
    todo = [  # rows of one column share their teacher: its columns and seeds come one after the other
        (data, noise, name, seed)
        for name in ([] if options.tables else names)
        for seed in options.seeds
        for data in options.data
        for noise in options.noise
        if (data, noise, name, seed) not in have
    ]
    for data, noise, name, seed in todo:  # rendered and decoded once, before several processes need them
        load_training_data(make_recipe(data, noise, find_row(name), seed), open_cache())
    paces = pace_rows(todo)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        rows = [pool.submit(measure_in_process, *one, options.runs, paces) for one in todo]
        try:
            for number, finished in enumerate(as_completed(rows), 1):
                row = finished.result()
                append_row(row)
                what = f"{row['data']} {row['noise']} seed {row['seed']} {row['row']}"
                print(f"{number}/{len(todo)} {what}: {100 * row['test']:.1f} ({row['wall_seconds']:.0f} s)", flush=True)
        except BaseException:  # the other rows are not begun; those that are being trained finish, or continue later
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    write_tables(load_rows(), ROOT / "docs/method_study.md")


if __name__ == "__main__":
    main()
