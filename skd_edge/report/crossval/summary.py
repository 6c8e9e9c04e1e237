"""Sentences and numbers that both pages of a cross-validation contain."""

from __future__ import annotations

from collections import Counter

from skd_edge.report import formatting as f
from skd_edge.report.crossval.schema import CrossValidationReport
from skd_edge.report.summary import KeyNumber


def format_headline(report: CrossValidationReport) -> str:
    """One sentence: how good the recipe's networks are on clips of groups that they have not seen."""
    chosen = report.find_pooled("chosen")
    if chosen is None:
        return f"No fold of {len(report.folds)} is finished with a network to score."
    return (
        f"{f.format_percent(chosen.accuracy)} of the clips of unseen groups are classified correctly "
        f"({f.format_percent(chosen.balanced_accuracy)} balanced), over {chosen.folds} folds."
    )


def format_meaning(report: CrossValidationReport) -> str:
    """What was done, in two sentences."""
    failed = len(report.folds) - len(report.finished)
    lost = (
        f" {failed} of {len(report.folds)} folds failed, so the figures are of a part of the clips." if failed else ""
    )
    return (
        f"{report.clips} clips of {report.groups} groups ({report.group}) were divided into {len(report.folds)} folds; "
        "each clip is tested once, by the fold whose training and validation clips are of other groups." + lost
    )


def build_key_numbers(report: CrossValidationReport) -> list[KeyNumber]:
    """Accuracy, balanced accuracy and macro-F1 of the chosen files, their latency, and the distance to the teacher."""
    chosen, teacher = report.find_pooled("chosen"), report.find_pooled("teacher")
    if chosen is None:
        return []
    numbers = [
        KeyNumber("Accuracy", f.format_percent(chosen.accuracy), (f.format_percent_range(chosen.accuracy_interval),)),
        KeyNumber(
            "Balanced accuracy",
            f.format_percent(chosen.balanced_accuracy),
            (f.format_percent_range(chosen.balanced_interval),),
        ),
        KeyNumber("Macro-F1", f.format_percent(chosen.macro_f1), (f.format_percent_range(chosen.macro_f1_interval),)),
    ]
    if latencies := [fold.p50_ms for fold in report.finished if fold.p50_ms is not None]:
        span = f"{f.format_bare_milliseconds(min(latencies))}–{f.format_milliseconds(max(latencies))}"
        numbers.append(KeyNumber("p50 of the chosen files", span, ("smallest and largest of the folds",)))
    if teacher is not None and teacher.behind is not None:
        low, high = teacher.behind_interval or (0.0, 0.0)
        numbers.append(
            KeyNumber(
                "Against the teacher",
                f"{f.format_points(teacher.behind)} points",
                (f"{f.format_points(low)} to {f.format_points(high)}",),
            )
        )
    return numbers


def format_choices(report: CrossValidationReport) -> str:
    """How often each candidate was chosen."""
    counts = Counter(fold.chosen for fold in report.finished if fold.chosen)
    if not counts:
        return ""
    listed = ", ".join(f"{name} ({count})" for name, count in counts.most_common())
    same = "All folds chose the same candidate" if len(counts) == 1 else "Chosen in so many folds"
    return f"{same}: {listed}."
