"""Formats numbers for people. An unknown value is "n/a"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNKNOWN = "n/a"
THIN_SPACE = "\u202f"
"""A narrow no-break space between a number and its unit, so that both are on one line."""


def format_percent(share: float | None, digits: int = 1) -> str:
    """A share (0..1) in percent, such as "86.2 %"."""
    return UNKNOWN if share is None else f"{100 * share:.{digits}f}{THIN_SPACE}%"


def format_percent_range(interval: Sequence[float] | None) -> str:
    """An interval of shares (0..1) in percent, such as "82.4–89.7 %"; empty when unknown."""
    return "" if interval is None else f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}{THIN_SPACE}%"


def format_milliseconds(value: float | None) -> str:
    """Milliseconds with three significant digits, such as "7.12 ms"."""
    return UNKNOWN if value is None else f"{_format_three_digits(value)}{THIN_SPACE}ms"


def format_bare_milliseconds(value: float | None) -> str:
    """Milliseconds without the unit, for table columns whose title names it."""
    return UNKNOWN if value is None else _format_three_digits(value)


def format_milliseconds_range(interval: Sequence[float] | None) -> str:
    """An interval of milliseconds without the unit, such as "7.01–7.33"; empty when unknown."""
    return "" if interval is None else f"{_format_three_digits(interval[0])}–{_format_three_digits(interval[1])}"


def format_size(count: int | None) -> str:
    """Bytes in decimal units, such as "412 kB" or "3.41 MB"."""
    if count is None:
        return UNKNOWN
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if abs(value) < 1000:
            return (
                f"{count}{THIN_SPACE}{unit}" if unit == "bytes" else f"{_format_three_digits(value)}{THIN_SPACE}{unit}"
            )
        value /= 1000
    return f"{_format_three_digits(value)}{THIN_SPACE}GB"


def format_points(value: float | None) -> str:
    """A difference in accuracy points with its sign, such as "+2.1" or "−0.4"."""
    return (
        UNKNOWN if value is None else f"{value:+.1f}".replace("-", "−").replace("+0.0", "±0.0").replace("−0.0", "±0.0")
    )


def format_duration(seconds: float | None) -> str:
    """A duration given in seconds, such as "48 s", "4 min 12 s" or "2 h 5 min"."""
    if seconds is None:
        return UNKNOWN
    if seconds < 10:
        return f"{seconds:.1f}{THIN_SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{THIN_SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{THIN_SPACE}min" + (f" {whole % 60}{THIN_SPACE}s" if whole % 60 else "")
    return f"{whole // 3600}{THIN_SPACE}h {whole % 3600 // 60}{THIN_SPACE}min"


def format_decimal(value: float | None, digits: int = 2) -> str:
    """A number with a fixed number of decimals."""
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def format_tiny_number(value: float | None) -> str:
    """A number that may be very small, such as a difference of logits, with two significant digits."""
    return UNKNOWN if value is None else f"{value:.2g}"


def shorten_text(text: str, max_length: int) -> str:
    """A text of at most `max_length` characters; a longer one is cut in the middle, since ends often differ."""
    if len(text) <= max_length:
        return text
    tail = max(1, max_length // 3)
    return f"{text[: max_length - tail - 1]}…{text[-tail:]}"


def format_times(value: int) -> str:
    """How often: "never", "once", "twice" or "3 times"."""
    return {0: "never", 1: "once", 2: "twice"}.get(value, f"{value} times")


def flatten_to_rows(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested information, such as device info, as flat rows.

    Args:
        values: The information; None and empty values are left out.
        prefix: Prepended to every label.

    Returns:
        (label, value) pairs; the labels of nested values are joined by " · ".
    """
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        label = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            rows += flatten_to_rows(value, f"{label} · ")
        elif isinstance(value, list | tuple):
            rows += [(label, ", ".join(map(str, value)))] if value else []
        elif value is not None and value != "":
            rows.append(
                (label, {True: "yes", False: "no"}[value] if isinstance(value, bool) else _format_plain_value(value))
            )
    return rows


def _format_plain_value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _format_three_digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
