"""Class-balanced sampling: which clips an epoch uses, for data sets with frequent and rare classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw_balanced_rows(targets: NDArray[np.float32], balance: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the clips of one epoch, those of rare classes more often (arXiv 1910.09217, section 3).

    The expected number of draws of a clip is proportional to ``share ** -balance``, where ``share`` is the share of its
    most probable class. Sampling is systematic: a clip with 2.3 expected draws is drawn twice or three times, never
    more or less.

    Args:
        targets: ``(N, C)`` label distributions; a row of zeros is an unlabelled clip. Unlabelled clips count as one
            more class.
        balance: from 0 (every clip once) to 1 (every class equally often).
        rng: random number generator.

    Returns:
        Row numbers ``(N,)``, ascending; a row may be repeated or absent.
    """
    classes = np.where(targets.any(1), targets.argmax(1), targets.shape[1])
    counts = np.bincount(classes)
    weight = counts[classes] ** -float(balance)
    # The order is random; otherwise systematic sampling would always draw the same clips together.
    order = rng.permutation(len(classes))
    ends = np.cumsum(weight[order] / weight.sum()) * len(classes)
    drawn = np.searchsorted(ends, np.arange(len(classes)) + rng.random(), side="right")
    return np.sort(order[np.minimum(drawn, len(classes) - 1)])
