"""What does the search save, and what does it cost? Compares successive halving with training every cascade.

    python -m bench.suites.search.regret --seeds 0 1 2 --runs DIR

The space has the quickstart's size: two assistants and six students, so four cascades for each student, 24 in total;
jobs that cascades share are trained once, and jobs that do not wait for each other beside each other. For each seed,
all cascades are trained, and then the search runs on the same cache. Its final jobs are therefore already there; the
jobs of its rungs are trained. Its cost is the training time of every job that it requested, cached or not. The seconds
of a job are its steps times a paced step, and its validation likewise: steps of each kind of job are timed before the
training, with nothing beside them. Milliseconds are those of the FP32 files with random weights.

Every strategy chooses by the same rule on validation clips; the accuracies of their choices on the test clips are
compared. Random search draws cascades until it has used as many seconds as the search; its number is the mean over 500
draws. Interrupted runs resume with the same command. Writes bench/results/regret.jsonl (one row for each seed) and
docs/regret.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from skd_bench.files import write_atomic
from skd_bench.stats import mean_interval
from skd_edge.distill.prediction import predict
from skd_edge.execution.job_graph import (
    JobFactory,
    TrainingJob,
    build_recipe_job_graph,
    fingerprint_of,
    topological_order,
)
from skd_edge.execution.job_results import JobResult
from skd_edge.labels.dataset import TrainingData, load_training_data
from skd_edge.pipeline.context import RunContext, RunOptions, open_run
from skd_edge.pipeline.stages.benchmark_untrained import measure_untrained
from skd_edge.recipe.loader import load_recipe
from skd_edge.run_folder import open_cache
from skd_edge.schedule.candidates import TEACHER_KEY, median_ms
from skd_edge.schedule.choice_metric import ChoiceMetric
from skd_edge.schedule.job_seconds import Paces, estimate_training_seconds, time_jobs, timing_key
from skd_edge.schedule.selection import CandidateMetrics, select_candidate
from skd_edge.schedule.successive_halving import Search, run_search, truncate_job

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
    """One seed: trains all cascades, then runs the search.

    Args:
        ctx: The run of a recipe with the search space.
    """

    def __init__(self, ctx: RunContext) -> None:
        self.recipe, self.run, self.console = ctx.recipe, ctx.run, ctx.console
        recipe, run = ctx.recipe, ctx.run
        self.training_data: TrainingData = load_training_data(recipe, open_cache())
        self.executor = ctx.make_executor(recipe, run, self.training_data)
        self.job_factory = JobFactory(recipe, fingerprint_of(self.training_data))
        random = measure_untrained(ctx, recipe).latency
        self.ms = {s.name: median_ms(random[f"{s.name} fp32"]) for s in recipe.students}
        self.budget = recipe.choice.budget_ms(median_ms(random[TEACHER_KEY]))
        val = self.training_data.clips.val
        self.metric = ChoiceMetric(recipe.choice.metric, val.labels, val.groups)
        self.done: dict[str, JobResult] = {}
        self.splits = {"train": len(self.training_data.clips.train), "val": len(self.training_data.clips.val)}
        self.paces = Paces()

    def train(self, jobs: Iterable[TrainingJob]) -> dict[str, JobResult]:
        """Train the jobs that are not finished; returns the results of all of them by hash."""
        jobs = list(jobs)
        new = {job.hash: job for job in jobs if job.hash not in self.done}
        for result in self.executor.train_all(list(new.values())):
            self.done[result.job.hash] = result = self._with_paced_seconds(result)
            spec = result.job.spec
            self.console.log(f"{spec.name} ({spec.role}): {result.accuracy:.1%}, {result.seconds:.0f} s")
        return {n.hash: self.done[n.hash] for n in jobs}

    def _pace(self, jobs: list[TrainingJob]) -> None:
        """Time steps of each kind of job; to be called before anything is trained."""
        self.paces = time_jobs(self.recipe, jobs, self.training_data.clips.classes)

    def _with_paced_seconds(self, result: JobResult) -> JobResult:
        times = self.paces[timing_key(result.job)]
        return replace(result, seconds=estimate_training_seconds(result.job.spec, times, self.splits))

    def compute_row(self) -> Row:
        """Train all cascades, run the search, and return the row of this seed."""
        student_jobs = {
            n.spec.path: n
            for n in build_recipe_job_graph(self.recipe, self.job_factory.fingerprint, self.recipe.students)
            if n.spec.role == "student"
        }
        jobs = topological_order(student_jobs.values())
        self._pace(jobs)
        self.train(jobs)
        search = Search(self.job_factory, self.recipe.students, self.ms, self.metric, self.run.record_event)
        results = run_search(search, lambda jobs: list(self.train(jobs).values()))
        requested = {result.job.hash: result for result in results}
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
                CandidateMetrics(
                    ">".join(path), self.ms[path[-1]], result.accuracy, result.predictions, result.accuracy, 0.0, 0.0
                )
            )
        chosen = select_candidate(measured, self.recipe.choice, self.budget, self.metric).chosen
        if chosen is None:
            raise SystemExit("no student is within the latency budget; raise choice.budget in SPACE")
        return tuple(chosen.split(">"))

    def _random_regret(
        self, student_jobs: dict[tuple[str, ...], TrainingJob], seconds: float, test: dict[Any, float], best: Any
    ) -> float:
        """Mean regret of cascades drawn at random until the seconds are used; at least one is always drawn."""
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
        test = self.training_data.clips.test.unseal()
        logits = predict(self.executor.load_network(job), test, self.executor.preprocess)
        return float((logits.argmax(1) == test.labels).mean())


def table(rows: Sequence[Row]) -> str:
    """Format the page from the committed rows."""
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
        "Regret is the test accuracy of the candidate that exhaustive training chooses, minus that of the candidate "
        "that this strategy chooses, in points. All strategies choose by the same rule on the same validation clips. A "
        "negative regret is possible by chance. The rules of the search (the first rung trains a quarter of the "
        "epochs; assistants are always trained completely) were decided on seeds 0 and 1; the other seeds are "
        "independent.",
        "",
        "| strategy | regret, points | share of the training seconds of all cascades |",
        "|---|---|---|",
    ]
    shares = {"search": "share", "always direct": "share_direct", "random, equal seconds": "share"}
    for way in ways:
        share = mean([r[shares[way]] for r in rows], "{:.0%}") if way in shares else "one student's"
        lines.append(f"| {way} | {mean([r['regret'][way] for r in rows])} | {share} |")
    lines += [
        "",
        f"Kendall's tau between validation accuracy at the rung and at the end of training, for six students: "
        f"{mean([r['tau'] for r in rows])}. Intervals: 95 %, bootstrap over seeds.",
        "",
    ]
    return "\n".join(lines)


def load_rows() -> list[Row]:
    """The committed rows, one for each seed."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, help="jobs at the same time; default: as many as there are cores for")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/regret")
    options = parser.parse_args()
    from rich.console import Console

    for seed in options.seeds:
        if any(row["seed"] == seed for row in load_rows()):
            continue
        recipe = load_recipe("quickstart", [*SPACE, f"seed={seed}"])
        with open_run(recipe, options.runs / str(seed), RunOptions(console=Console(), jobs=options.jobs)) as ctx:
            row = Study(ctx).compute_row()
        rows = sorted([*load_rows(), row], key=lambda r: int(r["seed"]))
        write_atomic(RESULTS, "".join(json.dumps(r) + "\n" for r in rows))
    if rows := load_rows():
        write_atomic(TABLE, table(rows))
        print(table(rows))


if __name__ == "__main__":
    main()
