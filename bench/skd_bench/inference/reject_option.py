"""The reject option: below a confidence threshold, which is chosen on validation clips, no class is reported.

This is selective classification by the largest softmax probability (Geifman & El-Yaniv, 2017, arXiv 1705.08500).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError
from skd_bench.metrics.accuracy import softmax
from skd_bench.stats import Interval, mean_interval


class RejectEntry(TypedDict):
    """A `RejectOption` as an artefact's options store it."""

    threshold: float
    background: str | None


@dataclass(frozen=True)
class RejectOption:
    """The confidence below which a clip is rejected, and what is reported for it.

    Attributes:
        threshold: A clip is rejected if its largest class probability is below this value, in 0..1.
        background: The class that is reported for a rejected clip; None: no class.
    """

    threshold: float
    background: str | None = None

    def to_json(self) -> RejectEntry:
        """The form in which an artefact's options store it."""
        return {"threshold": self.threshold, "background": self.background}

    @classmethod
    def from_options(cls, options: Mapping[str, Any], classes: Sequence[str]) -> RejectOption | None:
        """Read the reject option from an artefact's options; None if there is none.

        Args:
            options: `Artefact.options`, which may come from a network and is therefore checked.
            classes: The bundle's classes.

        Raises:
            UserError: The entry is malformed or names an unknown class.
        """
        raw = options.get("reject")
        if raw is None:
            return None
        threshold = raw.get("threshold") if isinstance(raw, Mapping) else None
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise UserError(f"the artefact's reject threshold is {threshold!r}; it must be a number from 0 to 1")
        background = raw.get("background")
        if background is not None and background not in classes:
            names = ", ".join(classes)
            raise UserError(f"the artefact's background class {background!r} is unknown; the classes are: {names}")
        return cls(float(threshold), background)


def choose_threshold(
    logits: npt.NDArray[np.floating[Any]],
    labels: npt.ArrayLike,
    accuracy: float,
    groups: Sequence[Hashable] | None = None,
) -> tuple[float, float, Interval] | None:
    """Find the lowest threshold at which the accepted predictions reach a required accuracy.

    The threshold is chosen and its accuracy computed on the same clips, so the accuracy is slightly optimistic. Confirm
    it on other clips.

    Args:
        logits: (N, C), finite, of validation clips with checked labels; N at least 1.
        labels: (N,), whole numbers in 0..C-1.
        accuracy: Required share of correct predictions among the accepted ones, 0..1.
        groups: A group label for each clip; clips of one group (a source video) are resampled together.

    Returns:
        The threshold, the share of accepted clips, and the accuracy on them with its interval; None if no threshold
        reaches the required accuracy.
    """
    shares = softmax(logits)
    confidence, correct = shares.max(axis=1), shares.argmax(axis=1) == np.asarray(labels)
    order = np.argsort(-confidence, kind="stable")
    # Clips with equal confidence are accepted together, so a threshold can only lie where the confidence changes.
    last = np.append(np.flatnonzero(np.diff(confidence[order]) != 0), len(order) - 1)
    accurate_cuts = last[(np.cumsum(correct[order]) / np.arange(1, len(order) + 1))[last] >= accuracy]
    if not len(accurate_cuts):
        return None
    threshold = 0.0 if accurate_cuts[-1] == len(order) - 1 else float(confidence[order[accurate_cuts[-1]]])
    answered = confidence >= threshold
    answered_groups = None if groups is None else [g for g, k in zip(groups, answered.tolist(), strict=True) if k]
    return threshold, float(answered.mean()), mean_interval(correct[answered], answered_groups)
