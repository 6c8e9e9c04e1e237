"""The short report, for a pull request: what to ship, the table, the test rows, what the numbers can bear."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from skd_edge.report import formatting as f
from skd_edge.report import summary
from skd_edge.report.schema import Result, check_result

_SPECIAL = re.compile(r"([\\`*_\[\]<|#~&]|^[>+-])")


def render_markdown(result: Mapping[str, Any]) -> str:
    """The Markdown report of a result object (the content of `report.json`).

    Args:
        result: The object; absent or null fields leave their part out.

    Returns:
        GitHub-flavoured Markdown that ends in a newline; text from outside is escaped.

    Raises:
        UserError: The object is no result.
    """
    return markdown_of(check_result(result))


def markdown_of(result: Result) -> str:
    """The Markdown report of a checked result; see `render_markdown`."""
    parts = [
        f"# {escaped(summary.headline(result))}",
        escaped(summary.why(result)),
        _key_numbers(result),
        _candidates(result),
        _test(result),
        _labels(result),
        _small_print(result),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _key_numbers(result: Result) -> str:
    said = [f"**{n.label}**: {with_note(n.value, escaped(', '.join(n.notes)))}" for n in summary.key_numbers(result)]
    return "\n".join(f"- {plain_spaces(line)}" for line in said)


def _candidates(result: Result) -> str:
    rows = [
        (
            f"**{escaped(c.name)}**" if c.chosen else escaped(c.name),
            with_note(f.percent(c.accuracy), f.percent_range(c.interval)),
            f.bare_milliseconds(c.p50_ms),
            f.bare_milliseconds(c.p90_ms),
            f.bare_milliseconds(c.p99_ms),
            f.size(c.bytes),
            " ".join(filter(None, (n.mark and f"*{n.mark}*", escaped(c.reason)))),
        )
        for n in summary.numbered(result)
        for c in (n.it,)
    ]
    rows += [
        (
            escaped(b.name),
            with_note(f.percent(b.accuracy), f.percent_range(b.interval)),
            f.bare_milliseconds(b.p50_ms),
            f.bare_milliseconds(b.p90_ms),
            f.bare_milliseconds(b.p99_ms),
            f.size(b.bytes),
            "*baseline*",
        )
        for b in result.baselines
    ]
    head = ("candidate", "accuracy, validation", "p50 ms", "p90 ms", "p99 ms", "size", "")
    budget = result.budget
    within = f"Budget: {escaped(budget.text)}, {f.milliseconds(budget.ms)}." if budget and budget.ms else ""
    return "\n\n".join(filter(None, (table(head, "lrrrrrl", rows), plain_spaces(within))))


def _test(result: Result) -> str:
    if result.test is None:
        return summary.looks(result)
    rows = [(escaped(r.name), f.percent(r.accuracy), f.percent_range(r.interval)) for r in result.test.rows]
    rows_of_test = table(("test set", "accuracy", "95 % interval"), "lrr", rows)
    return "\n\n".join(filter(None, (rows_of_test, escaped(summary.looks(result)))))


def _labels(result: Result) -> str:
    labels = result.labels
    if labels is None:
        return ""
    said = []
    if labels.accuracy_before is not None and labels.accuracy_after is not None:
        said.append(f"{f.percent(labels.accuracy_before)} right before, {f.percent(labels.accuracy_after)} after")
    if labels.noise_estimate is not None:
        said.append(f"estimated noise {f.percent(labels.noise_estimate)}")
    if labels.changed is not None:
        said.append(f"{labels.changed} changed" + (f" of {labels.n}" if labels.n else ""))
    if labels.unlabelled:
        said.append(f"{labels.unlabelled} unlabelled")
    return plain_spaces(f"Labels: {', '.join(said)}.") if said else ""


def _small_print(result: Result) -> str:
    lines = [escaped(summary.resolution(result))] if result.resolution else []
    if result.data and result.data.quarantined:
        count = len(result.data.quarantined)
        lines.append(f"{count} clip{'s' if count > 1 else ''} could not be read and stood aside.")
    lines += [escaped(note) for note in result.notes]
    cpu = result.device.get("cpu_model") or result.device.get("cpu")
    made = [
        escaped(result.name),
        f"seed {result.seed}" if result.seed is not None else "",
        escaped(f"skd-edge {result.version}"),
    ]
    made += [escaped(str(cpu))] if isinstance(cpu, str) else []
    made += [f"run time {f.duration(result.seconds)}"] if result.seconds is not None else []
    bullets = "\n".join(f"- {plain_spaces(line)}" for line in lines if line)
    return "\n\n".join(filter(None, (bullets, f"<sub>{plain_spaces(' · '.join(filter(None, made)))}</sub>")))


def table(head: Sequence[str], align: str, rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns go left or right (`align`: a letter, l or r, for each); empty without rows."""
    if not rows:
        return ""
    rule = ["---:" if side == "r" else "---" for side in align]
    return "\n".join(f"| {' | '.join(map(plain_spaces, row))} |" for row in (head, rule, *rows))


def with_note(value: str, note: str) -> str:
    """A value with what qualifies it in brackets."""
    return f"{value} ({note})" if note else value


def escaped(text: str) -> str:
    """Text from outside on one line, with what Markdown or HTML would read escaped."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def plain_spaces(text: str) -> str:
    """Narrow no-break spaces are for the page; here a plain space is easier to search and to copy."""
    return text.replace(f.THIN, " ")
