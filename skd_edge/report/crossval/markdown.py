"""The report of a cross-validation as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from skd_bench.untrusted.text import escape_markdown
from skd_edge.report import formatting as f
from skd_edge.report.crossval import summary
from skd_edge.report.crossval.schema import ROLE_NAMES, Bounds, CrossValidationReport
from skd_edge.report.markdown import replace_thin_spaces


def render_crossval_markdown(report: CrossValidationReport) -> str:
    """GitHub-flavoured Markdown that ends in a newline; names and other text are escaped."""
    parts = [
        f"# {escape_markdown(summary.format_headline(report))}",
        escape_markdown(summary.format_meaning(report)),
        _format_pooled(report),
        _format_folds(report),
        escape_markdown(summary.format_choices(report)),
        "\n".join(f"- {escape_markdown(note)}" for note in report.notes),
    ]
    return replace_thin_spaces("\n\n".join(part for part in parts if part)) + "\n"


def _format_pooled(report: CrossValidationReport) -> str:
    if not report.pooled:
        return ""
    rows = [
        (
            escape_markdown(ROLE_NAMES[row.role]),
            str(row.n),
            _format_share(row.accuracy, row.accuracy_interval),
            _format_share(row.balanced_accuracy, row.balanced_interval),
            _format_share(row.macro_f1, row.macro_f1_interval),
        )
        for row in report.pooled
    ]
    head = ("all folds", "clips", "accuracy", "balanced accuracy", "macro-F1")
    return f"{_format_table(head, rows)}\n\nIn brackets: 95 % intervals; whole groups were resampled."


def _format_folds(report: CrossValidationReport) -> str:
    rows = []
    for fold in report.folds:
        scores = [fold.find_score(role) for role in ROLE_NAMES]
        shares = [f.format_percent(score.accuracy) if score else f.UNKNOWN for score in scores]
        chosen = escape_markdown(fold.chosen or "nothing") if fold.state == "finished" else "**failed**"
        rows.append(
            (str(fold.fold), str(fold.test or f.UNKNOWN), chosen, f.format_bare_milliseconds(fold.p50_ms), *shares)
        )
    head = ("fold", "test clips", "chosen", "p50, ms", "accuracy", "teacher", "alone", "plain KD")
    failed = [f"- fold {x.fold} failed: {escape_markdown(x.reason)}" for x in report.folds if x.state == "failed"]
    return "\n\n".join(filter(None, (_format_table(head, rows), "\n".join(failed))))


def _format_share(value: float, bounds: Bounds) -> str:
    return f"{f.format_percent(value)} [{f.format_percent_range(bounds)}]"


def _format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:" for _ in head[1:]]], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
