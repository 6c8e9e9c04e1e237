"""What is known of the labels, as JSON for the report of a run and for the audit: accuracies, noise, annotators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from skd_edge.labels.audit.label_errors import ClassSupport, NoiseEstimate, count_class_support, estimate_noise
from skd_edge.labels.class_hierarchy import find_parent_classes
from skd_edge.labels.cleaning.pseudo_labels import PseudoLabels
from skd_edge.labels.dataset import TrainingData

_EXAMPLES = 12  # clips that the report shows
_ClassName = TypedDict("_ClassName", {"class": str})


class ClassCounts(_ClassName, ClassSupport):
    """The name of a class, its `ClassSupport`, and its numbers of validation and test clips."""

    val: int
    test: int


class AnnotatorAccuracy(TypedDict):
    """An annotator: name, estimated accuracy in [0, 1] (None without a vote) and number of votes."""

    name: str
    accuracy: float | None
    votes: int


class LabelDecision(TypedDict):
    """A clip with its weak label and its pseudo-label, whose probability in [0, 1] is ``confidence``."""

    clip: str
    weak: str
    pseudo: str
    confidence: float
    why: str


class WeakLabelStatistics(TypedDict):
    """The weak labels of a run; ``accuracy_before`` is None if the true labels are unknown.

    An unlabelled clip counts as wrong in ``accuracy_before``.
    """

    n: int
    classes: list[str]
    unlabelled: int
    accuracy_before: float | None
    class_shares_before: dict[str, float]
    annotators: list[AnnotatorAccuracy]


class LabelStatistics(WeakLabelStatistics, total=False):
    """The labels of a run, as ``LabelReport`` describes them; the keys of this class are absent without pseudo-labels.

    An unlabelled clip counts neither as ``changed`` nor as ``unchanged``.
    """

    per_class: list[ClassCounts]
    trusted: int
    noise_estimate: float
    accuracy_after: float | None
    changed: int
    unchanged: int
    uncertain: int
    class_shares_after: dict[str, float]
    examples: list[LabelDecision]


class NoiseSummary(TypedDict):
    """A `NoiseEstimate` with the names of the classes.

    Attributes:
        rate: Share of wrong labels in [0, 1], with its interval.
        classes: Class names, in the order of the matrices.
        matrix: Probability of each label (column) given the true class (row).
        low: Lower end of the interval of each entry.
        high: Upper end of the interval of each entry.
        within_parent: Share of the wrong labels whose class has the same parent; None if classes have no parents.
    """

    rate: dict[str, float]
    classes: list[str]
    matrix: list[list[float]]
    low: list[list[float]]
    high: list[list[float]]
    within_parent: float | None


class AuditSummary(TypedDict):
    """The findings of an audit.

    Attributes:
        schema: Version of the layout.
        clips: Number of training clips.
        unlabelled: Number of clips without a label.
        trusted: Number of labels that a person checked.
        doubtful: Number of labels that are more probably wrong than right.
        noise: Noise of the labels that no person has checked.
        known_rate: Share of wrong labels, where the recipe made them wrong.
        classes: The clips of each class.
        annotators: The annotators, where labels come from votes.
        teacher: The teacher's accuracy on the validation clips.
    """

    schema: int
    clips: int
    unlabelled: int
    trusted: int
    doubtful: int
    noise: NoiseSummary
    known_rate: float | None
    classes: list[ClassCounts]
    annotators: list[AnnotatorAccuracy]
    teacher: NotRequired[float]


class SuspectClip(TypedDict):
    """A clip whose label is probably wrong; its numbers are those of ``SuspectLabel``.

    Attributes:
        rank: 1 for the most probable error.
        clip: Name of the clip.
        label: Its weak label.
        proposed: The most probable class, given that the label is wrong.
        wrong: Posterior that the label is wrong, in [0, 1].
        confidence: Probability that the label is wrong and the proposed class is right, in [0, 1].
        why: What became of the label.
        trusted: The label that a person decided; empty if none did.
    """

    rank: int
    clip: str
    label: str
    proposed: str
    wrong: float
    confidence: float
    why: str
    trusted: str


class AuditReport(AuditSummary):
    """The content of ``audit.json``: the summary, the recipe's name and seed, and the suspects of ``ranked`` labels."""

    name: str
    seed: int
    ranked: int
    suspects: list[SuspectClip]


def build_label_report(pseudo: PseudoLabels | None, data: TrainingData) -> LabelStatistics:
    """Collect what a run's report says about labels.

    Args:
        pseudo: the pseudo-labels; None if training used the weak labels: then the keys about changes are absent.
        data: the clips and their weak labels.
    """
    classes, weak, truth = data.clips.classes, data.given_labels, data.truth
    report: LabelStatistics = {
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
        "unchanged": int((hard == weak).sum()),
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


def audit_summary(pseudo: PseudoLabels, data: TrainingData) -> AuditSummary:
    """Collect the findings of an audit: noise with intervals, counts by class, annotators.

    Args:
        pseudo: the pseudo-labels, with evidence.
        data: the clips and their weak labels.
    """
    assert pseudo.evidence is not None
    classes, weak, trusted = data.clips.classes, data.given_labels, data.trusted
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


def count_per_class(pseudo: PseudoLabels, data: TrainingData) -> list[ClassCounts]:
    """For each class: the counts of ``count_class_support``, and its numbers of validation and test clips."""
    assert pseudo.evidence is not None
    rows = count_class_support(data.given_labels, pseudo.evidence, pseudo.hard, data.trusted)
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


def describe_annotators(data: TrainingData) -> list[AnnotatorAccuracy]:
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
