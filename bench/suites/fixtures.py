"""Shared by the suites: clips rendered in memory, and small networks trained on them for about a minute.

The networks are trained because parity of random weights proves nothing, and because INT8 needs realistic ranges.
Latency alone would not need it: it does not depend on the weights.
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
    """The preprocessing of square clips with ``size`` pixels a side."""
    return Preprocessing(size, size, "crop", MEAN, STD)


def render_motions(count: int, first: int, *, frames: int, size: int, difficulty: float) -> tuple[Pixels, Labels]:
    """Render clips, cycling through all motion classes.

    Args:
        count: How many clips.
        first: The seed of the first clip; the next clips use the next seeds.
        frames: Frames of each clip.
        size: Height and width in pixels.
        difficulty: See `skd_edge.data.sources.synthetic.render_clip`.

    Returns:
        Clips, uint8 ``(N, T, H, W, 3)``, and their class indices ``(N,)``.
    """
    labels = np.arange(count) % len(MOTION_CLASSES)
    made = [
        render_clip(MOTION_CLASSES[c], frames=frames, size=size, difficulty=difficulty, seed=first + i)
        for i, c in enumerate(labels)
    ]
    return np.stack(made), labels


def render_tints(count: int, first: int, *, frames: int, size: int, fading: bool) -> tuple[Pixels, Labels]:
    """Render clips of ten classes that a small network learns within a minute: hues over a random motion, no noise.

    Args:
        count: How many clips.
        first: The seed of the first clip; the next clips use the next seeds.
        frames: Frames of each clip.
        size: Height and width in pixels.
        fading: True: five hues, each growing stronger or weaker, so the class depends on the order of frames. False:
            ten hues, so every frame shows the class. Networks without a temporal operator need False: with True their
            accuracy is at most that of guessing between two classes, and INT8 then changes predictions that mean
            nothing.

    Returns:
        Clips, uint8 ``(N, T, H, W, 3)``, and their class indices ``(N,)``.
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
    """Train a network with cross-entropy, AdamW and a one-cycle schedule; it is returned in eval mode."""
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
