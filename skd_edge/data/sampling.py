"""Class-balanced sampling: which clips an epoch sees, where some classes have many more of them than others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw_balanced_rows(targets: NDArray[np.float32], balance: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """As many clips as there are, those of rare classes drawn more often (1910.09217, section 3).

    A clip's expected draws go with ``share ** -balance``, share being that of its likeliest class. They are systematic:
    a clip expected 2.3 times comes twice or three times, whatever the luck.

    Args:
        targets: ``(N, C)`` label distributions; a row of zeros is a clip without a label, one more class.
        balance: 0 as they come, each once; 1 every class equally often.
        rng: what is random.

    Returns:
        Row numbers ``(N,)``, ascending.
    """
    classes = np.where(targets.any(1), targets.argmax(1), targets.shape[1])
    counts = np.bincount(classes)
    weight = counts[classes] ** -float(balance)
    # Clips stand in a random order, so that the same ones are not always drawn together.
    order = rng.permutation(len(classes))
    ends = np.cumsum(weight[order] / weight.sum()) * len(classes)
    drawn = np.searchsorted(ends, np.arange(len(classes)) + rng.random(), side="right")
    return np.sort(order[np.minimum(drawn, len(classes) - 1)])
