"""How probable it is that a prediction is right: the largest probability after temperature scaling.

The softmax of a trained network is usually too sure. Dividing the logits by a temperature, which is fitted on
validation clips, makes the mean confidence agree with the accuracy (Guo et al., 2017, arXiv 1706.04599). It does not
change which class is predicted. It holds for clips like the validation clips: a clip that shows none of the classes can
still get a high confidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError
from skd_bench.metrics.accuracy import softmax

_LOG_RANGE = (-4.0, 4.0)  # logarithms of the lowest and highest temperature
_STEPS = 60  # of the golden-section search: the logarithm is then known to 1e-11
_GOLDEN = (math.sqrt(5) - 1) / 2


def fit_temperature(logits: npt.NDArray[np.floating[Any]], labels: npt.ArrayLike) -> float:
    """Find the temperature that gives validation clips the highest likelihood.

    Args:
        logits: (N, C), finite, of clips with checked labels; N at least 1.
        labels: (N,), whole numbers in 0..C-1.

    Returns:
        The temperature, between exp(-4) and exp(4), rounded to four significant digits. Above 1: the softmax is too
        sure.
    """
    values, rows = np.asarray(logits, np.float64), np.arange(len(logits))
    margins = values - values[rows, np.asarray(labels, np.intp)][:, np.newaxis]

    def compute_loss(log_temperature: float) -> float:
        scaled = margins / math.exp(log_temperature)
        most = scaled.max(axis=1)
        return float((most + np.log(np.exp(scaled - most[:, np.newaxis]).sum(axis=1))).mean())

    low, high = _LOG_RANGE  # the loss has one minimum, because it is convex in 1 / temperature
    for _ in range(_STEPS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, right) if compute_loss(left) <= compute_loss(right) else (left, high)
    return float(f"{math.exp((low + high) / 2):.4g}")


def read_temperature(options: Mapping[str, Any]) -> float | None:
    """The temperature of an artefact; None if it has none (a bundle of ``export``, or of an older version).

    Args:
        options: `Artefact.options`, which may come from a network and is therefore checked.

    Raises:
        UserError: The entry is not a number above 0.
    """
    raw = options.get("temperature")
    if raw is None:
        return None
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 < raw < math.inf:
        raise UserError(f"the artefact's temperature is {raw!r}; it must be a number above 0")
    return float(raw)


def compute_confidence(logits: npt.NDArray[np.floating[Any]], temperature: float) -> npt.NDArray[np.float64]:
    """The calibrated probability (N,) that the most likely class of each clip is right, from logits (N, C)."""
    return np.asarray(softmax(np.asarray(logits, np.float64) / temperature).max(axis=1))
