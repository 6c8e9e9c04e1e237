"""Confident learning (1911.00068) through its own library, cleanlab: which weak labels are wrong."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UserError


def require_cleanlab() -> None:
    """Say at once what would otherwise be missed after a training.

    Raises:
        UserError: cleanlab is not installed.
    """
    if importlib.util.find_spec("cleanlab") is None:
        raise UserError(
            "labels.method 'confident' needs cleanlab: pip install 'skd-edge[study]', or use another labels.method"
        )


def find_label_errors(weak: NDArray[np.int64], q: NDArray[np.float32]) -> NDArray[np.float64]:
    """1 where confident learning finds that the weak label is wrong, else 0: ``(N,)``.

    Args:
        weak: ``(N,)`` class indices, none missing.
        q: ``(N, C)`` out-of-fold (or not memorised) probabilities, rows sum to 1.

    Raises:
        UserError: cleanlab is not installed.
    """
    require_cleanlab()
    from cleanlab.filter import find_label_issues

    # Per-class thresholds are means over a class's members: a class that nobody has (or believes in) has none.
    present = np.unique(weak)
    index = np.full(q.shape[1], -1)
    index[present] = np.arange(len(present))
    share = q[:, present].astype(np.float64) + 1e-9
    share /= share.sum(1, keepdims=True)
    if len(present) < 2:
        return np.zeros(len(weak))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that small classes keep their labels is what the guard wants too
        return np.asarray(find_label_issues(index[weak], share, n_jobs=1), np.float64)
