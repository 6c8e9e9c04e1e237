"""Are weights bit-equal with one thread and with two? Trains each network of a recipe a few steps with both.

    python -m bench.suites.training.thread_bits                     # the quickstart's networks
    python -m bench.suites.training.thread_bits human_motion --set data.root=.

Random clips, the recipe's batch and settings. If a network's weights were equal, a job that is alone could use both
cores; they are not (docs/running.md), so the number of threads is a part of a job's hash.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from bench.suites.training.step_cost import make_job_spec, make_random_clips
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.trainer import Trainer, TrainingInputs
from skd_edge.execution.threads import configure_threads
from skd_edge.recipe.loader import load_recipe
from skd_edge.recipe.schema import NetworkSpec, Recipe


def train_steps(recipe: Recipe, learner: NetworkSpec, threads: int, steps: int) -> dict[str, torch.Tensor]:
    """The weights after so many steps on labels, with so many threads."""
    configure_threads(threads)
    clips, preprocess = make_random_clips(recipe), inference_preprocessing(recipe.clip)[1]
    targets = np.eye(len(clips.classes), dtype=np.float32)[clips.train.labels]
    spec = make_job_spec(recipe, learner, teacher=None, staged=False)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(spec, TrainingInputs(clips, targets, preprocess), Path(folder))
        trainer.learner.train()
        order = np.random.default_rng(0)
        for step in range(steps):
            index = order.permutation(len(clips.train))[: recipe.training.batch]
            trainer.train_step_at(step, steps, index, None)
    return trainer.learner.state_dict()


def main() -> None:
    """Compare the weights of each network of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="quickstart")
    parser.add_argument("--set", action="append", default=[], dest="sets", help="a setting of the recipe")
    parser.add_argument("--steps", type=int, default=1)
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.sets)
    for learner in (recipe.teacher, *recipe.assistants, *recipe.students):
        one, again, two = (train_steps(recipe, learner, threads, options.steps) for threads in (1, 1, 2))
        different = [name for name, value in one.items() if not torch.equal(value, two[name])]
        furthest = max(float((one[name] - two[name]).abs().max()) for name in different or one)
        repeatable = all(torch.equal(value, again[name]) for name, value in one.items())
        print(
            f"{learner.name}: after {options.steps} step(s), {len(different)} of {len(one)} tensors differ between one "
            f"thread and two, by at most {furthest:.1g}; one thread twice: {'equal' if repeatable else 'not equal'}"
        )


if __name__ == "__main__":
    main()
