"""The report of a run as Markdown, for a pull request: what to ship, candidates, test results, labels, and remarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from skd_bench.untrusted.text import escape_markdown
from skd_edge.report import formatting as f
from skd_edge.report import summary
from skd_edge.report.schema import CandidateReport, RunReport, parse_report


def render_markdown(report: Mapping[str, Any]) -> str:
    """The Markdown report of the content of a `report.json`.

    Args:
        report: The content; a part whose fields are absent or null is left out.

    Returns:
        GitHub-flavoured Markdown that ends in a newline; names and other text from the report are escaped.

    Raises:
        UserError: `report` is not the content of a `report.json`.
    """
    return render_report_markdown(parse_report(report))


def render_report_markdown(report: RunReport) -> str:
    """The Markdown report of a run; see `render_markdown`."""
    parts = [
        f"# {escape_markdown(summary.format_headline(report))}",
        escape_markdown(summary.format_reason(report)),
        _format_key_numbers(report),
        _format_candidate_table(report),
        _format_test_section(report),
        _format_label_summary(report),
        _format_small_print(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _format_key_numbers(report: RunReport) -> str:
    lines = [
        f"**{n.label}**: {append_note(n.value, escape_markdown(', '.join(n.notes)))}"
        for n in summary.build_key_numbers(report)
    ]
    return "\n".join(f"- {replace_thin_spaces(line)}" for line in lines)


def _format_candidate_table(report: RunReport) -> str:
    def balanced(c: CandidateReport) -> tuple[str, ...]:
        if not summary.shows_balanced_accuracy(report):
            return ()
        return (append_note(f.format_percent(c.balanced_accuracy), f.format_percent_range(c.balanced_interval)),)

    rows = [
        (
            f"**{escape_markdown(c.name)}**" if c.chosen else escape_markdown(c.name),
            append_note(f.format_percent(c.accuracy), f.format_percent_range(c.interval)),
            *balanced(c),
            f.format_bare_milliseconds(c.p50_ms),
            f.format_bare_milliseconds(c.p90_ms),
            f.format_bare_milliseconds(c.p99_ms),
            f.format_size(c.bytes),
            " ".join(filter(None, (n.status_label and f"*{n.status_label}*", escape_markdown(c.reason)))),
        )
        for n in summary.number_candidates(report)
        for c in (n.candidate,)
    ]
    rows += [
        (
            escape_markdown(b.name),
            append_note(f.format_percent(b.accuracy), f.format_percent_range(b.interval)),
            *balanced(b),
            f.format_bare_milliseconds(b.p50_ms),
            f.format_bare_milliseconds(b.p90_ms),
            f.format_bare_milliseconds(b.p99_ms),
            f.format_size(b.bytes),
            "*baseline*",
        )
        for b in report.baselines
    ]
    more = ("balanced accuracy",) if summary.shows_balanced_accuracy(report) else ()
    head = ("candidate", "accuracy, validation", *more, "p50 ms", "p90 ms", "p99 ms", "size", "")
    budget = report.budget
    budget_line = (
        f"Budget: {escape_markdown(budget.text)}, {f.format_milliseconds(budget.ms)}." if budget and budget.ms else ""
    )
    return "\n\n".join(
        filter(None, (format_table(head, f"lr{'r' * len(more)}rrrrl", rows), replace_thin_spaces(budget_line)))
    )


def _format_test_section(report: RunReport) -> str:
    if report.test is None:
        return summary.format_test_accesses(report)
    head, rows = ["test set", "accuracy", "95 % interval"], []
    head += ["balanced accuracy", "95 % interval"] if (more := summary.shows_balanced_accuracy(report)) else []
    for r in report.test.rows:
        row = [escape_markdown(r.name), f.format_percent(r.accuracy), f.format_percent_range(r.interval)]
        balanced = [f.format_percent(r.balanced_accuracy), f.format_percent_range(r.balanced_interval)]
        rows.append(row + balanced if more else row)
    rows_of_test = format_table(head, "l" + "r" * (len(head) - 1), rows)
    return "\n\n".join(filter(None, (rows_of_test, escape_markdown(summary.format_test_accesses(report)))))


def _format_label_summary(report: RunReport) -> str:
    labels = report.labels
    if labels is None:
        return ""
    parts = []
    if labels.accuracy_before is not None and labels.accuracy_after is not None:
        before, after = f.format_percent(labels.accuracy_before), f.format_percent(labels.accuracy_after)
        parts.append(f"{before} correct before, {after} after")
    if labels.noise_estimate is not None:
        parts.append(f"estimated noise {f.format_percent(labels.noise_estimate)}")
    if labels.changed is not None:
        parts.append(f"{labels.changed} changed" + (f" of {labels.n}" if labels.n else ""))
    if labels.unlabelled:
        parts.append(f"{labels.unlabelled} unlabelled")
    return replace_thin_spaces(f"Labels: {', '.join(parts)}.") if parts else ""


def _format_small_print(report: RunReport) -> str:
    lines = [escape_markdown(summary.format_resolution(report))] if report.resolution else []
    if report.data and report.data.quarantined:
        count = len(report.data.quarantined)
        lines.append(
            f"{count} clip{'s' if count > 1 else ''} could not be read and {'were' if count > 1 else 'was'} left out."
        )
    if report.data and report.data.copies:
        counts = Counter(copy.split for copy in report.data.copies)
        numbers = " and ".join(f"{n} {escape_markdown(split)}" for split, n in counts.items())
        lines.append(
            f"{numbers} clips are copies of clips in another split "
            "(listed in report.json), so accuracies on them are too high."
        )
    lines += [escape_markdown(note) for note in report.notes]
    cpu = report.device.get("cpu_model") or report.device.get("cpu")
    origin_parts = [
        escape_markdown(report.name),
        f"seed {report.seed}" if report.seed is not None else "",
        escape_markdown(f"skd-edge {report.version}"),
    ]
    origin_parts += [escape_markdown(str(cpu))] if isinstance(cpu, str) else []
    origin_parts += [f"run time {f.format_duration(report.seconds)}"] if report.seconds is not None else []
    bullets = "\n".join(f"- {replace_thin_spaces(line)}" for line in lines if line)
    return "\n\n".join(
        filter(None, (bullets, f"<sub>{replace_thin_spaces(' · '.join(filter(None, origin_parts)))}</sub>"))
    )


def format_table(head: Sequence[str], align: str, rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; empty without rows. `align` has a letter for each column: l (left) or r (right)."""
    if not rows:
        return ""
    rule = ["---:" if side == "r" else "---" for side in align]
    return "\n".join(f"| {' | '.join(map(replace_thin_spaces, row))} |" for row in (head, rule, *rows))


def append_note(value: str, note: str) -> str:
    """A value, followed by the note in brackets if there is one."""
    return f"{value} ({note})" if note else value


def replace_thin_spaces(text: str) -> str:
    """Replace narrow no-break spaces by plain spaces, which are easier to search and to copy."""
    return text.replace(f.THIN_SPACE, " ")
