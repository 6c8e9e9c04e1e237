"""Confident learning (arXiv 1911.00068) with its library cleanlab: which weak labels are wrong."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UserError


def require_cleanlab() -> None:
    """Check that cleanlab is installed, before a training whose result would need it.

    Raises:
        UserError: It is not installed.
    """
    if importlib.util.find_spec("cleanlab") is None:
        raise UserError(
            "labels.method 'confident' needs cleanlab; pip install 'skd-edge[study]', or choose another labels.method"
        )


def find_label_errors(weak: NDArray[np.int64], q: NDArray[np.float32]) -> NDArray[np.float64]:
    """Find wrong labels with confident learning.

    Args:
        weak: ``(N,)`` class indices; no clip is unlabelled.
        q: ``(N, C)`` class probabilities of a network that has not memorised the labels (out-of-fold, for example);
            rows sum to 1.

    Returns:
        ``(N,)`` 1 where the label is wrong, else 0.

    Raises:
        UserError: cleanlab is not installed.
    """
    require_cleanlab()
    from cleanlab.filter import find_label_issues

    # cleanlab averages probabilities over the clips of each class, so classes without clips are left out.
    present = np.unique(weak)
    index = np.full(q.shape[1], -1)
    index[present] = np.arange(len(present))
    share = q[:, present].astype(np.float64) + 1e-9
    share /= share.sum(1, keepdims=True)
    if len(present) < 2:
        return np.zeros(len(weak))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # cleanlab warns that it keeps small classes; that is wanted
        return np.asarray(find_label_issues(index[weak], share, n_jobs=1), np.float64)
