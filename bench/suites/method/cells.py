"""Runs the study with a few checked clips: every row of every cell; `--plan` prints the hours.

    python -m bench.suites.method.cells --cells generated-trials-10 --processes 2    # first: tuning trials
    HUMAN_MOTION=... LIP_WORDS=... python -m bench.suites.method.cells --processes 2    # all that is missing
    python -m bench.suites.method.cells --plan              # hours of each cell, from paced steps; trains nothing
    python -m bench.suites.method.cells --cells human_motion-model-10 --rows CFT KD --seeds 0
    python -m bench.suites.method.cells --table                     # means so far

Resumable: finished rows are in bench/results/method_ground.jsonl, one line each; finished jobs are in the cache; an
interrupted training continues from its last epoch (that of DivideMix begins again). A line names device, seed and
commit; ``changed`` says whether the working tree had other changes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.suites.method.baselines.study import make_study
from bench.suites.method.ground import GROUND_ROWS, LEADERS, TRIALS, GroundRow, choose_factor, find_ground_row
from bench.suites.method.instance_noise import add_instance_noise
from bench.suites.method.run import score_network
from skd_bench.device.info import read_device_info
from skd_bench.errors import UserError
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.trainer import Trainer, TrainingInputs
from skd_edge.execution.job_graph import JobFactory, fingerprint_of
from skd_edge.execution.threads import configure_threads
from skd_edge.labels.dataset import TrainingData, load_training_data
from skd_edge.recipe.loader import load_recipe, resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, open_cache

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "bench/results/method_ground.jsonl"
RECIPES = {
    "generated": "quickstart",
    "human_motion": "human_motion",
    "lip_words": str(Path(__file__).with_name("lip_words.yaml")),
}
FOLDS = 5
Json = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One data set with one kind of labels.

    Attributes:
        name: its name.
        data: a key of `RECIPES`.
        sets: settings of its labels, as in ``--set``.
        rows: names of its rows.
        seeds: its seeds; for lip_words also the number of the fold that is tested on.
        instances: rate of the noise of `instance_noise`, which no recipe has any more; 0: that of the recipe.
    """

    name: str
    data: str
    sets: tuple[str, ...]
    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    instances: float = 0.0


def _noise(kind: str, rate: float, checked: int, *more: str) -> tuple[str, ...]:
    return (
        f"labels.noise.kind={kind}",
        f"labels.noise.rate={rate}",
        f"labels.trusted_per_class={checked}",
        *more,
    )


_ALL = tuple(row.name for row in GROUND_ROWS)
_BOUNDS = ("weak only", "clean labels")
_LEADING = ("CFT, then KD", "three lines, then the method", "KD", "the method")
# Motion energy says less about these motions than about people, so the weak model is right on 55 %, and has more clips.
_GENERATED = ("data.train=2250", "labels.noise.held_out=0.2")

# Its validation accuracies select the factor of each row in all other cells.
TRIAL_CELL = Cell(
    "generated-trials-10",
    "generated",
    _noise("model", 0.45, 10, *_GENERATED),
    tuple(row.name for row in TRIALS),
    (0, 1),
)
CELLS = (
    Cell("human_motion-model-10", "human_motion", _noise("model", 0.4, 10), _ALL, (0, 1, 2, 3, 4)),
    Cell("human_motion-model-30", "human_motion", _noise("model", 0.4, 30), _LEADING, (0, 1, 2, 3, 4)),
    Cell("human_motion-model-0", "human_motion", _noise("model", 0.4, 0), ("KD", "the method"), (0, 1, 2, 3, 4)),
    Cell("generated-model-10", "generated", _noise("model", 0.45, 10, *_GENERATED), _ALL, (0, 1, 2)),
    Cell(
        "lip_words-model-10",
        "lip_words",
        _noise("model", 0.6, 10, "labels.noise.held_out=0.3"),
        (*_BOUNDS, "CFT, then KD", "three lines, then the method", "FixMatch", "KD", "the method"),
        (0, 1, 2),
    ),
    Cell("human_motion-rules-10", "human_motion", _noise("keyword-rules", 0.4, 10), (*_BOUNDS, *_LEADING), (0, 1)),
    Cell(
        "human_motion-leaders-10",
        "human_motion",
        _noise("model", 0.4, 10),
        tuple(row.name for row in LEADERS),
        (0, 1, 2, 3, 4),
    ),
    TRIAL_CELL,
    # The noise that `model` replaced: published once beside it.
    Cell(
        "human_motion-instances-0",
        "human_motion",
        ("labels.noise.kind=none",),
        ("weak only", "KD", "the method"),
        (0,),
        instances=0.4,
    ),
)


def load_cell(cell: Cell, row: GroundRow, seed: int) -> tuple[Recipe, TrainingData]:
    """The recipe of a row, and its clips and labels (with true labels, which no row sees)."""
    sets = [f"seed={seed}", *cell.sets]
    if cell.data == "lip_words":
        folds = [(seed + n) % FOLDS for n in range(FOLDS)]
        parts = {"test": folds[:1], "val": folds[1:2], "train": folds[2:]}
        sets += [f"data.{part}={json.dumps({'fold': [str(f) for f in fold]})}" for part, fold in parts.items()]
    if row.clean:  # the same clips: those that the weak model was fitted on stay held out
        sets.append("labels.noise.rate=0")
        sets += ["labels.noise.abstain=0", "labels.noise.conflicts=0"] if "keyword-rules" in cell.sets[0] else []
    recipe = load_recipe(RECIPES[cell.data], sets)
    training = recipe.training
    epochs = {key: round(row.stretch * getattr(training, key)) for key in ("teacher_epochs", "epochs")}
    if row.setting == "training.rate":
        epochs["rate"] = min(row.factor * training.rate, 1.0)
    if row.setting == "training.losses.logits":
        epochs["losses"] = training.losses.model_copy(update={"logits": row.factor * training.losses.logits})
    recipe = recipe.model_copy(update={"training": training.model_copy(update=epochs)})
    data = load_training_data(recipe, open_cache())
    return recipe, add_instance_noise(data, cell.instances, seed) if cell.instances else data


def measure(cell: Cell, row: GroundRow, seed: int, runs: Path) -> Json:
    """Train a row, and evaluate its network on the test clips."""
    recipe, data = load_cell(cell, row, seed)
    name = f"{cell.name}-{row.name}-{seed}".replace(" ", "_").replace(",", "")
    with Run(runs / name, resolved_yaml(recipe)) as run:
        study = make_study(recipe, data, run, 1.0 if row.setting else row.factor)
        outcome = row.train(study)
        truth = data.clips.train.labels if data.truth is None else data.truth
        checked = np.zeros(len(truth), bool) if data.trusted is None else data.trusted
        scores = score_network(outcome.network, data.clips, inference_preprocessing(recipe.clip)[1])
    labels = {} if outcome.labels is None else {"labels": float((outcome.labels == truth)[~checked].mean())}
    return {
        "cell": cell.name,
        "row": row.name,
        "seed": seed,
        "factor": row.factor,
        "val": outcome.accuracy,
        **scores,
        **labels,
        "labels_before": float((data.weak_labels == truth)[~checked].mean()),
        "checked": int(checked.sum()),
        "train": len(truth),
        "student_epochs": outcome.epochs,
        "seconds": round(outcome.seconds, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


# ------------------------------------------------------------------------------------------ all cells
Missing = tuple[Cell, tuple[str, ...], int]  # rows of a cell and a seed


def read_results() -> list[Json]:
    """All rows so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def find_tuned_row(name: str) -> GroundRow:
    """The row with the factor that its tuning trials select.

    Raises:
        UserError: Trials are missing.
    """
    row = find_ground_row(name)
    trials = {(r["row"], r["seed"]): r["val"] for r in read_results() if r["cell"] == TRIAL_CELL.name}
    try:
        return replace(row, factor=choose_factor(row, trials, TRIAL_CELL.seeds))
    except UserError as e:
        command = f"python -m bench.suites.method.cells --cells {TRIAL_CELL.name}"
        raise UserError(f"{e}: run `{command}` first") from None


def list_missing(cells: Sequence[Cell], rows: Sequence[str], seeds: Sequence[int]) -> list[Missing]:
    """The missing rows of each cell and seed, seed by seed; empty ``rows`` or ``seeds`` mean all of the cell."""
    have = {(r["cell"], r["row"], r["seed"]) for r in read_results()}
    missing = []
    for seed in sorted({s for cell in cells for s in cell.seeds}):
        for cell in cells:
            if seed in cell.seeds and (not seeds or seed in seeds):
                names = [n for n in cell.rows if (not rows or n in rows) and (cell.name, n, seed) not in have]
                missing += [(cell, tuple(names), seed)] if names else []
    return missing


def run_missing(cell: Cell, rows: Iterable[str], seed: int, runs: Path, stamp: Json) -> int:
    """Measure rows one after the other, and append each; its jobs are shared through the cache.

    Returns:
        The number of rows that failed. Each is reported at once; it stays missing.
    """
    configure_threads(1)
    failed = 0
    for name in rows:
        began = time.monotonic()
        try:
            result = measure(cell, find_tuned_row(name), seed, runs) | stamp
        except Exception as e:  # whatever stops one row, the others can still be measured
            failed += 1
            origin = "" if isinstance(e, UserError) else traceback.format_exc()
            print(f"{cell.name} seed {seed} {name}: failed: {e}\n{origin}", file=sys.stderr, flush=True)
            continue
        with RESULTS.open("a") as file:  # one write, so that several processes can append
            file.write(json.dumps(result) + "\n")
        labels = f", labels {100 * result['labels']:.1f}" if "labels" in result else ""
        seconds = time.monotonic() - began
        print(f"{cell.name} seed {seed} {name}: {100 * result['test']:.1f}{labels} ({seconds:.0f} s)", flush=True)
    return failed


def run_all(missing: Sequence[Missing], processes: int, runs: Path) -> int:
    """Measure all rows; returns the number of rows that failed. Without their tuning trials, nothing is begun."""
    for _, names, _ in missing:
        for name in names:
            find_tuned_row(name)
    if processes > 1:
        return run_in_processes(missing, processes, runs, describe_origin())
    return sum(run_missing(*one, runs, describe_origin()) for one in missing)


def run_in_processes(missing: Sequence[Missing], processes: int, runs: Path, stamp: Json) -> int:
    """`run_missing` in so many processes; Ctrl-C stops all of them. Returns the number of rows that failed."""
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(run_missing, *one, runs, stamp) for one in missing]
        try:
            return sum(future.result() for future in as_completed(futures))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():  # else each would train its whole cell first
                process.terminate()
            raise


def describe_origin() -> Json:
    """Device and commit of the rows that this process measures."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout

    changed = git("status", "--porcelain", "--", "skd_edge", "bench/suites/method")
    device = read_device_info()
    return {
        "device": device["cpu"],
        "cores": device["cores"],
        "commit": git("rev-parse", "HEAD").strip(),
        "changed": bool(changed.strip()),
    }


# ------------------------------------------------------------------------------------------ plan and table
def pace_steps(cell: Cell) -> tuple[float, float]:
    """Seconds of a whole training of the student and of the teacher in a cell, from a few steps of each."""
    recipe, data = load_cell(cell, find_ground_row("clean labels"), cell.seeds[0])  # their labels need no weak model
    factory, preprocess = JobFactory(recipe, fingerprint_of(data)), inference_preprocessing(recipe.clip)[1]
    targets = np.eye(len(data.clips.classes), dtype=np.float32)[np.maximum(data.weak_labels, 0)]
    found = []
    for job in (factory.make_labels_only_job(recipe.students[0]), factory.make_plain_teacher_job()):
        trainer = Trainer(job.spec, TrainingInputs(data.clips, targets, preprocess), Path("unused"))
        trainer.learner.train()
        rows = np.arange(recipe.training.batch)
        times = []
        for _ in range(12):
            began = time.perf_counter()
            trainer.train_step(rows, 0, None)
            times.append(time.perf_counter() - began)
        found.append(float(np.median(times[2:])) * trainer.total_steps)
    return found[0], found[1]


def print_plan(missing: Sequence[Missing], processes: int) -> None:
    """Print the hours of each cell that has missing rows."""
    total, paces = 0.0, dict[str, tuple[float, float]]()
    for cell in dict.fromkeys(cell for cell, _, _ in missing):
        student, teacher = paces[cell.data] if cell.data in paces else paces.setdefault(cell.data, pace_steps(cell))
        rows = [find_ground_row(n) for one, names, _ in missing if one == cell for n in names]
        seconds = sum(r.stretch * (r.student_steps * student + r.teacher_steps * teacher) for r in rows)
        total += seconds
        print(
            f"{cell.name}: {len(rows)} rows, {seconds / 3600:.1f} h on one core (student {student:.0f} s, teacher "
            f"{teacher:.0f} s alone)",
            flush=True,
        )
    print(f"in all {total / 3600:.1f} h on one core, about {total / 3600 / processes:.1f} h in {processes} processes")


def print_table(cells: Sequence[Cell]) -> None:
    """Print the mean of each row over its seeds so far, without intervals: they belong to docs/method_study.md."""
    results = read_results()
    for cell in cells:
        for name in cell.rows:
            found = [r for r in results if (r["cell"], r["row"]) == (cell.name, name)]
            if found:
                labels = [r["labels"] for r in found if "labels" in r]
                right = (
                    f", labels {100 * found[0]['labels_before']:.1f} -> {100 * np.mean(labels):.1f}" if labels else ""
                )
                test, val = (100 * float(np.mean([r[key] for r in found])) for key in ("test", "val"))
                seconds = float(np.median([r["seconds"] for r in found]))
                scores = f"test {test:.1f} | val {val:.1f}{right} | {seconds:.0f} s | {len(found)} seeds"
                print(f"{cell.name} | {name} | {scores}")


def main() -> None:
    """Train what is missing, or print the plan or the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [cell.name for cell in CELLS]
    parser.add_argument("--cells", nargs="+", default=names, choices=names)
    parser.add_argument("--rows", nargs="+", default=[], help="default: all rows of the cells")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="default: all seeds of the cells")
    parser.add_argument("--processes", type=int, default=1, help="each trains other cells or seeds, in one thread")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/method_ground")
    parser.add_argument("--plan", action="store_true", help="only print how long the missing rows take")
    parser.add_argument("--table", action="store_true", help="only print the means so far")
    options = parser.parse_args()
    cells = [cell for cell in CELLS if cell.name in options.cells]
    missing, failed = list_missing(cells, options.rows, options.seeds), 0
    if options.table:
        print_table(cells)
    elif options.plan:
        configure_threads(1)
        print_plan(missing, options.processes)
    else:
        try:
            failed = run_all(missing, options.processes, options.runs)
        except UserError as e:
            sys.exit(str(e))
    if failed:
        sys.exit(f"{failed} row(s) failed, see above; the same command measures them again")


if __name__ == "__main__":
    main()
