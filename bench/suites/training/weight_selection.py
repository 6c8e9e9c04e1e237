"""Which weights of a training generalise best on a small set: ``training.select`` compared over folds.

    UT_INTERACTION=... python -m bench.suites.training.weight_selection [--seeds 3]

Each fold of UT-Interaction at 64 pixels is tested on once; the next fold validates, the other three train. The student
of recipes/camera_ut.yaml is trained on its labels once for each fold and seed, and every rule selects from that one
training, so that the rules differ in nothing else. ``last`` is the end of the training without any selection.

Resumable: the predictions of each training are in runs/weight_selection. When they are complete or interrupted, the
summary is written to bench/results/weight_selection.json, which has figures only.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from skd_bench.files import write_json
from skd_bench.metrics.class_averages import METRIC_NAMES, Metric, compute_metric, compute_metric_difference
from skd_bench.stats import Interval
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.trainer import Trainer, TrainingInputs, predict
from skd_edge.distill.weight_selection import WeightSelection
from skd_edge.execution.job_graph import JobFactory, fingerprint_of
from skd_edge.labels.dataset import load_training_data
from skd_edge.recipe.loader import load_recipe
from skd_edge.recipe.training import WeightRule
from skd_edge.run_folder import open_cache

ROOT = Path(__file__).resolve().parents[3]
RESULT, RUNS = ROOT / "bench/results/weight_selection.json", ROOT / "runs/weight_selection"
FOLDS = 5
LAST = "last"
RULES: tuple[WeightRule, ...] = get_args(WeightRule)
Json = dict[str, Any]


class ComparingTrainer(Trainer):
    """A training from which every rule selects its weights."""

    selections: dict[WeightRule, WeightSelection]

    def train_all_epochs(self) -> None:
        """Train all epochs, and let each rule select."""
        self.selections = dict.fromkeys(RULES, self.selection)
        with torch.random.fork_rng(devices=[]):
            for epoch in range(self.spec.epochs):
                self._run_epoch(epoch, time.perf_counter())
                weights, accuracy = self.ema_network.state_dict(), self.curve[-1]["accuracy"]
                rest = 1 - (epoch + 1) / self.spec.epochs
                self.selections = {
                    rule: one.add_epoch(rule, weights, accuracy, rest) for rule, one in self.selections.items()
                }

    def predict_by_rule(self) -> dict[str, Json]:
        """Validation accuracy and predictions on the test clips, for each rule."""
        last = {name: tensor.clone() for name, tensor in self.ema_network.state_dict().items()}
        found = {LAST: self._score(WeightSelection(last), "best")}
        return found | {rule: self._score(one, rule) for rule, one in self.selections.items()}

    def _score(self, selection: WeightSelection, rule: WeightRule) -> Json:
        self.selection = selection
        self.spec = replace(self.spec, training=self.spec.training.model_copy(update={"select": rule}))
        self._load_selected_weights()
        test = predict(self.ema_network, self.clips.test.unseal(), self.preprocess)
        return {"validation": self._validate_ema_network(), "predictions": test.argmax(1).tolist()}


def measure(fold: int, seed: int) -> Json:
    """Train the student with one fold left out; labels, groups and predictions of its clips."""
    parts = [str((fold + n) % FOLDS) for n in range(FOLDS)]
    splits = {"test": parts[:1], "val": parts[1:2], "train": parts[2:]}
    sets = [f"seed={seed}", *(f"data.{split}={json.dumps({'fold': some})}" for split, some in splits.items())]
    recipe = load_recipe(str(ROOT / "recipes/camera_ut.yaml"), sets)
    data = load_training_data(recipe, open_cache())
    spec = JobFactory(recipe, fingerprint_of(data)).make_labels_only_job(recipe.students[0]).spec
    targets = np.eye(len(data.clips.classes), dtype=np.float32)[data.weak_labels]
    with tempfile.TemporaryDirectory() as folder:
        inputs = TrainingInputs(data.clips, targets, inference_preprocessing(recipe.clip)[1])
        trainer = ComparingTrainer(spec, inputs, Path(folder))
        trainer.train_all_epochs()
        rules = trainer.predict_by_rule()
    test = data.clips.test.unseal()
    return {
        "fold": fold,
        "seed": seed,
        "seconds": round(trainer.seconds, 1),
        "validation_clips": len(data.clips.val),
        "labels": test.labels.tolist(),
        "groups": [f"{fold}:{group}" for group in test.groups.tolist()],
        "rules": rules,
    }


def summarise(rows: Sequence[Json]) -> Json:
    """The metrics of each rule over all clips, and its paired difference to ``best``; intervals resample sequences.

    Args:
        rows: what `measure` returned for each fold and seed. A clip counts once for each seed.
    """
    labels, groups = np.concatenate([row["labels"] for row in rows]), [g for row in rows for g in row["groups"]]
    predictions = {rule: np.concatenate([row["rules"][rule]["predictions"] for row in rows]) for rule in (LAST, *RULES)}
    found: Json = {}
    for rule, predicted in predictions.items():
        validation = float(np.mean([row["rules"][rule]["validation"] for row in rows]))
        accuracy = float((predicted == labels).mean())
        found[rule] = {
            "validation_accuracy": round(validation, 4),
            "optimism_points": round(100 * (validation - accuracy), 1),
            **{metric: _round(compute_metric(metric, labels, predicted, groups)) for metric in METRIC_NAMES},
            "minus_best": {
                metric: _minus(metric, labels, predicted, predictions["best"], groups) for metric in METRIC_NAMES
            },
        }
    return {
        "set": "UT-Interaction, 5 folds by sequence, 64 pixels",
        "trainings": len(rows),
        "seeds": sorted({row["seed"] for row in rows}),
        "clips": len(labels) // len({row["seed"] for row in rows}),
        "sequences": len(set(groups)),
        "minutes": round(sum(row["seconds"] for row in rows) / 60, 1),
        "rules": found,
    }


def _minus(
    metric: Metric, labels: NDArray[np.int64], one: NDArray[np.int64], other: NDArray[np.int64], groups: list[str]
) -> list[float]:
    return _round(compute_metric_difference(metric, labels, one, other, groups))


def _round(interval: Interval) -> list[float]:
    return [round(value, 4) for value in (interval.value, interval.low, interval.high)]


def main() -> None:
    """Measure what is missing, then write and print the summary of the seeds that are complete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--summary", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    complete: list[Json] = []
    for seed in range(arguments.seeds):
        rows = []
        for fold in range(FOLDS):
            file = RUNS / f"{fold}-{seed}.json"
            if not file.exists() and not arguments.summary:
                write_json(file, measure(fold, seed))
                print(f"seed {seed}, fold {fold}: done", flush=True)
            rows += [json.loads(file.read_text(encoding="utf-8"))] if file.exists() else []
        if len(rows) == FOLDS:
            complete += rows
            write_json(RESULT, summarise(complete))
    if not complete:
        parser.error("no seed is complete; run without --summary")
    for rule, row in summarise(complete)["rules"].items():
        value, low, high = (100 * v for v in row["balanced"])
        change, least, most = (100 * v for v in row["minus_best"]["balanced"])
        print(f"{rule:10}{value:6.1f} [{low:.1f}, {high:.1f}] balanced; {change:+.1f} [{least:+.1f}, {most:+.1f}]")


if __name__ == "__main__":
    main()
