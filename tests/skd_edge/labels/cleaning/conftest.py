"""Labels with planted errors, and what a teacher predicts for these clips."""

import numpy as np
import pytest

from skd_edge.labels.sources.noise_simulation import corrupt_labels
from skd_edge.recipe.labels import NoiseSettings

N, CLASSES = 1000, 8


@pytest.fixture(scope="session")
def plant_noise():
    """Makes 1000 clips of 8 classes: true and weak labels ``(N,)``, predictions ``(N, 8)``, features ``(N, 16)``."""

    def plant_noise(kind: str, rate: float, *, right=0.8, spread=0.6, seed=0):
        """True labels, weak labels, predictions with accuracy ``right``, and features of overlapping classes."""
        rng = np.random.default_rng(seed)
        truth = rng.permutation(np.arange(N) % CLASSES)
        weak = corrupt_labels(truth, CLASSES, NoiseSettings(kind=kind, rate=rate), seed)
        predicted = np.where(rng.random(N) < right, truth, rng.integers(0, CLASSES, N))
        q = 0.5 * rng.dirichlet(np.ones(CLASSES), N)
        q[np.arange(N), predicted] += 0.5
        features = rng.normal(size=(CLASSES, 16))[truth] + spread * rng.normal(size=(N, 16))
        return truth, weak, q.astype(np.float32), features.astype(np.float32)

    return plant_noise
