"""The short report, for a pull request: what to ship, the table, the test rows, what the numbers can bear."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from skd_edge.report import formats as f
from skd_edge.report import summary
from skd_edge.report.result import Result, check_result

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
        f"# {_text(summary.headline(result))}",
        _text(summary.why(result)),
        _key_numbers(result),
        _candidates(result),
        _test(result),
        _labels(result),
        _small_print(result),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _key_numbers(result: Result) -> str:
    said = [f"**{n.label}**: {_with(n.value, _text(', '.join(n.notes)))}" for n in summary.key_numbers(result)]
    return "\n".join(f"- {_spaces(line)}" for line in said)


def _candidates(result: Result) -> str:
    rows = [
        (
            f"**{_text(c.name)}**" if c.chosen else _text(c.name),
            _with(f.percent(c.accuracy), f.percent_range(c.interval)),
            f.bare_milliseconds(c.p50_ms),
            f.bare_milliseconds(c.p90_ms),
            f.bare_milliseconds(c.p99_ms),
            f.size(c.bytes),
            " ".join(filter(None, (n.mark and f"*{n.mark}*", _text(c.reason)))),
        )
        for n in summary.numbered(result)
        for c in (n.it,)
    ]
    rows += [
        (
            _text(b.name),
            _with(f.percent(b.accuracy), f.percent_range(b.interval)),
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
    within = f"Budget: {_text(budget.text)}, {f.milliseconds(budget.ms)}." if budget and budget.ms else ""
    return "\n\n".join(filter(None, (_table(head, "lrrrrrl", rows), _spaces(within))))


def _test(result: Result) -> str:
    if result.test is None:
        return summary.looks(result)
    rows = [(_text(r.name), f.percent(r.accuracy), f.percent_range(r.interval)) for r in result.test.rows]
    table = _table(("test set", "accuracy", "95 % interval"), "lrr", rows)
    return "\n\n".join(filter(None, (table, _text(summary.looks(result)))))


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
    return _spaces(f"Labels: {', '.join(said)}.") if said else ""


def _small_print(result: Result) -> str:
    lines = [_text(summary.resolution(result))] if result.resolution else []
    if result.data and result.data.quarantined:
        count = len(result.data.quarantined)
        lines.append(f"{count} clip{'s' if count > 1 else ''} could not be read and stood aside.")
    lines += [_text(note) for note in result.notes]
    cpu = result.device.get("cpu_model") or result.device.get("cpu")
    made = [
        _text(result.name),
        f"seed {result.seed}" if result.seed is not None else "",
        _text(f"skd-edge {result.version}"),
    ]
    made += [_text(str(cpu))] if isinstance(cpu, str) else []
    made += [f"run time {f.duration(result.seconds)}"] if result.seconds is not None else []
    bullets = "\n".join(f"- {_spaces(line)}" for line in lines if line)
    return "\n\n".join(filter(None, (bullets, f"<sub>{_spaces(' · '.join(filter(None, made)))}</sub>")))


def _table(head: Sequence[str], align: str, rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    rule = ["---:" if side == "r" else "---" for side in align]
    return "\n".join(f"| {' | '.join(map(_spaces, row))} |" for row in (head, rule, *rows))


def _with(value: str, note: str) -> str:
    return f"{value} ({note})" if note else value


def _text(text: str) -> str:
    """Text from outside on one line, with what Markdown or HTML would read escaped."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _spaces(text: str) -> str:
    """Narrow no-break spaces are for the page; here a plain space is easier to search and to copy."""
    return text.replace(f.THIN, " ")
