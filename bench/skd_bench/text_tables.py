"""The accuracy of a bundle's files as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]


def format_accuracy_table(result: Json) -> str:
    """What `evaluate.evaluate` found, as aligned text."""
    lines = [f"{result['name']}: {result['videos']} videos, {len(result['classes'])} classes", ""]
    head = ("file", "views", "top-1 [95 %]", "macro-F1", "calib. error", "agrees with FP32", "decode+infer ms")
    lines += align_columns([head, *(_format_accuracy_row(r) for r in result["rows"])])
    lines += ["", "* the bundle's default; more views cost what the last column says"]
    for r in result["rows"]:
        for name, key in (("FP32", "against_fp32"), ("one view", "against_one_view")):
            if (a := r[key]) is not None:
                low, high = (100 * v for v in a["difference_interval"])
                lines.append(
                    f"{_format_title(r)} against {name}: {100 * a['difference']:+.1f} points [{low:+.1f}, {high:+.1f}], "
                    f"McNemar p = {a['mcnemar']:.2g}"
                )
        if (reject_metrics := r["rejecting"]) is not None:
            lines += ["", *_format_reject_metrics(r, reject_metrics)]
    lines += [f"not read: {bad['path']}: {bad['reason']}" for bad in result["unreadable"]]
    lines += [f"not run: {file}: {reason}" for file, reason in result["not_run"].items()]
    return "\n".join(lines)


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    sides = [str.ljust] + [str.rjust] * (len(widths) - 1)
    return ["  ".join(s(c, w) for s, c, w in zip(sides, row, widths, strict=True)).rstrip() for row in rows]


def _format_title(row: Json) -> str:
    return f"{row['file']}, {row['views']} views" if row["views"] > 1 else str(row["file"])


def _format_accuracy_row(row: Json) -> tuple[str, ...]:
    accuracy, cost, fp32 = row["accuracy"], row["cost"], row["against_fp32"]
    top1 = accuracy["top1"]
    return (
        ("* " if row["default"] and row["views"] == 1 else "  ") + row["file"],
        str(row["views"]),
        f"{top1['value']:.1%} [{top1['low']:.1%}, {top1['high']:.1%}]",
        f"{accuracy['macro_f1']:.3f}",
        f"{accuracy['ece']:.3f}",
        f"{fp32['agreement']:.1%}" if fp32 else "",
        f"{cost['decode_ms']:.1f} + {cost['infer_ms']:.2f}",
    )


def _format_reject_metrics(row: Json, metrics: Json) -> list[str]:
    correct = "n/a" if metrics["right"] is None else f"{metrics['right']:.1%}"
    share = f"{metrics['answered']:.1%} answered, {correct} of these right"
    lines = [f"{_format_title(row)} from probability {metrics['threshold']:g}: {share}"]
    cells = [("  class", "clips", "recall [95 %]", "false reports")]
    for r in metrics["recall"]:
        recall = "n/a" if r["recall"] is None else "{:.1%} [{:.1%}, {:.1%}]".format(r["recall"], *r["interval"])
        cells.append((f"  {r['class']}", str(r["support"]), recall, str(r["false_reports"])))
    return lines + align_columns(cells)
