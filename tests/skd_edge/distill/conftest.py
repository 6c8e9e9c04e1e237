"""Small jobs for tests: one on weak labels, one distilled from a teacher. As a program, it is killed while training."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import skd_edge.distill.trainer as trainer_module
from skd_bench.video.types import Preprocessing
from skd_edge.data.sources.synthetic import render_clip
from skd_edge.data.store.clip_store import ClipDataset, ClipSplit, SealedSplit
from skd_edge.distill.checkpoint import Checkpoint
from skd_edge.distill.job import JobSpec
from skd_edge.distill.teacher_outputs import TeacherOutputCache
from skd_edge.distill.trainer import TrainResult, train_job
from skd_edge.distill.views import training_view
from skd_edge.models.tsm import build_tsm
from skd_edge.recipe.schema import LossSettings, NetworkSpec, TrainingSettings
from skd_edge.recipe.sections import AugmentationSettings, ClipSettings

PREPROCESS = Preprocessing(16, 16, "crop", (0.45,) * 3, (0.225,) * 3)
MOTIONS = ("move_left", "move_right", "spin_cw", "blink")
WEAK = JobSpec(
    learner=NetworkSpec(name="n", width=4, depths=(1, 1)),
    role="scout",
    path=("n",),
    teacher=None,
    start=None,
    targets="weak",
    data="data",
    classes=4,
    clip=ClipSettings(frames=4, size=16),
    augment=AugmentationSettings(shift=1, views=3),
    training=TrainingSettings(batch=16, rate=0.01),
    epochs=6,
    weak=True,
    staged=False,
    seed=0,
)
EVERYTHING = {"batch": 16, "rate": 0.01, "combination": "curriculum", "losses": LossSettings(distribution=1.0)}
STAGED = replace(WEAK, teacher="t", role="student", weak=False, staged=True, training=TrainingSettings(**EVERYTHING))


def some_clips() -> ClipDataset:
    """48 training, 20 validation and 20 test clips of four motions, 16 pixels, 4 frames."""

    def split(first: int, count: int, name: str) -> ClipSplit:
        ids = np.arange(first, first + count)
        clips = np.stack([render_clip(MOTIONS[i % 4], frames=4, size=16, difficulty=0.0, seed=int(i)) for i in ids])
        return ClipSplit(ids, clips, ids % 4, ids.copy(), tuple(f"{i}.mp4" for i in ids), name)

    return ClipDataset(
        MOTIONS, split(0, 48, "train"), split(48, 20, "val"), SealedSplit(split(68, 20, "test")), (), "in memory"
    )


def train(
    job: JobSpec, folder: Path, report: Callable[[dict[str, Any]], None] = lambda row: None, **kw: Any
) -> TrainResult:
    """Train ``job`` on one thread, with a checkpoint after every epoch."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    clips, teacher = some_clips(), None
    if job.teacher:
        spec = NetworkSpec(name="t", family="resnet", width=4, depths=job.learner.depths)
        network = build_tsm(spec, classes=4, frames=4, size=16, seed=9).eval().requires_grad_(False)
        make_view = lambda index, view: training_view(clips.train, index, view, job, PREPROCESS)  # noqa: E731
        teacher = TeacherOutputCache(network, make_view, len(clips.train), folder / "teacher")
    targets = np.eye(4, dtype=np.float32)[clips.train.labels]
    before = trainer_module.Checkpoint
    trainer_module.Checkpoint = lambda path: Checkpoint(path, interval_seconds=0.0)  # type: ignore[misc,assignment]
    try:
        inputs = trainer_module.TrainingInputs(clips, targets, PREPROCESS, teacher, **kw)
        return train_job(job, inputs, folder, on_progress=report)
    finally:
        trainer_module.Checkpoint = before  # type: ignore[misc]


def training(job: JobSpec, folder: Path) -> Any:
    """The `Trainer` of a job without a teacher, before its first step."""
    clips = some_clips()
    targets = np.eye(4, dtype=np.float32)[clips.train.labels]
    return trainer_module.Trainer(job, trainer_module.TrainingInputs(clips, targets, PREPROCESS), folder)


class Tools:
    """What tests use of this file."""

    file, weak, staged, train = Path(__file__), WEAK, STAGED, staticmethod(train)
    everything = EVERYTHING
    training, checkpoint = staticmethod(training), Checkpoint
    clips, preprocess = staticmethod(some_clips), PREPROCESS


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools


def kill_in_epoch_four(row: dict[str, Any]) -> None:
    if row["epoch"] == 4:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    train({"weak": WEAK, "staged": STAGED}[sys.argv[1]], Path(sys.argv[2]), kill_in_epoch_four)
