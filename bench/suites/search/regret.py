"""Is the search worth it? Successive halving against training every cascade, on a space of the quickstart's size.

    python -m bench.suites.search.regret --seeds 0 1 2 --threads 1 --runs DIR

Two assistants, six students, four cascades each: 24 leaves, whose common beginnings are trained once. For each seed all
of them are trained, and then the search is run over the same cache: its legs at the end are the same legs, its rungs
are trained for real, and its cost is the training seconds of every leg that it asked for, cached or not. A leg's
seconds are its epochs times the median seconds an epoch of its network took in all legs of that seed, so that a busy
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
from skd_edge.distill.trainer import predict
from skd_edge.evaluation.evaluator import Scale
from skd_edge.execution.executors import use_threads
from skd_edge.execution.job_graph import Legs, Node, grow, in_order
from skd_edge.execution.local_executor import Finished, LocalEngine
from skd_edge.labels.dataset import Material, deployed_view, gather
from skd_edge.pipeline.console import Screen
from skd_edge.pipeline.plan import facts_of
from skd_edge.pipeline.stages.benchmark_untrained import p50, weigh_random
from skd_edge.recipe.loader import load_recipe, resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, cache_root
from skd_edge.schedule.candidates import TEACHER
from skd_edge.schedule.selection import Measured, decide
from skd_edge.schedule.successive_halving import Search, rung

ROOT = Path(__file__).resolve().parents[3]
RESULTS, TABLE = ROOT / "bench/results/regret.jsonl", ROOT / "docs/regret.md"
SPACE = [
    "assistants=[{name: wide, family: resnet, width: 12}, {name: narrow, family: resnet, width: 8}]",
    "students=[{name: m6, width: 6}, {name: m10, width: 10}, {name: m14, width: 14}, {name: m20, width: 20}, "
    "{name: r6, family: resnet, width: 6}, {name: r10, family: resnet, width: 10}]",
    "schedule={search: halving, controls: []}", "export.precisions=[fp32]", "choice.budget=4 x teacher",
]  # fmt: skip
DRAWS = 500
Row = dict[str, Any]


class Study:
    """One seed: everything trained, then searched.

    Args:
        recipe: the space, to be halved.
        run: where legs are kept.
        screen: progress.
    """

    def __init__(self, recipe: Recipe, run: Run, screen: Screen) -> None:
        self.recipe, self.run, self.screen = recipe, run, screen
        self.material: Material = gather(recipe, cache_root())
        self.engine = LocalEngine(run, self.material, recipe.labels, deployed_view(recipe.clip)[1])
        self.legs = Legs(recipe, facts_of(self.material))
        scale = Scale(recipe, self.material.clips.classes, run.folder / "artefacts")
        random = weigh_random(recipe, run, scale, screen)
        self.ms = {s.name: p50(random[f"{s.name} fp32"]) for s in recipe.students}
        self.budget = recipe.choice.budget_ms(p50(random[TEACHER]))
        self.done: dict[str, Finished] = {}
        self.pace: dict[str, float] = {}

    def train(self, nodes: Iterable[Node]) -> dict[str, Finished]:
        """Train what is not finished; all of these by hash."""
        nodes = list(nodes)
        for node in nodes:
            if node.hash not in self.done:
                self.done[node.hash] = leg = self.engine.train(node)
                self.screen.say(f"{node.leg.name} ({node.leg.role}): {leg.accuracy:.1%}, {leg.seconds:.0f} s")
        return {n.hash: self._at_pace(self.done[n.hash]) for n in nodes}

    def _at_pace(self, leg: Finished) -> Finished:
        """With the seconds that its epochs take at its network's own pace, once that is known."""
        name = leg.node.leg.learner.name
        return replace(leg, seconds=self.pace[name] * leg.node.leg.epochs) if name in self.pace else leg

    def _settle(self) -> None:
        """From the legs so far, all of them whole: how long an epoch of each network takes."""
        by: dict[str, list[float]] = {}
        for leg in self.done.values():
            by.setdefault(leg.node.leg.learner.name, []).append(leg.seconds / leg.node.leg.epochs)
        self.pace = {name: median(each) for name, each in by.items()}
        self.done = {h: self._at_pace(leg) for h, leg in self.done.items()}

    def row(self) -> Row:
        """What the seed says."""
        leaves = {
            n.leg.path: n for n in grow(self.recipe, self.legs.facts, self.recipe.students) if n.leg.role == "student"
        }
        self.train(in_order(leaves.values()))
        self._settle()
        search = Search(self.legs, self.recipe.students, self.ms, self.material.clips.val.groups, self.run.journal)
        asked: dict[str, Finished] = {}
        steps = search.steps()
        tree = next(steps)
        while True:
            asked |= (done := self.train(tree))
            try:
                tree = steps.send(done)
            except StopIteration:
                break
        test = {path: self._test(node) for path, node in leaves.items()}
        spent = sum(f.seconds for f in asked.values())
        full = self._seconds(leaves.values())
        direct = [p for p in leaves if len(p) == 2]
        tried = [p for p, n in leaves.items() if n.hash in asked]
        cheapest = min(direct, key=lambda p: self.ms[p[-1]])
        best = self._choose(leaves, leaves)
        share = self.recipe.schedule.rungs[0]
        at = {p: self.done[rung(leaves[p], share).hash].accuracy for p in direct}
        ways = {
            "search": self._choose(tried, leaves),
            "always cheapest": cheapest,
            "always direct": self._choose(direct, leaves),
        }
        return {
            "seed": self.recipe.seed, "exhaustive": ">".join(best), "seconds": full, "share": spent / full,
            "test": {">".join(p): test[p] for p in leaves}, "ms": self.ms,
            "validation": {">".join(p): self.done[n.hash].accuracy for p, n in leaves.items()},
            "rung": {">".join(p): a for p, a in at.items()},
            "tau": float(kendalltau([at[p] for p in direct], [self.done[leaves[p].hash].accuracy for p in direct])[0]),
            "chosen": {way: ">".join(p) for way, p in ways.items()},
            "regret": {way: 100 * (test[best] - test[p]) for way, p in ways.items()}
            | {"random, equal seconds": self._random(leaves, spent, test, best)},
            "share_direct": self._seconds([leaves[p] for p in direct]) / full,
            "pruned": {">".join(p): why for p, why in search.pruned.items()},
        }  # fmt: skip

    def _choose(self, among: Iterable[tuple[str, ...]], leaves: dict[tuple[str, ...], Node]) -> tuple[str, ...]:
        measured = []
        for path in among:
            leg = self.done[leaves[path].hash]
            measured.append(Measured(">".join(path), self.ms[path[-1]], leg.accuracy, leg.correct, 0.0, 0.0))
        chosen = decide(measured, self.recipe.choice, self.budget, self.material.clips.val.groups).chosen
        if chosen is None:
            raise SystemExit("no student is within the budget: the space is not what this study is about")
        return tuple(chosen.split(">"))

    def _random(self, leaves: dict[tuple[str, ...], Node], seconds: float, test: dict[Any, float], best: Any) -> float:
        """Mean regret of leaves drawn at random until the seconds are spent; one is always trained."""
        rng, lost = np.random.default_rng(self.recipe.seed), []
        for _ in range(DRAWS):
            order, tried = [list(leaves)[i] for i in rng.permutation(len(leaves))], list[Any]()
            for path in order:
                if tried and self._seconds([leaves[p] for p in (*tried, path)]) > seconds:
                    break
                tried.append(path)
            lost.append(100 * (test[best] - test[self._choose(tried, leaves)]))
        return float(np.mean(lost))

    def _seconds(self, nodes: Iterable[Node]) -> float:
        return sum(self.done[h].seconds for h in {n.hash for n in in_order(nodes)})

    def _test(self, node: Node) -> float:
        test = self.material.clips.test
        logits = predict(self.engine.network(node), test, self.engine.preprocess)
        return float((logits.argmax(1) == test.labels).mean())


def table(rows: Sequence[Row]) -> str:
    """The page, from the committed rows."""
    ways = list(rows[0]["regret"])

    def mean(values: Sequence[float], form: str = "{:.2f}") -> str:
        if len(values) < 2:
            return form.format(values[0])
        at = mean_interval(values)
        return f"{form.format(at.value)} [{form.format(at.low)}, {form.format(at.high)}]"

    lines = [
        "# What the search costs and loses", "",
        f"Written by `bench/suites/search/regret.py`, from {len(rows)} seed(s): the quickstart's data and teacher, two "
        "assistants, six students, 24 cascades.", "",
        "Regret: test accuracy of what exhaustive training chooses, less that of what this way chooses, in points; by "
        "the same rule, on the same validation clips. Below 0: the way was luckier. The rules of the search (rungs of "
        "a quarter, assistants to their end) were settled on seeds 0 and 1; the others are fresh.", "",
        "| way | regret, points | share of the training seconds of all cascades |", "|---|---|---|",
    ]  # fmt: skip
    shares = {"search": "share", "always direct": "share_direct", "random, equal seconds": "share"}
    for way in ways:
        share = mean([r[shares[way]] for r in rows], "{:.0%}") if way in shares else "one student's"
        lines.append(f"| {way} | {mean([r['regret'][way] for r in rows])} | {share} |")
    lines += ["", f"Kendall's tau of validation accuracy at the rung against the end, six students: "
              f"{mean([r['tau'] for r in rows])}. Intervals: 95 %, bootstrap over seeds.", ""]  # fmt: skip
    return "\n".join(lines)


def rows_there() -> list[Row]:
    """Committed rows, one a seed."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/regret")
    given = parser.parse_args()
    use_threads(given.threads)
    from rich.console import Console

    for seed in given.seeds:
        if any(row["seed"] == seed for row in rows_there()):
            continue
        recipe = load_recipe("quickstart", [*SPACE, f"seed={seed}"])
        with Run(given.runs / str(seed), resolved_yaml(recipe)) as run:
            row = Study(recipe, run, Screen(Console())).row()
        rows = sorted([*rows_there(), row], key=lambda r: int(r["seed"]))
        write_atomic(RESULTS, "".join(json.dumps(r) + "\n" for r in rows))
    if rows := rows_there():
        write_atomic(TABLE, table(rows))
        print(table(rows))


if __name__ == "__main__":
    main()
