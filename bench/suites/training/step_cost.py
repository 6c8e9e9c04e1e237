"""Measures what a training step costs besides the network: losses, data and optimiser, relative to the network's time.

    python -m bench.suites.training.step_cost

Students of recipes/human_motion.yaml, trained with its teacher on random clips of its size (the time of a step depends
on shapes only). The parts are timed alternately, so that a slow period of the machine affects all of them. Writes
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

from bench.suites.training.step_floor import MachineRates, compute_floor_ms, measure_rates
from skd_bench.device.info import read_device_info
from skd_bench.files import write_atomic, write_json
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.store.clip_store import ClipDataset, ClipSplit, SealedSplit
from skd_edge.distill.job import JobSpec
from skd_edge.distill.losses.classification import soft_cross_entropy
from skd_edge.distill.teacher_outputs import TeacherOutputCache
from skd_edge.distill.trainer import Trainer, TrainingInputs
from skd_edge.distill.views import training_view
from skd_edge.execution.threads import configure_threads
from skd_edge.models.tsm import build_tsm
from skd_edge.recipe.loader import load_recipe
from skd_edge.recipe.schema import NetworkSpec, Recipe

ROOT = Path(__file__).resolve().parents[3]
RESULTS, TABLE = ROOT / "bench/results/step_cost.json", ROOT / "docs/step_cost.md"
CLASSES, CLIPS, WARM, GOAL = 10, 256, 3, 0.15


def make_job_spec(recipe: Recipe, learner: NetworkSpec, **changes: object) -> JobSpec:
    """A student's job with the recipe's settings; the names of its inputs have no effect here."""
    spec = JobSpec(
        learner=learner,
        role="student",
        path=(recipe.teacher.name, learner.name),
        teacher="t",
        start=None,
        targets="l",
        data="d",
        classes=CLASSES,
        clip=recipe.clip,
        augment=recipe.augment,
        training=recipe.training,
        epochs=1,
        weak=False,
        staged=True,
        seed=0,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]  # keys are names of fields


def make_random_clips(recipe: Recipe) -> ClipDataset:
    """Random clips of the stored size; all splits have the same clips."""
    rng = np.random.default_rng(0)
    clip = inference_preprocessing(recipe.clip)[1]
    pixels = rng.integers(0, 256, (CLIPS, recipe.clip.frames, clip.height, clip.width, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, CLIPS)
    drawn = ClipSplit(np.arange(CLIPS), pixels, labels, np.arange(CLIPS), tuple(map(str, range(CLIPS))), "noise")
    return ClipDataset(tuple(map(str, range(CLASSES))), drawn, drawn, SealedSplit(drawn), (), "")


def build_timed_parts(recipe: Recipe, student: NetworkSpec, folder: Path) -> dict[str, Callable[[], object]]:
    """The timed parts: the network alone, one batch of data, a step on labels, and a step of the method."""
    clips, preprocess = make_random_clips(recipe), inference_preprocessing(recipe.clip)[1]
    spec = make_job_spec(recipe, student)
    targets = np.random.default_rng(1).dirichlet(np.ones(CLASSES), CLIPS).astype(np.float32)
    shape = {"classes": CLASSES, "frames": recipe.clip.frames, "size": recipe.clip.size}
    teacher = TeacherOutputCache(
        build_tsm(recipe.teacher, **shape, seed=1).eval(),
        lambda index, view: training_view(clips.train, index, view, spec, preprocess),
        CLIPS,
        folder / "teacher",
    )
    teacher_out = teacher.outputs_for_view(0)
    index = np.arange(recipe.training.batch)

    def make_trainer(spec: JobSpec, teacher: TeacherOutputCache | None) -> Trainer:
        trainer = Trainer(spec, TrainingInputs(clips, targets, preprocess, teacher), folder / spec.hash)
        trainer.learner.train()
        return trainer

    staged = make_trainer(spec, teacher)
    plain = make_trainer(make_job_spec(recipe, student, teacher=None, staged=False), None)
    clip = training_view(clips.train, index, 0, spec, preprocess).to(plain.device)
    labels = plain.targets[: len(index)]

    def network() -> None:
        logits = plain.learner(clip).logits
        plain.optimizer.zero_grad(set_to_none=True)
        assert logits is not None
        soft_cross_entropy(logits, labels).backward()
        _wait()

    def data() -> None:
        training_view(clips.train, index, 0, spec, preprocess).to(plain.device)
        _wait()

    def step(trainer: Trainer, with_teacher: bool) -> None:
        trainer.step = (
            trainer.total_steps - 1
        )  # after the curriculum: all substages, the head and the logits are trained
        trainer.train_step(index, 0, teacher_out if with_teacher else None)
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


def study(recipe: Recipe, student: NetworkSpec, rounds: int, rates: MachineRates) -> dict[str, object]:
    """Median milliseconds of each part, quartiles of its time relative to the network round by round, and the floor."""
    with tempfile.TemporaryDirectory() as folder:
        parts = build_timed_parts(recipe, student, Path(folder))
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
        "student": student.name,
        "family": student.family,
        "width": student.width,
        "batch": recipe.training.batch,
        "rounds": rounds,
        "milliseconds": {name: round(median(t), 2) for name, t in times.items()},
        "floor": {name: round(ms, 2) for name, ms in compute_floor_ms(make_job_spec(recipe, student), rates).items()},
        "over the network": {name: [round(q, 3) for q in quantiles(o, n=4)] for name, o in over.items()},
    }


def table(rows: list[dict[str, object]], device_info: dict[str, object], threads: int) -> str:
    """Format the page as Markdown."""
    lines = [
        "# What a step costs",
        "",
        "Regenerate: `python -m bench.suites.training.step_cost`",
        "",
        "Network is the time of the student's forward pass, loss and backward pass. The other columns are relative to",
        "that time: reading and augmenting the batch; everything that a step on labels adds (data, optimiser, average",
        "of the weights); everything that a step of the method adds (in addition the cached teacher outputs, the",
        "losses and the projectors). Each number is the median over rounds of the ratio within a round, with quartiles",
        "in brackets.",
        f"The goal for a step of the method is at most {GOAL:.0%}.",
        "",
        "The floor is the larger of two times: the network's operations at the rate of a matrix product, and the bytes",
        "of its activations at the bandwidth of a copy that fits into a cache, both measured here.",
        "",
        "| student | floor, ms | network, ms | data | step on labels adds | step of the method adds |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        over, ms, floor = row["over the network"], row["milliseconds"], row["floor"]
        assert isinstance(over, dict)
        assert isinstance(ms, dict)
        assert isinstance(floor, dict)
        bound = max(floor, key=lambda name: floor[name])
        cells = [
            f"{q2:.1%} ({q1:.1%} to {q3:.1%})"
            for q1, q2, q3 in (over[name] for name in ("data", "plain step", "staged step"))
        ]
        lines.append(
            f"| {row['student']} ({row['family']}, width {row['width']}) | {floor[bound]:.1f} ({bound}) "
            f"| {ms['network']} | {' | '.join(cells)} |"
        )
    return "\n".join(
        [
            *lines,
            "",
            f"Measured on {device_info.get('cpu', 'this machine')}, {threads} threads, torch {torch.__version__}.",
            "",
        ]
    )


def main() -> None:
    """Measure all students and assistants, and write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--set", action="append", default=[], dest="sets", help="a setting of the recipe, as in skd-edge compress"
    )
    parser.add_argument("--only", nargs="*", help="names of networks; default: every student and assistant")
    options = parser.parse_args()
    configure_threads(options.threads)
    recipe = load_recipe("human_motion", ["data.root=.", *options.sets])
    learners = [n for n in (*recipe.students, *recipe.assistants) if n.name in (options.only or recipe.networks)]
    rates = measure_rates()
    rows = [study(recipe, learner, options.rounds, rates) for learner in learners]
    device_info = read_device_info()
    write_json(RESULTS, {"device": device_info, "threads": options.threads, "rows": rows})
    write_atomic(TABLE, table(rows, device_info, options.threads))
    print(TABLE.read_text())


if __name__ == "__main__":
    main()
