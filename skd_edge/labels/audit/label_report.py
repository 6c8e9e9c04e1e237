"""The audit of the labels: how right they are before and after, what was changed, and decisions to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_edge.labels.audit.label_errors import Noise, noise_of, support
from skd_edge.labels.class_hierarchy import parents
from skd_edge.labels.cleaning.pseudo_labels import PseudoLabels
from skd_edge.labels.dataset import Material

_EXAMPLES = 12
Json = dict[str, Any]


def label_facts(pseudo: PseudoLabels | None, material: Material) -> Json:
    """What the report says of the labels; accuracies are null where the truth is unknown.

    An unlabelled clip counts as not right before, and is neither changed nor kept.
    """
    classes, weak, truth = material.clips.classes, material.weak, material.truth
    facts: Json = {"n": len(weak), "classes": list(classes), "unlabelled": material.unlabelled,
                   "accuracy_before": _accuracy(weak, truth), "class_shares_before": _shares(weak, classes),
                   "annotators": annotators(material)}  # fmt: skip
    if pseudo is None:
        return facts
    hard, names = pseudo.hard, material.clips.train.names
    why, labelled = Counter(pseudo.why.tolist()), weak >= 0
    suspicious = np.argsort(-np.where(labelled, pseudo.wrong, -1.0), kind="stable")[:_EXAMPLES]
    known = pseudo.evidence is not None
    return facts | {
        "per_class": per_class(pseudo, material) if known else [],
        "trusted": why["trusted"],
        "noise_estimate": pseudo.noise_rate,
        "accuracy_after": _accuracy(hard, truth),
        "changed": int((hard != weak)[labelled].sum()), "kept": int((hard == weak).sum()),
        "uncertain": why["uncertain"],
        "class_shares_after": _shares(hard, classes),
        "examples": [
            {"clip": names[i], "weak": classes[weak[i]], "pseudo": classes[hard[i]],
             "confidence": float(pseudo.targets[i, hard[i]]), "why": str(pseudo.why[i])}
            for i in suspicious if labelled[i]
        ],
    }  # fmt: skip


def findings_of(pseudo: PseudoLabels, material: Material) -> Json:
    """What an audit finds, as JSON: the noise with its intervals, classes, annotators; see ``labels/findings.py``."""
    assert pseudo.evidence is not None
    classes, weak, trusted = material.clips.classes, material.weak, material.trusted
    noise = noise_of(weak, pseudo.evidence.opinion, material.clips.train.groups, trusted)
    checked = np.zeros(len(weak), bool) if trusted is None else trusted
    return {
        "schema": 1, "clips": len(weak), "unlabelled": material.unlabelled, "trusted": int(checked.sum()),
        "doubtful": int(((pseudo.evidence.doubt > 0.5) & (weak >= 0)).sum()),
        "noise": {"rate": noise.rate.to_json(), "classes": list(classes), "matrix": noise.matrix.tolist(),
                  "low": noise.low.tolist(), "high": noise.high.tolist(),
                  "within_parent": _within_parent(noise, classes)},
        "known_rate": material.made_wrong,
        "classes": per_class(pseudo, material), "annotators": annotators(material),
    }  # fmt: skip


def per_class(pseudo: PseudoLabels, material: Material) -> list[Json]:
    """For each class its support: clips labelled so, expected wrong ones, after optimisation, validation, test."""
    assert pseudo.evidence is not None
    rows = support(material.weak, pseudo.evidence, pseudo.hard, material.trusted)
    held = [np.bincount(s.labels, minlength=len(rows)) for s in (material.clips.val, material.clips.test)]
    names = material.clips.classes
    return [{"class": names[c], **row, "val": int(held[0][c]), "test": int(held[1][c])} for c, row in enumerate(rows)]


def _within_parent(noise: Noise, classes: Sequence[str]) -> float | None:
    """Of the mistaken labels, the share that name a sibling (``punch/left`` for ``punch/right``); None without any."""
    found = parents(classes)
    if found is None:
        return None
    wrong = noise.matrix * (1 - np.eye(len(classes)))
    same = found[1][:, None] == found[1][None, :]
    return float((wrong * same).sum() / max(wrong.sum(), 1e-12))


def annotators(material: Material) -> list[Json]:
    """Each annotator's estimated accuracy in [0, 1] (null without a vote) and number of votes; [] without votes."""
    if material.votes is None:
        return []
    said = material.votes.consensus
    rows = zip(material.votes.annotators, said.accuracy, said.votes, strict=True)
    return [{"name": name, "accuracy": float(a) if votes else None, "votes": int(votes)} for name, a, votes in rows]


def _accuracy(labels: NDArray[np.int64], truth: NDArray[np.int64] | None) -> float | None:
    """Share of the clips with a known class whose label is right."""
    if truth is None or not (truth >= 0).any():
        return None
    return float((labels == truth)[truth >= 0].mean())


def _shares(labels: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    """Share of all clips in each class; what is missing to 1 is unlabelled."""
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    return {name: float(count / len(labels)) for name, count in zip(classes, counts, strict=True)}
