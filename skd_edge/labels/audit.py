"""The audit of the labels: how right they are before and after, what was changed, and decisions to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_edge.data.gather import Material
from skd_edge.labels.pseudo import PseudoLabels

_EXAMPLES = 12
Json = dict[str, Any]


def label_facts(pseudo: PseudoLabels | None, material: Material) -> Json:
    """What the report says of the labels; accuracies are null where the truth is unknown."""
    classes, weak, truth = material.clips.classes, material.weak, material.truth
    facts: Json = {"n": len(weak), "classes": list(classes),
                   "accuracy_before": None if truth is None else float((weak == truth).mean()),
                   "class_shares_before": _shares(weak, classes)}  # fmt: skip
    if pseudo is None:
        return facts
    hard, names = pseudo.hard, material.clips.train.names
    why = Counter(pseudo.why.tolist())
    suspicious = np.argsort(-pseudo.wrong, kind="stable")[:_EXAMPLES]
    return facts | {
        "noise_estimate": pseudo.noise_rate,
        "accuracy_after": None if truth is None else float((hard == truth).mean()),
        "changed": int((hard != weak).sum()), "kept": int((hard == weak).sum()), "uncertain": why["uncertain"],
        "class_shares_after": _shares(hard, classes),
        "examples": [
            {"clip": names[i], "weak": classes[weak[i]], "pseudo": classes[hard[i]],
             "confidence": float(pseudo.targets[i, hard[i]]), "why": str(pseudo.why[i])}
            for i in suspicious
        ],
    }  # fmt: skip


def _shares(labels: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    counts = np.bincount(labels, minlength=len(classes))
    return {name: float(count / len(labels)) for name, count in zip(classes, counts, strict=True)}
