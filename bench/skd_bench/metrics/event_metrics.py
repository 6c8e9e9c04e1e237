"""What a file reports over hours of video against what happened: recall of events, false alarms per hour."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skd_bench.errors import UserError
from skd_bench.stats import wilson_interval


@dataclass(frozen=True)
class VideoEvent:
    """Something that happens, or is said to: its video, its span in seconds and its class."""

    video: str
    start: float
    end: float
    name: str

    def is_match(self, other: VideoEvent) -> bool:
        """Whether both are of one class in one video, and overlap."""
        same = self.video == other.video and self.name == other.name
        return same and self.start < other.end and other.start < self.end


def read_events(table: Path | str, classes: Sequence[str]) -> list[VideoEvent]:
    """What happened, from a CSV with the columns `video` (a file name), `start`, `end` (seconds) and `class`.

    Raises:
        UserError: The file cannot be read, a column is missing, a number is none, or a class is unknown.
    """
    try:
        with Path(table).open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"cannot read {table}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} is no CSV file: {error}") from error
    return [_parse_event(row, f"{table}, row {number}", classes) for number, row in enumerate(rows, 2)]


def _parse_event(row: dict[str, Any], where: str, classes: Sequence[str]) -> VideoEvent:
    try:
        event = VideoEvent(Path(row["video"]).name, float(row["start"]), float(row["end"]), row["class"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: needs video, start, end (seconds) and class: {error}") from error
    if not 0 <= event.start < event.end < math.inf:
        raise UserError(f"{where}: an event starts before it ends, not from {event.start} to {event.end}")
    if event.name not in classes:
        raise UserError(f"{where}: there is no class {event.name!r}; there are: {', '.join(classes)}")
    return event


def match_events(reported: Sequence[VideoEvent], truth: Sequence[VideoEvent], hours: float) -> dict[str, Any]:
    """Compare reports with what happened.

    A report is right when it overlaps an event of its class; any other is a false alarm. An event is found when some
    report of its class overlaps it.

    Args:
        reported: What the file reported.
        truth: What happened.
        hours: Of video watched, above 0.

    Returns:
        `hours`, `reported`, `false_alarms`, `false_alarms_per_hour` with its exact Poisson 95 % `interval` (Garwood,
        1936), and `recall`: for each class that happened `class`, `events`, `found`, `recall` and `interval`.
    """
    false = sum(not any(r.is_match(t) for t in truth) for r in reported)
    low, high = poisson_interval(false)
    recall = []
    for name in sorted({t.name for t in truth}):
        class_events = [t for t in truth if t.name == name]
        found = sum(any(r.is_match(t) for r in reported) for t in class_events)
        share = found / len(class_events)
        row = {"class": name, "events": len(class_events), "found": found, "recall": share}
        recall.append(row | {"interval": list(wilson_interval(found, len(class_events)))})
    return {
        "hours": hours,
        "reported": len(reported),
        "false_alarms": false,
        "false_alarms_per_hour": false / hours,
        "interval": [low / hours, high / hours],
        "recall": recall,
    }


def poisson_interval(count: int) -> tuple[float, float]:
    """The exact 95 % interval of the mean of a count (Garwood, 1936), without scipy."""
    low = 0.0 if count == 0 else _find_poisson_mean(count - 1, 0.975)
    return low, _find_poisson_mean(count, 0.025)


def _find_poisson_mean(count: int, probability: float) -> float:
    """The mean at which a Poisson number is at most `count` with this probability."""
    low, high = 0.0, count + 10 * math.sqrt(count + 1) + 10
    for _ in range(80):
        middle = (low + high) / 2
        terms = (math.exp(k * math.log(middle) - middle - math.lgamma(k + 1)) for k in range(count + 1))
        low, high = (middle, high) if math.fsum(terms) > probability else (low, middle)
    return (low + high) / 2
