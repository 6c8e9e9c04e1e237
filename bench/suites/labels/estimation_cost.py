"""Measures the label estimation of many clips: CPU seconds, memory, and how often it agrees with the exact one.

    python -m bench.suites.labels.estimation_cost --clips 8000 32000 250000             # each clip is its own group
    python -m bench.suites.labels.estimation_cost --clips 250000 --groups 15

The clips are random: classes are overlapping clusters of features, and 40 % of the labels are wrong. With `--groups`,
the clips are in so many groups of equal size (people, cameras), each moved by an offset of its own. The exact estimate
is computed up to `--exact` clips. Each number of clips is measured in a process of its own, whose peak memory is that
of its private pages. Goals: 250,000 clips of 128 features in 60 s and 2 GiB; answers within 0.5 points of the exact
ones.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from skd_edge.execution.memory import measure_peak_bytes
from skd_edge.execution.threads import configure_threads
from skd_edge.labels.cleaning import knn_posterior, neighbours
from skd_edge.labels.cleaning.pseudo_labels import estimate_pseudo_labels
from skd_edge.labels.sources.noise_simulation import corrupt_labels
from skd_edge.recipe.labels import LabelSettings, NoiseSettings


@dataclass(frozen=True)
class Shape:
    """Size of the random clips.

    Attributes:
        clips: number of clips.
        features: features of each clip.
        classes: number of classes.
        groups: number of groups; 0: each clip is its own group.
    """

    clips: int
    features: int
    classes: int
    groups: int


def make_clips(shape: Shape) -> tuple[np.ndarray, ...]:
    """Random clips: true and weak labels ``(N,)``, predictions ``(N, C)``, features ``(N, D)``, groups ``(N,)``."""
    clips, features, classes = shape.clips, shape.features, shape.classes
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.arange(clips) % classes)
    weak = corrupt_labels(truth, classes, NoiseSettings(kind="symmetric", rate=0.4), 0)
    predicted = np.where(rng.random(clips) < 0.7, truth, rng.integers(0, classes, clips))
    q = 0.5 * rng.dirichlet(np.ones(classes), clips).astype(np.float32)
    q[np.arange(clips), predicted] += 0.5
    centres = rng.normal(size=(3 * classes, features)).astype(np.float32)  # three clusters for each class
    cluster = truth + classes * rng.integers(0, 3, clips)
    noise = rng.normal(size=(clips, features)).astype(np.float32)
    x = centres[cluster] + np.float32(1.3) * noise
    if not shape.groups:
        return truth, weak, q, x, np.arange(clips)
    groups = rng.integers(0, shape.groups, clips)
    return truth, weak, q, x + 2 * rng.normal(size=(shape.groups, features)).astype(np.float32)[groups], groups


def measure(shape: Shape, threads: int, with_exact: bool) -> str:
    """Estimate the labels of so many clips; returns a line of text."""
    configure_threads(threads)
    clips, (truth, weak, q, x, groups) = shape.clips, make_clips(shape)
    before, began = measure_peak_bytes(), time.process_time()
    labels = estimate_pseudo_labels(weak, q, x, LabelSettings(), groups=groups).hard
    seconds, peak = time.process_time() - began, measure_peak_bytes()
    grouped = f" in {shape.groups} groups" if shape.groups else ""
    right, used = f"{(labels == truth).mean():.2%} right", (peak - before) >> 20
    line = f"{clips} clips{grouped}: {seconds:.1f} CPU s, {used} MiB more, {right}"
    if with_exact:
        search = knn_posterior.find_neighbours
        knn_posterior.find_neighbours = lambda *args: search(*args, exact_clips=clips)
        began = time.process_time()
        exact = estimate_pseudo_labels(weak, q, x, LabelSettings(), groups=groups).hard
        seconds = time.process_time() - began
        line += (
            f"; exact: {seconds:.1f} CPU s, {(exact == truth).mean():.2%} right, {(exact == labels).mean():.2%} agree"
        )
    return line


def main() -> None:
    """Measure each number of clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[8000, 32000, 250000])
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--groups", type=int, default=0, help="default: each clip is its own group")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--exact", type=int, default=32000, help="up to so many clips, compare with the exact labels")
    options = parser.parse_args()
    print(f"exact up to {neighbours._EXACT_CLIPS} clips; {options.threads} thread(s)")
    for clips in options.clips:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            shape = Shape(clips, options.features, options.classes, options.groups)
            print(process.submit(measure, shape, options.threads, clips <= options.exact).result(), flush=True)


if __name__ == "__main__":
    main()
