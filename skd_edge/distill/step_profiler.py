"""Estimates the duration of a job: times a few real training steps on random clips, spread over the job's phases."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from skd_bench.video.types import Preprocessing
from skd_edge.data.store.clip_store import ClipDataset, ClipSplit, SealedSplit
from skd_edge.distill.job import JobSpec
from skd_edge.distill.teacher_outputs import TeacherOutputCache
from skd_edge.distill.trainer import Trainer, TrainingInputs
from skd_edge.distill.views import training_view
from skd_edge.models.builder import AnyNetwork

_MAX_STEPS, _MAX_SECONDS = 20, 2.0


@dataclass(frozen=True)
class StepTimes:
    """Seconds on this machine.

    Attributes:
        seconds_per_step: Seconds for one training step. Steps of different phases differ, so this is the mean over the
            quarters of the job; of each quarter the median counts, so that one slow step does not matter.
        seconds_per_clip: Seconds for one clip through the learner in evaluation mode, measured in batches.
    """

    seconds_per_step: float
    seconds_per_clip: float


def measure_step_times(
    spec: JobSpec, teacher: AnyNetwork | None, preprocess: Preprocessing, *, steps: int = _MAX_STEPS
) -> StepTimes:
    """Time steps of a job on random clips; the times depend on shapes only, not on pixels or weights.

    Args:
        spec: The job. If it has no epochs, only ``seconds_per_clip`` is measured, and ``seconds_per_step`` is 0.
        teacher: An untrained network with the teacher's architecture, or None if the job has no teacher.
        preprocess: How pixels become input.
        steps: Number of steps to time; fewer are timed if they take more than two seconds.
    """
    clips = _make_random_clips(spec, preprocess)
    targets = np.full((len(clips.train), spec.classes), 1 / spec.classes, np.float32)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        output_source = None
        if teacher is not None:
            make_view = lambda index, view: training_view(clips.train, index, view, spec, preprocess)  # noqa: E731
            output_source = TeacherOutputCache(teacher.eval(), make_view, len(clips.train), Path(folder))
        inputs = TrainingInputs(clips, targets, preprocess, output_source)
        trainer = Trainer(replace(spec, others=()), inputs, Path(folder))
        trainer.learner.train()
        teacher_outputs = output_source.outputs_for_view(0) if output_source else None
        index = np.arange(len(clips.train))
        if spec.epochs:
            trainer.train_step_at(0, steps, index, teacher_outputs)  # not timed: the first step is slower
        spent: list[list[float]] = [[], [], [], []]  # by quarter of the job
        # Spread over the job, since slow steps end the loop early.
        for step in sorted(range(steps), key=lambda i: 7 * i % steps):
            if spec.epochs and sum(map(sum, spent)) < _MAX_SECONDS:
                run_step = partial(trainer.train_step_at, step, steps, index, teacher_outputs)
                spent[4 * step // steps].append(_time_call(run_step))
        trainer.learner.eval()
        x = training_view(clips.train, index[:32], 0, spec, preprocess).to(trainer.device)
        with torch.no_grad():
            seconds_per_clip = min(_time_call(lambda: trainer.learner(x)) for _ in range(3)) / len(x)
    quarters = [np.median(quarter) for quarter in spent if quarter]
    return StepTimes(float(np.mean(quarters)) if quarters else 0.0, seconds_per_clip)


def _make_random_clips(spec: JobSpec, preprocess: Preprocessing) -> ClipDataset:
    """One batch of random clips, used as training, validation and test split."""
    count, rng = spec.training.batch, np.random.default_rng(0)
    shape = (count, spec.clip.frames, preprocess.height, preprocess.width, 3)
    names = tuple(map(str, range(count)))
    clip_set = ClipSplit(
        np.arange(count),
        rng.integers(0, 256, shape, np.uint8),
        rng.integers(0, spec.classes, count),
        np.arange(count),
        names,
        "noise",
    )
    return ClipDataset(tuple(map(str, range(spec.classes))), clip_set, clip_set, SealedSplit(clip_set), (), "")


def _time_call(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
