"""When a file should keep silent: a confidence below which its answer is not given, set on validation clips.

The rule is selective classification by the largest softmax probability (Geifman & El-Yaniv 2017, 1705.08500).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError
from skd_bench.metrics.accuracy import softmax
from skd_bench.stats import Interval, mean_interval


@dataclass(frozen=True)
class Reject:
    """When an answer is given.

    Attributes:
        threshold: in [0, 1]: the largest class probability below which a clip is unsure.
        background: the class that an unsure clip is given; None: no class.
    """

    threshold: float
    background: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As an artefact's options keep it."""
        return {"threshold": self.threshold, "background": self.background}

    @classmethod
    def of(cls, options: Mapping[str, Any], classes: Sequence[str]) -> Reject | None:
        """The one of an artefact's options; None without one.

        Raises:
            UserError: It is malformed: nothing that came over a network is trusted.
        """
        said = options.get("reject")
        if said is None:
            return None
        threshold = said.get("threshold") if isinstance(said, Mapping) else None
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise UserError(f"the artefact's reject threshold is {threshold!r}; it must be a number from 0 to 1")
        background = said.get("background")
        if background is not None and background not in classes:
            raise UserError(f"the artefact calls unsure clips {background!r}, which is none of its classes")
        return cls(float(threshold), background)


def choose_threshold(
    logits: npt.NDArray[np.floating[Any]],
    labels: npt.ArrayLike,
    accuracy: float,
    groups: Sequence[Hashable] | None = None,
) -> tuple[float, float, Interval] | None:
    """The lowest threshold at which the answers that are given are right often enough.

    The accuracy is that of the clips it was chosen on, so a little optimistic: confirm it on others.

    Args:
        logits: (N, C), finite, of trusted validation clips.
        labels: (N,), whole numbers in 0..C-1.
        accuracy: share of right answers that is asked for, 0..1.
        groups: A label for each clip; clips of one group (a source video) are resampled together.

    Returns:
        Threshold, share of clips answered, accuracy of the answers with its interval; None where not even the surest
        answers are right often enough.
    """
    shares = softmax(logits)
    sure, right = shares.max(axis=1), shares.argmax(axis=1) == np.asarray(labels)
    order = np.argsort(-sure, kind="stable")
    # Clips of equal confidence are answered together: a threshold can only lie where it changes.
    last = np.append(np.flatnonzero(np.diff(sure[order]) != 0), len(order) - 1)
    enough = last[(np.cumsum(right[order]) / np.arange(1, len(order) + 1))[last] >= accuracy]
    if not len(enough):
        return None
    threshold = 0.0 if enough[-1] == len(order) - 1 else float(sure[order[enough[-1]]])
    given = sure >= threshold
    kept = None if groups is None else [g for g, k in zip(groups, given.tolist(), strict=True) if k]
    return threshold, float(given.mean()), mean_interval(right[given], kept)
