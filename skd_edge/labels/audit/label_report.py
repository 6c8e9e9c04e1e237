"""Label facts for the run's report and for the audit, as JSON: accuracies, changes, noise, annotators, examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_edge.labels.audit.label_errors import NoiseEstimate, count_class_support, estimate_noise
from skd_edge.labels.class_hierarchy import find_parent_classes
from skd_edge.labels.cleaning.pseudo_labels import PseudoLabels
from skd_edge.labels.dataset import TrainingData

_EXAMPLES = 12  # clips that the report shows
Json = dict[str, Any]


def build_label_report(pseudo: PseudoLabels | None, data: TrainingData) -> Json:
    """Collect the label facts of a run's report (``LabelReport``).

    Accuracies are null if the true labels are unknown. An unlabelled clip counts as wrong in ``accuracy_before``, and
    neither as ``changed`` nor as ``kept``.

    Args:
        pseudo: the pseudo-labels; None if training used the weak labels: then facts about changes are absent.
        data: the clips and their weak labels.
    """
    classes, weak, truth = data.clips.classes, data.weak_labels, data.truth
    report: Json = {
        "n": len(weak),
        "classes": list(classes),
        "unlabelled": data.unlabelled_count,
        "accuracy_before": _compute_accuracy(weak, truth),
        "class_shares_before": _compute_class_shares(weak, classes),
        "annotators": describe_annotators(data),
    }
    if pseudo is None:
        return report
    hard, names = pseudo.hard, data.clips.train.names
    why, labelled = Counter(pseudo.why.tolist()), weak >= 0
    suspicious = np.argsort(-np.where(labelled, pseudo.wrong, -1.0), kind="stable")[:_EXAMPLES]
    return report | {
        "per_class": count_per_class(pseudo, data) if pseudo.evidence is not None else [],
        "trusted": why["trusted"],
        "noise_estimate": pseudo.noise_rate,
        "accuracy_after": _compute_accuracy(hard, truth),
        "changed": int((hard != weak)[labelled].sum()),
        "kept": int((hard == weak).sum()),
        "uncertain": why["uncertain"],
        "class_shares_after": _compute_class_shares(hard, classes),
        "examples": [
            {
                "clip": names[i],
                "weak": classes[weak[i]],
                "pseudo": classes[hard[i]],
                "confidence": float(pseudo.targets[i, hard[i]]),
                "why": str(pseudo.why[i]),
            }
            for i in suspicious
            if labelled[i]
        ],
    }


def audit_summary(pseudo: PseudoLabels, data: TrainingData) -> Json:
    """Collect the findings of an audit as JSON: noise with intervals, counts by class, annotators.

    Args:
        pseudo: the pseudo-labels, with evidence.
        data: the clips and their weak labels.
    """
    assert pseudo.evidence is not None
    classes, weak, trusted = data.clips.classes, data.weak_labels, data.trusted
    noise = estimate_noise(weak, pseudo.evidence.class_probabilities, data.clips.train.groups, trusted)
    checked = np.zeros(len(weak), bool) if trusted is None else trusted
    return {
        "schema": 1,
        "clips": len(weak),
        "unlabelled": data.unlabelled_count,
        "trusted": int(checked.sum()),
        "doubtful": int(((pseudo.evidence.p_wrong > 0.5) & (weak >= 0)).sum()),
        "noise": {
            "rate": noise.rate.to_json(),
            "classes": list(classes),
            "matrix": noise.matrix.tolist(),
            "low": noise.low.tolist(),
            "high": noise.high.tolist(),
            "within_parent": _compute_sibling_share(noise, classes),
        },
        "known_rate": data.injected_noise_rate,
        "classes": count_per_class(pseudo, data),
        "annotators": describe_annotators(data),
    }


def count_per_class(pseudo: PseudoLabels, data: TrainingData) -> list[Json]:
    """For each class: the counts of ``count_class_support``, and its numbers of validation and test clips."""
    assert pseudo.evidence is not None
    rows = count_class_support(data.weak_labels, pseudo.evidence, pseudo.hard, data.trusted)
    val, test = (np.bincount(s.labels, minlength=len(rows)) for s in (data.clips.val, data.clips.test))
    names = data.clips.classes
    return [{"class": names[c], **row, "val": int(val[c]), "test": int(test[c])} for c, row in enumerate(rows)]


def _compute_sibling_share(noise: NoiseEstimate, classes: Sequence[str]) -> float | None:
    """Share of the wrong labels that name a class with the same parent, in [0, 1]; None if classes have no parents."""
    found = find_parent_classes(classes)
    if found is None:
        return None
    _, parents = found
    wrong = noise.matrix * (1 - np.eye(len(classes)))
    same_parent = parents[:, None] == parents[None, :]
    return float((wrong * same_parent).sum() / max(wrong.sum(), 1e-12))


def describe_annotators(data: TrainingData) -> list[Json]:
    """List each annotator's name, estimated accuracy in [0, 1] (null without a vote) and number of votes."""
    if data.votes is None:
        return []
    consensus = data.votes.consensus
    rows = zip(data.votes.annotators, consensus.accuracy, consensus.vote_counts, strict=True)
    return [{"name": name, "accuracy": float(a) if votes else None, "votes": int(votes)} for name, a, votes in rows]


def _compute_accuracy(labels: NDArray[np.int64], truth: NDArray[np.int64] | None) -> float | None:
    """Share of the clips with a known true label whose label is right; None if no true label is known."""
    if truth is None or not (truth >= 0).any():
        return None
    return float((labels == truth)[truth >= 0].mean())


def _compute_class_shares(labels: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    """Share of all clips in each class; the shares sum to less than 1 if clips are unlabelled."""
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    return {name: float(count / len(labels)) for name, count in zip(classes, counts, strict=True)}
