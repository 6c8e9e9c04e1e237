"""What the foundry's suites share: rendered clips without video files, and networks trained on them for a minute.

Latency does not depend on weights, but parity on random weights proves nothing, and INT8 wants real ranges.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from skd_bench.video.clip import normalise
from skd_bench.video.types import Preprocessing
from skd_edge.data.sources.synthetic import MOTION_CLASSES, render_clip
from skd_edge.models.substages import LogitsOnly
from skd_edge.models.tsm import build_tsm
from skd_edge.recipe.schema import NetworkSpec

MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
BATCH = 32
Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


def make_preprocess(size: int) -> Preprocessing:
    """Of square clips."""
    return Preprocessing(size, size, "crop", MEAN, STD)


def render_motions(count: int, first: int, *, frames: int, size: int, difficulty: float) -> tuple[Pixels, Labels]:
    """Rendered clips ``(N, T, H, W, 3)`` of all motions in turn, and their classes; ``first`` is the first's seed."""
    labels = np.arange(count) % len(MOTION_CLASSES)
    made = [
        render_clip(MOTION_CLASSES[c], frames=frames, size=size, difficulty=difficulty, seed=first + i)
        for i, c in enumerate(labels)
    ]
    return np.stack(made), labels


def render_tints(count: int, first: int, *, frames: int, size: int, fading: bool) -> tuple[Pixels, Labels]:
    """Clips of ten classes that a small network learns within a minute, without noise: hues laid over any motion.

    Args:
        count: Clips.
        first: The seed of the first.
        frames: In each.
        size: Height and width.
        fading: Five hues, each growing stronger or weaker, which only the order of frames tells; else ten hues, which
            each frame shows: for networks without a temporal operator, which are at chance on the former (at chance,
            INT8 flips answers that mean nothing).
    """
    rng = np.random.default_rng(first)
    hues, labels = (5, 10)[not fading], np.arange(count) % 10
    shown = rng.choice(MOTION_CLASSES, count)
    made = [render_clip(m, frames=frames, size=size, difficulty=0.0, seed=first + i) for i, m in enumerate(shown)]
    angles = 2 * np.pi * ((labels % hues)[:, None] / hues + np.arange(3) / 3)
    tint = 24 * np.cos(angles) + rng.normal(0, 2, (count, 3))
    slope = np.where(labels < hues, 0.8, -0.8)[:, None] * np.linspace(-1, 1, frames) if fading else 0.0
    strength = np.broadcast_to(1.0 + slope, (count, frames))
    tinted = np.stack(made) + strength[:, :, None, None, None] * tint[:, None, None, None]
    return np.clip(tinted, 0, 255).astype(np.uint8), labels


def train_network(
    spec: NetworkSpec, data: Pixels, labels: Labels, *, epochs: int, rate: float = 6e-3, seed: int = 0
) -> LogitsOnly:
    """A network that answers by what it sees: cross-entropy, AdamW, one cycle; in eval mode."""
    frames, size = data.shape[1:3]
    network = LogitsOnly(build_tsm(spec, classes=len(MOTION_CLASSES), frames=frames, size=size, seed=seed)).train()
    x, y = torch.from_numpy(normalise(data, make_preprocess(size))), torch.from_numpy(labels)
    steps = epochs * (len(x) // BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.02)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=order).split(BATCH)[: len(x) // BATCH]:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimiser.step()
            cycle.step()
    return network.eval()
