"""The confidence below which a file answers nothing: set on the validation clips, where the recipe asks for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skd_bench.inference.reject_option import RejectOption, choose_threshold
from skd_bench.metrics.accuracy import softmax
from skd_edge.evaluation.file_scorer import CandidateResult, FileScorer
from skd_edge.labels.dataset import TrainingData
from skd_edge.pipeline.results import TestResult


def compute_reject_option(scorer: FileScorer, data: TrainingData, result: CandidateResult) -> RejectOption | None:
    """The threshold below which a file gives no answer, set on the validation clips; None where none is wanted.

    It is 1 where not even the surest answers are right as often as ``choice.reject`` demands.
    """
    wanted, val = scorer.recipe.choice.reject, data.clips.val
    if wanted is None:
        return None
    logits = scorer.compute_logits(result.path, val, result.runtime)
    chosen = choose_threshold(logits, val.labels, wanted.accuracy, val.groups.tolist())
    return RejectOption(1.0 if chosen is None else chosen[0], wanted.background)


def format_reject_note(
    scorer: FileScorer, data: TrainingData, result: CandidateResult, test: TestResult | None
) -> str | None:
    """What the threshold of the chosen file does, on validation and on the test clips, as a sentence."""
    reject = compute_reject_option(scorer, data, result)
    if reject is None or test is None:
        return None
    val = data.clips.val
    val_logits = scorer.compute_logits(result.path, val, result.runtime)
    shares = [
        _format_answered("validation", val_logits, val.labels, reject.threshold),
        _format_answered("test", test.logits, test.labels, reject.threshold),
    ]
    replacement = f"called {reject.background!r}" if reject.background else "left unsure"
    return (
        f"Below a confidence of {reject.threshold:.3f} a clip is {replacement} (choice.reject, set on validation): the "
        f"chosen file answers {' and '.join(shares)}. The accuracies above count every answer."
    )


def _format_answered(name: str, logits: NDArray[np.float32], labels: NDArray[np.int64], threshold: float) -> str:
    probabilities = softmax(logits)
    answered = probabilities.max(axis=1) >= threshold
    right = (probabilities.argmax(axis=1) == labels)[answered]
    return f"{answered.mean():.1%} of the {name} clips" + (f" ({right.mean():.1%} right)" if len(right) else "")
