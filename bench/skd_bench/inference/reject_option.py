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
class RejectOption:
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
    def from_options(cls, options: Mapping[str, Any], classes: Sequence[str]) -> RejectOption | None:
        """The one of an artefact's options; None without one.

        Raises:
            UserError: It is malformed: nothing that came over a network is trusted.
        """
        raw = options.get("reject")
        if raw is None:
            return None
        threshold = raw.get("threshold") if isinstance(raw, Mapping) else None
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise UserError(f"the artefact's reject threshold is {threshold!r}; it must be a number from 0 to 1")
        background = raw.get("background")
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
    confidence, correct = shares.max(axis=1), shares.argmax(axis=1) == np.asarray(labels)
    order = np.argsort(-confidence, kind="stable")
    # Clips of equal confidence are answered together: a threshold can only lie where it changes.
    last = np.append(np.flatnonzero(np.diff(confidence[order]) != 0), len(order) - 1)
    accurate_cuts = last[(np.cumsum(correct[order]) / np.arange(1, len(order) + 1))[last] >= accuracy]
    if not len(accurate_cuts):
        return None
    threshold = 0.0 if accurate_cuts[-1] == len(order) - 1 else float(confidence[order[accurate_cuts[-1]]])
    answered = confidence >= threshold
    answered_groups = None if groups is None else [g for g, k in zip(groups, answered.tolist(), strict=True) if k]
    return threshold, float(answered.mean()), mean_interval(correct[answered], answered_groups)
