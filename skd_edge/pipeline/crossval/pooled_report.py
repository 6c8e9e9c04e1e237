"""Pools the answers of all folds, and builds the report of a cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skd_bench.metrics.class_averages import compute_class_averages
from skd_bench.stats import Interval, mean_interval, paired_difference
from skd_edge.data.sources.group_folds import GroupFolds
from skd_edge.pipeline.crossval.fold_answers import FoldAnswers
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.report.crossval.schema import (
    ROLE_NAMES,
    SCHEMA_VERSION,
    Bounds,
    CrossValidationReport,
    FoldReport,
    FoldScore,
    PooledScore,
    Role,
)
from skd_edge.report.schema import ClassMetrics, RunReport, load_report
from skd_edge.version import VERSION

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class FoldResult:
    """How one fold ended.

    Attributes:
        fold: its number, from 1.
        folder: its run folder.
        answers: the answers on its test clips; None if it failed.
        reason: why it failed.
    """

    fold: int
    folder: Path
    answers: FoldAnswers | None
    reason: str = ""


@dataclass(frozen=True)
class _PooledAnswers:
    """The answers of one role over several folds, on N clips, and those of the chosen files on the same clips."""

    folds: int
    labels: Ints
    predictions: Ints
    chosen: Ints
    groups: list[str]


def build_crossval_report(recipe: Recipe, folds: GroupFolds, results: Sequence[FoldResult]) -> CrossValidationReport:
    """The content of ``crossval.json``; `skd_edge.report.crossval.schema` describes its fields.

    Raises:
        UserError: The report of a finished fold cannot be read.
    """
    group_by_clip = {e.name: e.group for e in folds.tested}
    finished = [r.answers for r in results if r.answers is not None]
    reports = {r.fold: load_report(r.folder) for r in results if r.answers is not None}
    pooled_by_role = {role: p for role in ROLE_NAMES if (p := _pool_answers(finished, role, group_by_clip))}
    chosen = pooled_by_role.get("chosen")
    classes = list(folds.listing.classes)
    confusion = _count_confusion(chosen, len(classes)) if chosen else None
    return CrossValidationReport(
        schema=SCHEMA_VERSION,
        name=recipe.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=VERSION,
        seed=recipe.seed,
        group=folds.settings.group or f"groups of {recipe.data.kind}",
        groups=len(folds.fold_by_group),
        clips=len(folds.tested),
        classes=classes,
        pooled=[_build_pooled_row(role, pooled) for role, pooled in pooled_by_role.items()],
        per_class=_build_class_rows(confusion, classes) if confusion is not None else [],
        confusion=confusion.tolist() if confusion is not None else [],
        folds=[_build_fold_row(result, reports.get(result.fold), folds) for result in results],
        device=next((r.device for r in reports.values()), {}),
        notes=_build_notes(folds, reports),
        recipe=resolved_yaml(recipe),
    )


def _pool_answers(
    finished: Sequence[FoldAnswers], role: Role, group_by_clip: Mapping[str, str]
) -> _PooledAnswers | None:
    """The answers of a role over the folds that have it; None if no fold has."""
    having = [a for a in finished if role in a.answers]
    if not having:
        return None
    return _PooledAnswers(
        len(having),
        np.concatenate([a.labels for a in having]),
        np.concatenate([a.answers[role] for a in having]),
        np.concatenate([a.answers["chosen"] for a in having]),
        [group_by_clip[clip] for a in having for clip in a.clips],
    )


def _build_pooled_row(role: Role, pooled: _PooledAnswers) -> PooledScore:
    correct, chosen_correct = (pooled.labels == each for each in (pooled.predictions, pooled.chosen))
    accuracy = mean_interval(correct, pooled.groups)
    averages = compute_class_averages(pooled.labels, pooled.predictions, pooled.groups)
    lead = None if role == "chosen" else paired_difference(chosen_correct, correct, pooled.groups)
    return PooledScore(
        role=role,
        folds=pooled.folds,
        n=len(pooled.labels),
        accuracy=accuracy.value,
        accuracy_interval=_ends_of(accuracy),
        balanced_accuracy=averages.balanced.value,
        balanced_interval=_ends_of(averages.balanced),
        macro_f1=averages.macro_f1.value,
        macro_f1_interval=_ends_of(averages.macro_f1),
        behind=100 * lead.value if lead else None,
        behind_interval=(100 * lead.low, 100 * lead.high) if lead else None,
    )


def _build_fold_row(result: FoldResult, report: RunReport | None, folds: GroupFolds) -> FoldReport:
    groups = sorted(group for group, number in folds.fold_by_group.items() if number == result.fold)
    folder = f"folds/{result.fold}"
    if report is None or result.answers is None:
        return FoldReport(fold=result.fold, folder=folder, state="failed", reason=result.reason, groups=groups)
    chosen, data = report.chosen, report.data
    return FoldReport(
        fold=result.fold,
        folder=folder,
        state="finished",
        groups=groups,
        train=data.train if data else None,
        val=data.val if data else None,
        test=data.test if data else None,
        chosen=chosen.name if chosen else "",
        p50_ms=chosen.p50_ms if chosen else None,
        p50_interval=chosen.p50_interval if chosen else None,
        bytes=chosen.bytes if chosen else None,
        val_accuracy=chosen.accuracy if chosen else None,
        scores=[_score_fold(role, result.answers) for role in ROLE_NAMES if role in result.answers.answers],
        looks=report.test.looks if report.test else None,
        seconds=report.seconds,
    )


def _score_fold(role: Role, answers: FoldAnswers) -> FoldScore:
    predictions = answers.answers[role]
    averages = compute_class_averages(answers.labels, predictions, resamples=1)
    return FoldScore(
        role=role,
        accuracy=float((predictions == answers.labels).mean()),
        balanced_accuracy=averages.balanced.value,
        macro_f1=averages.macro_f1.value,
    )


def _count_confusion(pooled: _PooledAnswers, size: int) -> Ints:
    """Number of clips by true class (rows) and predicted class (columns), ``(C, C)``."""
    counts = np.bincount(pooled.labels * size + pooled.predictions, minlength=size * size)
    return counts.astype(np.int64).reshape(size, size)


def _build_class_rows(confusion: Ints, classes: Sequence[str]) -> list[ClassMetrics]:
    hits, support, predicted = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return [
        ClassMetrics.model_validate(
            {
                "class": name,
                "support": int(s),
                "precision": h / p if p else None,
                "recall": h / s if s else None,
                "f1": 2 * h / (p + s) if p + s else None,
            }
        )
        for name, h, s, p in zip(classes, hits.tolist(), support.tolist(), predicted.tolist(), strict=True)
    ]


def _build_notes(folds: GroupFolds, reports: Mapping[int, RunReport]) -> list[str]:
    """What a reader needs to interpret the figures."""
    notes = [
        "A cross-validation measures the recipe, and ships nothing: every fold has networks of its own. Run skd-edge "
        "compress for a file to ship.",
        "Intervals resample whole groups over all folds. They do not contain the spread between seeds, and the folds "
        "share training clips, so they are somewhat too narrow.",
        "Milliseconds of different folds were measured one after the other, not interleaved.",
    ]
    if folds.settings.score == "all" and (count := sum(e.split == "train" for e in folds.tested)):
        notes.append(
            f"{count} of the {len(folds.tested)} clips that are tested are training clips where compress uses the "
            "recipe; the figures are only as good as their labels."
        )
    if left_out := len(folds.listing.entries) - len(folds.tested):
        notes.append(
            f"{left_out} clips are never tested; they are training clips where no clip of their group is held out."
        )
    quarantined = {q.path for report in reports.values() if report.data for q in report.data.quarantined}
    if quarantined:
        notes.append(f"{len(quarantined)} clips cannot be read and were left out (first: {min(quarantined)}).")
    copies = sum(len(report.data.copies) for report in reports.values() if report.data)
    if copies:
        notes.append(
            f"{copies} validation or test clips are copies of clips in another split; the folds' reports list them."
        )
    return notes


def _ends_of(interval: Interval) -> Bounds:
    return interval.low, interval.high
