"""From a recipe's data section to clips in memory-mapped arrays, and the weak labels that training may see."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skd_bench.clips import Preprocess, Sampling
from skd_edge.data.noise import corrupt
from skd_edge.data.sources import list_clips
from skd_edge.data.store import Clips, open_store
from skd_edge.recipe import Clip, Recipe

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Material:
    """What a run learns from.

    Attributes:
        clips: all splits; ``clips.train.labels`` are as listed and are never shown to training where noise is made.
        weak: ``(N,)`` the labels that training sees.
        truth: ``(N,)`` the listed labels where the recipe made the noise itself, else None.
        weak_hash: names the weak labels.
        sample_files: validation videos and their class, for a bundle that asks for sample clips.
    """

    clips: Clips
    weak: NDArray[np.int64]
    truth: NDArray[np.int64] | None
    weak_hash: str
    sample_files: tuple[tuple[Path, str], ...]


def deployed_view(clip: Clip) -> tuple[Sampling, Preprocess]:
    """How the device samples and preprocesses: the one contract of training, measurement and prediction."""
    sampling = Sampling(clip.frames, clip.sampling, clip.stride)
    return sampling, Preprocess(clip.size, clip.size, clip.fit, clip.mean, clip.std)


def gather(
    recipe: Recipe, cache: Path, *, rendered: Progress | None = None, decoded: Progress | None = None
) -> Material:
    """List, render where needed, decode once, and make the recipe's label noise.

    Raises:
        UserError: See ``list_clips`` and ``open_store``.
    """
    listing = list_clips(recipe.data, seed=recipe.seed, cache=cache, progress=rendered)
    sampling, preprocess = deployed_view(recipe.clip)
    clips = open_store(listing, sampling, preprocess, cache, min_clips=recipe.min_clips, progress=decoded)
    noise, truth = recipe.labels.noise, clips.train.labels
    weak = corrupt(truth, len(clips.classes), noise, recipe.seed)
    key = hashlib.sha256(weak.tobytes()).hexdigest()
    readable = set(clips.val.names)
    samples = tuple((e.path, e.label) for e in listing.entries if e.split == "val" and e.name in readable)
    return Material(clips, weak, truth if noise.kind != "none" else None, key, samples)
