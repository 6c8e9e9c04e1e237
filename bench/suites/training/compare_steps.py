"""Compares the training steps of two working trees, alternately, so that a busy machine slows both.

    git worktree add /tmp/before COMMIT
    python -m bench.suites.training.compare_steps /tmp/before .                         # the quickstart's networks
    python -m bench.suites.training.compare_steps /tmp/before . --only small --rounds 200

Each tree trains in a process of its own, in one thread, on random clips: the teacher on weak labels, the others by the
whole method. The processes take turns, one step each. The numbers are CPU milliseconds of a step, the fastest of all
rounds, and the ratio within a round: its median and quartiles. Trees since 2026-11-30 can be compared.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import quantiles

# Runs in the tree that is compared; it uses only what trees have in common.
_STEPS = """
import sys, tempfile, time
from pathlib import Path
import numpy as np
from bench.suites.training import step_cost
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.teacher_outputs import TeacherOutputCache
from skd_edge.distill.trainer import Trainer, TrainingInputs
from skd_edge.execution.threads import configure_threads
from skd_edge.models.tsm import build_tsm
from skd_edge.recipe.loader import load_recipe

configure_threads(1)
recipe = load_recipe(sys.argv[1], sys.argv[3:])
learner = recipe.networks.get(sys.argv[2], recipe.teacher)
is_teacher = learner.name == recipe.teacher.name
clips, preprocess = step_cost.make_random_clips(recipe), inference_preprocessing(recipe.clip)[1]
targets = np.random.default_rng(1).dirichlet(np.ones(step_cost.CLASSES), step_cost.CLIPS).astype(np.float32)
changes = {"teacher": None, "staged": False, "weak": True} if is_teacher else {}
spec = step_cost.make_job_spec(recipe, learner, **changes)
with tempfile.TemporaryDirectory() as folder:
    outputs = None
    if not is_teacher:
        shape = {"classes": step_cost.CLASSES, "frames": recipe.clip.frames, "size": recipe.clip.size}
        network = build_tsm(recipe.teacher, **shape, seed=1).eval()
        view = lambda index, number: step_cost.training_view(clips.train, index, number, spec, preprocess)
        outputs = TeacherOutputCache(network, view, step_cost.CLIPS, Path(folder))
    trainer = Trainer(spec, TrainingInputs(clips, targets, preprocess, outputs), Path(folder))
    trainer.learner.train()
    index, total = np.arange(recipe.training.batch), 10**6
    of_view = outputs and outputs.outputs_for_view(0)
    for _ in range(5):
        trainer.train_step_at(total // 2, total, index, of_view)
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        trainer.train_step_at(total // 2, total, index, of_view)
        print(time.process_time() - began, flush=True)
"""


class StepProcess:
    """Trains steps of a network with the code of a tree."""

    def __init__(self, tree: Path, recipe: str, network: str, sets: list[str]) -> None:
        folders = [str(tree / part) for part in ("", "bench", "export")]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"import sys; sys.path[:0] = {folders!r}\n{_STEPS}", recipe, network, *sets],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._read_line() != "ready":
            sys.exit(f"{tree}: the steps of {network} cannot be trained; the error is above")

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def train_step(self) -> float:
        """CPU milliseconds of one step."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return 1000 * float(self._read_line())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def main() -> None:
    """Compare the steps of each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--set", action="append", default=[], dest="sets", help="a setting of the recipe")
    parser.add_argument("--only", nargs="+", default=["teacher", "assistant", "small", "medium"], help="networks")
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    for network in options.only:
        trees = [tree.resolve() for tree in (options.before, options.after)]
        before, after = (StepProcess(tree, options.recipe, network, options.sets) for tree in trees)
        times = []
        for number in range(options.rounds):
            order = (before, after) if number % 2 else (after, before)
            measured = {one: one.train_step() for one in order}
            times.append((measured[before], measured[after]))
        before.close()
        after.close()
        low, middle, high = quantiles([b / a for a, b in times], n=4)
        fastest = [min(column) for column in zip(*times, strict=True)]
        print(
            f"{network}: {fastest[0]:.1f} -> {fastest[1]:.1f} ms at best; after / before {middle:.3f} "
            f"({low:.3f} to {high:.3f}), {options.rounds} rounds",
            flush=True,
        )


if __name__ == "__main__":
    main()
