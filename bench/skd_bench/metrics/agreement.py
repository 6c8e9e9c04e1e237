"""Two files on the same clips: how often they agree, and which is more often right."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.stats import mcnemar, mean_interval, paired_difference

Logits = npt.NDArray[np.floating[Any]]


def agreement(
    logits: Logits, reference: Logits, labels: npt.ArrayLike, groups: Sequence[Hashable] | None = None
) -> dict[str, Any]:
    """Compare a file's answers with a reference's (usually the FP32 file of the same network).

    Args:
        logits: (N, C) of the file.
        reference: (N, C) of the other one, the same clips in the same order.
        labels: (N,) the truth, whole numbers.
        groups: A label for each clip; clips of one group (a source video) are resampled together.

    Returns:
        `agreement` (share of clips with the same top class, 0..1) and `agreement_interval`; `difference` (top-1 of
        the file less the reference's, in 0..1) and its paired `difference_interval`; `mcnemar` (exact two-sided p);
        `only_this` and `only_reference` (clips that one alone has right); `n`.

    Raises:
        UserError: There is no clip.
        ValueError: The shapes differ.
    """
    if logits.shape != reference.shape:
        raise ValueError(f"agreement needs the same clips and classes twice, not {logits.shape} and {reference.shape}")
    truth = np.asarray(labels)
    mine, theirs = logits.argmax(axis=1), reference.argmax(axis=1)
    right, other = mine == truth, theirs == truth
    same = mean_interval(mine == theirs, groups)
    lead = paired_difference(right, other, groups)
    return {
        "agreement": same.value,
        "agreement_interval": [same.low, same.high],
        "difference": lead.value,
        "difference_interval": [lead.low, lead.high],
        "mcnemar": mcnemar(right, other),
        "only_this": int((right & ~other).sum()),
        "only_reference": int((other & ~right).sum()),
        "n": len(truth),
    }
