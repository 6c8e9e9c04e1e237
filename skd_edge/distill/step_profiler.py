"""What a leg will take on this machine: a few real training steps on random clips, spread over its phases."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from skd_bench.video.clip import Preprocess
from skd_edge.data.store.clip_store import Clips, ClipSet
from skd_edge.distill.job import Leg
from skd_edge.distill.teacher_outputs import TeacherCache
from skd_edge.distill.trainer import _Training, view_of
from skd_edge.models.builder import Built

_STEPS, _SECONDS = 20, 2.0


@dataclass(frozen=True)
class Pace:
    """Seconds on this machine.

    Attributes:
        step: of one training step, the mean over the quarters of the leg of their medians: phases differ, and one slow
            step says nothing about the others.
        clip: of one clip through the learner in evaluation mode, in batches.
    """

    step: float
    clip: float


def probe(leg: Leg, teacher: Built | None, preprocess: Preprocess, *, steps: int = _STEPS) -> Pace:
    """Time steps of a leg on random clips; times depend on shapes alone.

    Args:
        leg: the leg; one without epochs is only looked through.
        teacher: an untrained network of the teacher's shape, where there is a teacher.
        preprocess: how pixels become input.
        steps: how many, fewer where they take long.
    """
    clips = _noise(leg, preprocess)
    targets = np.full((len(clips.train), leg.classes), 1 / leg.classes, np.float32)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        said = None
        if teacher is not None:
            look = lambda index, view: view_of(clips.train, index, view, leg, preprocess)  # noqa: E731
            said = TeacherCache(teacher.eval(), look, len(clips.train), Path(folder))
        of = _Training(
            replace(leg, others=()), clips, targets, said, (), preprocess, Path(folder), None, lambda row: None
        )
        of.total = steps
        of.learner.train()
        answers = said.view(0) if said else None
        index = np.arange(len(clips.train))
        if leg.epochs:
            of._train_step(index, 0, answers)  # the first one is slower
        spent: list[list[float]] = [[], [], [], []]  # by quarter of the leg
        for step in sorted(range(steps), key=lambda i: 7 * i % steps):  # spread: where steps are slow, few are taken
            if leg.epochs and sum(map(sum, spent)) < _SECONDS:
                of.step = step
                spent[4 * step // steps].append(_seconds(lambda: of._train_step(index, 0, answers)))
        of.learner.eval()
        x = view_of(clips.train, index[:32], 0, leg, preprocess).to(of.device)
        with torch.no_grad():
            clip = min(_seconds(lambda: of.learner(x)) for _ in range(3)) / len(x)
    quarters = [np.median(quarter) for quarter in spent if quarter]
    return Pace(float(np.mean(quarters)) if quarters else 0.0, clip)


def _noise(leg: Leg, preprocess: Preprocess) -> Clips:
    """One batch of random clips; it stands for all splits."""
    count, rng = leg.training.batch, np.random.default_rng(0)
    shape = (count, leg.clip.frames, preprocess.height, preprocess.width, 3)
    names = tuple(map(str, range(count)))
    drawn = ClipSet(np.arange(count), rng.integers(0, 256, shape, np.uint8), rng.integers(0, leg.classes, count),
                    np.arange(count), names, "noise")  # fmt: skip
    return Clips(tuple(map(str, range(leg.classes))), drawn, drawn, drawn, (), "")


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
