"""Label noise made by a recipe, for studies: which labels are wrong depends on the seed alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skd_edge.recipe import Noise


def corrupt(labels: NDArray[np.int64], classes: int, noise: Noise, seed: int) -> NDArray[np.int64]:
    """Replace exactly ``round(rate * N)`` labels ``(N,)`` by wrong ones.

    Symmetric noise draws the wrong class uniformly from the others; class-dependent noise takes the next class
    (each class is mistaken for one other, the harder case).
    """
    if noise.kind == "none" or noise.rate == 0:
        return labels.copy()
    rng = np.random.default_rng((seed, 40_961))
    wrong = rng.permutation(len(labels))[: round(noise.rate * len(labels))]
    step = rng.integers(1, classes, len(wrong)) if noise.kind == "symmetric" else 1
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + step) % classes
    return noisy
