"""Is the search worth it? Successive halving against training every cascade, on a space of the quickstart's size.

    python -m bench.suites.search.regret --seeds 0 1 2 --threads 1 --runs DIR

Two assistants, six students, four cascades each: 24 leaves, whose common beginnings are trained once. For each seed all
of them are trained, and then the search is run over the same cache: its jobs at the end are the same jobs, its rungs
are trained for real, and its cost is the training seconds of every job that it asked for, cached or not. A job's
seconds are its epochs times the median seconds an epoch of its network took in all jobs of that seed, so that a busy
minute of the machine decides nothing. Milliseconds are those of the FP32 files with random weights. Every way of
searching chooses by the same rule on validation clips; what is compared is the accuracy of its choice on the test
clips. Random search draws leaves until the search's seconds are spent; its figure is the mean over 500 draws.
Interrupted, the same command goes on. Writes bench/results/regret.jsonl (a row a seed) and docs/regret.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from skd_bench.files import write_atomic
from skd_bench.stats import mean_interval
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.trainer import predict
from skd_edge.evaluation.evaluator import CandidateEvaluator
from skd_edge.execution.job_graph import (
    JobFactory,
    TrainingJob,
    build_recipe_job_graph,
    fingerprint_of,
    topological_order,
)
from skd_edge.execution.local_executor import JobResult, LocalExecutor
from skd_edge.execution.threads import configure_threads
from skd_edge.labels.dataset import TrainingData, load_training_data
from skd_edge.pipeline.console import RunConsole
from skd_edge.pipeline.stages.benchmark_untrained import benchmark_untrained, median_ms
from skd_edge.recipe.loader import load_recipe, resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, open_cache
from skd_edge.schedule.candidates import TEACHER_KEY
from skd_edge.schedule.selection import CandidateMetrics, select_candidate
from skd_edge.schedule.successive_halving import Search, truncate_job

ROOT = Path(__file__).resolve().parents[3]
RESULTS, TABLE = ROOT / "bench/results/regret.jsonl", ROOT / "docs/regret.md"
SPACE = [
    "assistants=[{name: wide, family: resnet, width: 12}, {name: narrow, family: resnet, width: 8}]",
    "students=[{name: m6, width: 6}, {name: m10, width: 10}, {name: m14, width: 14}, {name: m20, width: 20}, "
    "{name: r6, family: resnet, width: 6}, {name: r10, family: resnet, width: 10}]",
    "schedule={search: halving, controls: []}",
    "export.precisions=[fp32]",
    "choice.budget=4 x teacher",
]
DRAWS = 500
Row = dict[str, Any]


class Study:
    """One seed: everything trained, then searched.

    Args:
        recipe: the space, to be halved.
        run: where jobs are kept.
        console: progress.
    """

    def __init__(self, recipe: Recipe, run: Run, console: RunConsole) -> None:
        self.recipe, self.run, self.console = recipe, run, console
        self.training_data: TrainingData = load_training_data(recipe, open_cache())
        self.executor = LocalExecutor(run, self.training_data, recipe.labels, inference_preprocessing(recipe.clip)[1])
        self.job_factory = JobFactory(recipe, fingerprint_of(self.training_data))
        scale = CandidateEvaluator(recipe, self.training_data.clips.classes, run.folder / "artefacts")
        random = benchmark_untrained(recipe, run, scale, console)
        self.ms = {s.name: median_ms(random[f"{s.name} fp32"]) for s in recipe.students}
        self.budget = recipe.choice.budget_ms(median_ms(random[TEACHER_KEY]))
        self.done: dict[str, JobResult] = {}
        self.epoch_seconds: dict[str, float] = {}

    def train(self, jobs: Iterable[TrainingJob]) -> dict[str, JobResult]:
        """Train what is not finished; all of these by hash."""
        jobs = list(jobs)
        for job in jobs:
            if job.hash not in self.done:
                self.done[job.hash] = result = self.executor.train_job(job)
                self.console.log(f"{job.spec.name} ({job.spec.role}): {result.accuracy:.1%}, {result.seconds:.0f} s")
        return {n.hash: self._with_typical_seconds(self.done[n.hash]) for n in jobs}

    def _with_typical_seconds(self, result: JobResult) -> JobResult:
        """With the seconds that its epochs take at its network's own pace, once that is known."""
        name = result.job.spec.learner.name
        return (
            replace(result, seconds=self.epoch_seconds[name] * result.job.spec.epochs)
            if name in self.epoch_seconds
            else result
        )

    def _estimate_epoch_seconds(self) -> None:
        """From the jobs so far, all of them whole: how long an epoch of each network takes."""
        by: dict[str, list[float]] = {}
        for result in self.done.values():
            by.setdefault(result.job.spec.learner.name, []).append(result.seconds / result.job.spec.epochs)
        self.epoch_seconds = {name: median(each) for name, each in by.items()}
        self.done = {h: self._with_typical_seconds(result) for h, result in self.done.items()}

    def compute_row(self) -> Row:
        """What the seed says."""
        student_jobs = {
            n.spec.path: n
            for n in build_recipe_job_graph(self.recipe, self.job_factory.fingerprint, self.recipe.students)
            if n.spec.role == "student"
        }
        self.train(topological_order(student_jobs.values()))
        self._estimate_epoch_seconds()
        search = Search(
            self.job_factory, self.recipe.students, self.ms, self.training_data.clips.val.groups, self.run.record_event
        )
        requested: dict[str, JobResult] = {}
        steps = search.iter_job_batches()
        tree = next(steps)
        while True:
            requested |= (done := self.train(tree))
            try:
                tree = steps.send(done)
            except StopIteration:
                break
        test = {path: self._test_accuracy(job) for path, job in student_jobs.items()}
        spent = sum(f.seconds for f in requested.values())
        full = self._training_seconds(student_jobs.values())
        direct = [p for p in student_jobs if len(p) == 2]
        tried = [p for p, n in student_jobs.items() if n.hash in requested]
        cheapest = min(direct, key=lambda p: self.ms[p[-1]])
        best = self._choose(student_jobs, student_jobs)
        share = self.recipe.schedule.rungs[0]
        at = {p: self.done[truncate_job(student_jobs[p], share).hash].accuracy for p in direct}
        ways = {
            "search": self._choose(tried, student_jobs),
            "always cheapest": cheapest,
            "always direct": self._choose(direct, student_jobs),
        }
        return {
            "seed": self.recipe.seed,
            "exhaustive": ">".join(best),
            "seconds": full,
            "share": spent / full,
            "test": {">".join(p): test[p] for p in student_jobs},
            "ms": self.ms,
            "validation": {">".join(p): self.done[n.hash].accuracy for p, n in student_jobs.items()},
            "rung": {">".join(p): a for p, a in at.items()},
            "tau": float(
                kendalltau([at[p] for p in direct], [self.done[student_jobs[p].hash].accuracy for p in direct])[0]
            ),
            "chosen": {way: ">".join(p) for way, p in ways.items()},
            "regret": {way: 100 * (test[best] - test[p]) for way, p in ways.items()}
            | {"random, equal seconds": self._random_regret(student_jobs, spent, test, best)},
            "share_direct": self._training_seconds([student_jobs[p] for p in direct]) / full,
            "pruned": {">".join(p): why for p, why in search.pruned.items()},
        }

    def _choose(
        self, among: Iterable[tuple[str, ...]], student_jobs: dict[tuple[str, ...], TrainingJob]
    ) -> tuple[str, ...]:
        measured = []
        for path in among:
            result = self.done[student_jobs[path].hash]
            measured.append(
                CandidateMetrics(">".join(path), self.ms[path[-1]], result.accuracy, result.correct, 0.0, 0.0)
            )
        chosen = select_candidate(measured, self.recipe.choice, self.budget, self.training_data.clips.val.groups).chosen
        if chosen is None:
            raise SystemExit("no student is within the budget: the space is not what this study is about")
        return tuple(chosen.split(">"))

    def _random_regret(
        self, student_jobs: dict[tuple[str, ...], TrainingJob], seconds: float, test: dict[Any, float], best: Any
    ) -> float:
        """Mean regret of leaves drawn at random until the seconds are spent; one is always trained."""
        rng, regrets = np.random.default_rng(self.recipe.seed), []
        for _ in range(DRAWS):
            order, tried = [list(student_jobs)[i] for i in rng.permutation(len(student_jobs))], list[Any]()
            for path in order:
                if tried and self._training_seconds([student_jobs[p] for p in (*tried, path)]) > seconds:
                    break
                tried.append(path)
            regrets.append(100 * (test[best] - test[self._choose(tried, student_jobs)]))
        return float(np.mean(regrets))

    def _training_seconds(self, jobs: Iterable[TrainingJob]) -> float:
        return sum(self.done[h].seconds for h in {n.hash for n in topological_order(jobs)})

    def _test_accuracy(self, job: TrainingJob) -> float:
        test = self.training_data.clips.test
        logits = predict(self.executor.load_network(job), test, self.executor.preprocess)
        return float((logits.argmax(1) == test.labels).mean())


def table(rows: Sequence[Row]) -> str:
    """The page, from the committed rows."""
    ways = list(rows[0]["regret"])

    def mean(values: Sequence[float], template: str = "{:.2f}") -> str:
        if len(values) < 2:
            return template.format(values[0])
        at = mean_interval(values)
        return f"{template.format(at.value)} [{template.format(at.low)}, {template.format(at.high)}]"

    lines = [
        "# What the search costs and loses",
        "",
        f"Written by `bench/suites/search/regret.py`, from {len(rows)} seed(s): the quickstart's data and teacher, two "
        "assistants, six students, 24 cascades.",
        "",
        "Regret: test accuracy of what exhaustive training chooses, less that of what this way chooses, in points; by "
        "the same rule, on the same validation clips. Below 0: the way was luckier. The rules of the search (rungs of "
        "a quarter, assistants to their end) were settled on seeds 0 and 1; the others are fresh.",
        "",
        "| way | regret, points | share of the training seconds of all cascades |",
        "|---|---|---|",
    ]
    shares = {"search": "share", "always direct": "share_direct", "random, equal seconds": "share"}
    for way in ways:
        share = mean([r[shares[way]] for r in rows], "{:.0%}") if way in shares else "one student's"
        lines.append(f"| {way} | {mean([r['regret'][way] for r in rows])} | {share} |")
    lines += [
        "",
        f"Kendall's tau of validation accuracy at the rung against the end, six students: "
        f"{mean([r['tau'] for r in rows])}. Intervals: 95 %, bootstrap over seeds.",
        "",
    ]
    return "\n".join(lines)


def load_rows() -> list[Row]:
    """Committed rows, one a seed."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/regret")
    options = parser.parse_args()
    configure_threads(options.threads)
    from rich.console import Console

    for seed in options.seeds:
        if any(row["seed"] == seed for row in load_rows()):
            continue
        recipe = load_recipe("quickstart", [*SPACE, f"seed={seed}"])
        with Run(options.runs / str(seed), resolved_yaml(recipe)) as run:
            row = Study(recipe, run, RunConsole(Console())).compute_row()
        rows = sorted([*load_rows(), row], key=lambda r: int(r["seed"]))
        write_atomic(RESULTS, "".join(json.dumps(r) + "\n" for r in rows))
    if rows := load_rows():
        write_atomic(TABLE, table(rows))
        print(table(rows))


if __name__ == "__main__":
    main()
