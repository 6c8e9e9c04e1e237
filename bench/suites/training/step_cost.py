"""What a step of a leg costs beyond its network: losses, data, optimiser, as shares of the network's own time.

    python -m bench.suites.training.step_cost

Students of recipes/human_motion.yaml, taught by its teacher, on random clips of its size (a step's time depends on
shapes alone). The parts are timed in turns, so that a slow minute slows all of them. Writes
bench/results/step_cost.json and docs/step_cost.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import torch

from skd_bench.device.info import device_card
from skd_bench.files import write_atomic, write_json
from skd_edge.data.store.clip_store import Clips, ClipSet
from skd_edge.distill.job import Leg
from skd_edge.distill.losses.classification import soft_cross_entropy
from skd_edge.distill.teacher_outputs import TeacherCache
from skd_edge.distill.trainer import _Training, view_of
from skd_edge.execution.executors import use_threads
from skd_edge.labels.dataset import deployed_view
from skd_edge.models.tsm import build
from skd_edge.recipe.loader import load_recipe
from skd_edge.recipe.schema import Network, Recipe

ROOT = Path(__file__).resolve().parents[3]
RESULTS, TABLE = ROOT / "bench/results/step_cost.json", ROOT / "docs/step_cost.md"
CLASSES, CLIPS, WARM, GOAL = 10, 256, 3, 0.15


def leg_of(recipe: Recipe, learner: Network, **changes: object) -> Leg:
    """A student's leg with the recipe's settings; the names of its inputs do not matter here."""
    leg = Leg(
        learner=learner, role="student", path=(recipe.teacher.name, learner.name), teacher="t", start=None, targets="l",
        data="d", classes=CLASSES, clip=recipe.clip, augment=recipe.augment, training=recipe.training, epochs=1,
        weak=False, staged=True, seed=0,
    )  # fmt: skip
    return replace(leg, **changes)  # type: ignore[arg-type]  # keys are names of fields


def noise(recipe: Recipe) -> Clips:
    """Random clips of the stored size; one set stands for all splits."""
    rng = np.random.default_rng(0)
    clip = deployed_view(recipe.clip)[1]
    pixels = rng.integers(0, 256, (CLIPS, recipe.clip.frames, clip.height, clip.width, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, CLIPS)
    drawn = ClipSet(np.arange(CLIPS), pixels, labels, np.arange(CLIPS), tuple(map(str, range(CLIPS))), "noise")
    return Clips(tuple(map(str, range(CLASSES))), drawn, drawn, drawn, (), "")


def parts_of(recipe: Recipe, student: Network, folder: Path) -> dict[str, Callable[[], object]]:
    """What is timed: the network alone, one batch of data, a step on labels, and a step of the method."""
    clips, preprocess = noise(recipe), deployed_view(recipe.clip)[1]
    leg = leg_of(recipe, student)
    targets = np.random.default_rng(1).dirichlet(np.ones(CLASSES), CLIPS).astype(np.float32)
    shape = {"classes": CLASSES, "frames": recipe.clip.frames, "size": recipe.clip.size}
    teacher = TeacherCache(
        build(recipe.teacher, **shape, seed=1).eval(),
        lambda index, view: view_of(clips.train, index, view, leg, preprocess), CLIPS, folder / "teacher",
    )  # fmt: skip
    said = teacher.view(0)
    index = np.arange(recipe.training.batch)

    def training(leg: Leg, teacher: TeacherCache | None) -> _Training:
        made = _Training(leg, clips, targets, teacher, (), preprocess, folder / leg.hash, None, lambda row: None)
        made.learner.train()
        return made

    staged = training(leg, teacher)
    plain = training(leg_of(recipe, student, teacher=None, staged=False), None)
    clip = view_of(clips.train, index, 0, leg, preprocess).to(plain.device)
    labels = plain.targets[: len(index)]

    def network() -> None:
        logits = plain.learner(clip).logits
        plain.optimizer.zero_grad(set_to_none=True)
        assert logits is not None
        soft_cross_entropy(logits, labels).backward()
        _wait()

    def data() -> None:
        view_of(clips.train, index, 0, leg, preprocess).to(plain.device)
        _wait()

    def step(of: _Training, taught: bool) -> None:
        of.step = of.total - 1  # behind the curriculum: every substage, head and logits
        of._train_step(index, 0, said if taught else None)
        _wait()

    return {
        "network": network,
        "data": data,
        "plain step": lambda: step(plain, False),
        "staged step": lambda: step(staged, True),
    }


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def study(recipe: Recipe, student: Network, rounds: int) -> dict[str, object]:
    """Milliseconds of each part (median over rounds) and shares of the network's time, round by round."""
    with tempfile.TemporaryDirectory() as folder:
        parts = parts_of(recipe, student, Path(folder))
        times: dict[str, list[float]] = {name: [] for name in parts}
        for number in range(rounds + WARM):
            for name, part in parts.items():
                began = time.perf_counter()
                part()
                if number >= WARM:
                    times[name].append(1000 * (time.perf_counter() - began))
    over = {
        name: [t / n - 1 for t, n in zip(times[name], times["network"], strict=True)]
        for name in ("plain step", "staged step")
    }
    over["data"] = [d / n for d, n in zip(times["data"], times["network"], strict=True)]
    return {
        "student": student.name, "family": student.family, "width": student.width, "batch": recipe.training.batch,
        "rounds": rounds, "milliseconds": {name: round(median(t), 2) for name, t in times.items()},
        "over the network": {name: [round(q, 3) for q in quantiles(o, n=4)] for name, o in over.items()},
    }  # fmt: skip


def table(rows: list[dict[str, object]], card: dict[str, object], threads: int) -> str:
    """Markdown."""
    lines = [
        "# What a step costs",
        "",
        "`python -m bench.suites.training.step_cost`. Network: the student's forward, loss and backward. The other",
        "columns are shares of that time: reading and augmenting the batch; all that a step on labels adds (data,",
        "optimiser, average of the weights); all that a step of the method adds (also the teacher's kept answers, the",
        "losses, the projectors). Median over rounds of the ratio within a round, quartiles in brackets.",
        f"The goal for a step of the method is at most {GOAL:.0%}.",
        "",
        "| student | network, ms | data | step on labels adds | step of the method adds |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        over, ms = row["over the network"], row["milliseconds"]
        assert isinstance(over, dict)
        assert isinstance(ms, dict)
        cells = [
            f"{q2:.1%} ({q1:.1%} to {q3:.1%})"
            for q1, q2, q3 in (over[name] for name in ("data", "plain step", "staged step"))
        ]
        lines.append(
            f"| {row['student']} ({row['family']}, width {row['width']}) | {ms['network']} | {' | '.join(cells)} |"
        )
    return "\n".join(
        [
            *lines,
            "",
            f"Measured on {card.get('cpu', 'this machine')}, {threads} threads, torch {torch.__version__}.",
            "",
        ]
    )


def main() -> None:
    """Measure every student and the assistants, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--set", action="append", default=[], dest="sets", help="a setting of the recipe, as compress has it"
    )
    parser.add_argument("--only", nargs="*", help="names of networks; default: every student and assistant")
    given = parser.parse_args()
    use_threads(given.threads)
    recipe = load_recipe("human_motion", ["data.root=.", *given.sets])
    learners = [n for n in (*recipe.students, *recipe.assistants) if n.name in (given.only or recipe.networks)]
    rows = [study(recipe, learner, given.rounds) for learner in learners]
    card = device_card()
    write_json(RESULTS, {"device": card, "threads": given.threads, "rows": rows})
    write_atomic(TABLE, table(rows, card, given.threads))
    print(TABLE.read_text())


if __name__ == "__main__":
    main()
