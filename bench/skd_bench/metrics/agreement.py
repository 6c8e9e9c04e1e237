"""Comparison of two model files on the same clips: agreement, and difference in accuracy."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from skd_bench.stats import mcnemar_p_value, mean_interval, paired_difference

Logits = npt.NDArray[np.floating[Any]]


class Agreement(TypedDict):
    """A file compared with a reference on the same clips, as a JSON object.

    `agreement` is the share of clips with the same top class, 0..1. `difference` is the top-1 accuracy of the file
    minus that of the reference, -1..1, with its paired interval. `mcnemar` is the exact two-sided p-value. `only_this`
    and `only_reference` count the clips that only one of them classifies correctly; `n` counts all clips.
    """

    agreement: float
    agreement_interval: list[float]
    difference: float
    difference_interval: list[float]
    mcnemar: float
    only_this: int
    only_reference: int
    n: int


def compute_agreement(
    logits: Logits, reference: Logits, labels: npt.ArrayLike, groups: Sequence[Hashable] | None = None
) -> Agreement:
    """Compare the predictions of a file with those of a reference (usually the FP32 file of the same network).

    Args:
        logits: (N, C) of the file.
        reference: (N, C) of the reference, for the same clips in the same order.
        labels: (N,) true labels, whole numbers.
        groups: A group label for each clip; clips of one group (a source video) are resampled together.

    Raises:
        UserError: There are no clips.
        ValueError: The shapes differ.
    """
    if logits.shape != reference.shape:
        shapes = f"{logits.shape} and {reference.shape}"
        raise ValueError(f"agreement needs logits of the same clips and classes, not of shapes {shapes}")
    truth = np.asarray(labels)
    predictions, reference_predictions = logits.argmax(axis=1), reference.argmax(axis=1)
    correct, reference_correct = predictions == truth, reference_predictions == truth
    same_class = mean_interval(predictions == reference_predictions, groups)
    difference = paired_difference(correct, reference_correct, groups)
    return {
        "agreement": same_class.value,
        "agreement_interval": [same_class.low, same_class.high],
        "difference": difference.value,
        "difference_interval": [difference.low, difference.high],
        "mcnemar": mcnemar_p_value(correct, reference_correct),
        "only_this": int((correct & ~reference_correct).sum()),
        "only_reference": int((reference_correct & ~correct).sum()),
        "n": len(truth),
    }
