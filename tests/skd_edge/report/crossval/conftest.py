"""A report of a cross-validation in which one fold failed."""

from __future__ import annotations

import pytest

from skd_edge.report.crossval.schema import CrossValidationReport


@pytest.fixture
def report() -> CrossValidationReport:
    scores = [
        {"role": role, "accuracy": a, "balanced_accuracy": a - 0.1, "macro_f1": a}
        for role, a in (("chosen", 0.8), ("teacher", 0.9))
    ]
    folds = [
        {
            "fold": n,
            "folder": f"folds/{n}",
            "state": "finished",
            "groups": [f"p{n}"],
            "chosen": "teacher>small int8",
            "p50_ms": 1.0 + n,
            "val_accuracy": 0.85,
            "train": 60,
            "val": 20,
            "test": 20,
            "scores": scores,
            "looks": 1,
            "seconds": 61.0,
        }
        for n in (1, 2)
    ]
    folds.append(
        {"fold": 3, "folder": "folds/3", "state": "failed", "reason": "no <b>training</b> clip", "groups": ["p3"]}
    )
    interval = (0.7, 0.9)
    pooled = [
        {
            "role": role,
            "folds": 2,
            "n": 40,
            "accuracy": a,
            "accuracy_interval": interval,
            "balanced_accuracy": a - 0.1,
            "balanced_interval": interval,
            "macro_f1": a - 0.2,
            "macro_f1_interval": interval,
            "behind": behind,
            "behind_interval": behind and (-15.0, -5.0),
        }
        for role, a, behind in (("chosen", 0.8, None), ("teacher", 0.9, -10.0))
    ]
    return CrossValidationReport.model_validate(
        {
            "schema": 1,
            "name": "gestures",
            "version": "0.1",
            "group": "person",
            "groups": 3,
            "clips": 60,
            "classes": ["a|b", "c"],
            "pooled": pooled,
            "per_class": [{"class": "a|b", "support": 20, "precision": 0.8, "recall": 0.9, "f1": 0.85}],
            "confusion": [[18, 2], [6, 14]],
            "folds": folds,
            "device": {"cpu": "a processor"},
            "notes": ["A cross-validation ships nothing."],
        }
    )
