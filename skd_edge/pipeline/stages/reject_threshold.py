"""How sure a file is, set on validation clips: its temperature, and the threshold below which it gives no class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skd_bench.inference.calibrated_confidence import fit_temperature
from skd_bench.inference.reject_option import RejectOption, choose_threshold
from skd_bench.metrics.accuracy import softmax
from skd_edge.evaluation.file_scorer import CandidateResult, FileScorer
from skd_edge.labels.dataset import TrainingData
from skd_edge.pipeline.results import TestResult


def compute_reject_option(scorer: FileScorer, data: TrainingData, result: CandidateResult) -> RejectOption | None:
    """The threshold of a file, set on the validation clips; None where the recipe has no ``choice.reject``.

    The threshold is 1 where no threshold reaches the accuracy that ``choice.reject`` demands.
    """
    wanted, val = scorer.recipe.choice.reject, data.clips.val
    if wanted is None:
        return None
    logits = scorer.compute_logits(result.path, val, result.runtime)
    chosen = choose_threshold(logits, val.labels, wanted.accuracy, val.groups.tolist())
    return RejectOption(1.0 if chosen is None else chosen[0], wanted.background)


def compute_temperature(scorer: FileScorer, data: TrainingData, result: CandidateResult) -> float:
    """The temperature of a file that calibrates its confidence, fitted on the validation clips."""
    val = data.clips.val
    return fit_temperature(scorer.compute_logits(result.path, val, result.runtime), val.labels)


def format_reject_note(
    scorer: FileScorer, data: TrainingData, result: CandidateResult, test: TestResult | None
) -> str | None:
    """Report note: how many validation and test clips the chosen file classifies; None without a threshold."""
    reject = compute_reject_option(scorer, data, result)
    if reject is None or test is None:
        return None
    val = data.clips.val
    val_logits = scorer.compute_logits(result.path, val, result.runtime)
    shares = [
        _format_answered("validation", val_logits, val.labels, reject.threshold),
        _format_answered("test", test.logits, test.labels, reject.threshold),
    ]
    replacement = f"reported as {reject.background!r}" if reject.background else "not classified"
    return (
        f"A clip with a confidence below {reject.threshold:.3f} is {replacement} (choice.reject; set on the validation "
        f"clips). The chosen file classifies {' and '.join(shares)}. The accuracies above count every clip."
    )


def _format_answered(name: str, logits: NDArray[np.float32], labels: NDArray[np.int64], threshold: float) -> str:
    probabilities = softmax(logits)
    answered = probabilities.max(axis=1) >= threshold
    right = (probabilities.argmax(axis=1) == labels)[answered]
    accuracy = f" ({right.mean():.1%} of them correctly)" if len(right) else ""
    return f"{answered.mean():.1%} of the {name} clips{accuracy}"
