"""Metrics of reported events over long videos: recall of the true events, and false alarms per hour."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from skd_bench.errors import UserError
from skd_bench.files import open_regular_text
from skd_bench.stats import wilson_interval

EventRecall = TypedDict(
    "EventRecall", {"class": str, "events": int, "found": int, "recall": float, "interval": list[float]}
)


class EventMetrics(TypedDict):
    """Reported events compared with the true events, as a JSON object.

    `interval` is the exact Poisson 95 % interval of `false_alarms_per_hour` (Garwood, 1936). `recall` has a row for
    each class of the true events, with the Wilson interval.
    """

    hours: float
    reported: int
    false_alarms: int
    false_alarms_per_hour: float
    interval: list[float]
    recall: list[EventRecall]


@dataclass(frozen=True)
class VideoEvent:
    """An event, true or reported.

    Attributes:
        video: File name of the video.
        start: Start in seconds from the start of the video.
        end: End in seconds from the start of the video.
        name: Class of the event.
    """

    video: str
    start: float
    end: float
    name: str

    def is_match(self, other: VideoEvent) -> bool:
        """Whether both events have the same class and video, and overlap in time."""
        same = self.video == other.video and self.name == other.name
        return same and self.start < other.end and other.start < self.end


def read_events(table: Path | str, classes: Sequence[str]) -> list[VideoEvent]:
    """Read the true events from a CSV file.

    Args:
        table: A CSV file with the columns `video` (a file name), `start` and `end` (seconds) and `class`.
        classes: Classes that an event may have.

    Raises:
        UserError: The file cannot be read, a column is missing, a number cannot be parsed, an event does not start
            before it ends, or a class is unknown.
    """
    try:
        with open_regular_text(table, "utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"cannot read {table}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} is not a CSV file in UTF-8: {error}") from error
    return [_parse_event(row, f"{table}, row {number}", classes) for number, row in enumerate(rows, 2)]


def _parse_event(row: Mapping[str, str], where: str, classes: Sequence[str]) -> VideoEvent:
    try:
        event = VideoEvent(Path(row["video"]).name, float(row["start"]), float(row["end"]), row["class"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: an event needs video, start, end (seconds) and class ({error})") from error
    if not 0 <= event.start < event.end < math.inf:
        raise UserError(f"{where}: needs 0 <= start < end, but start is {event.start} and end is {event.end}")
    if event.name not in classes:
        raise UserError(f"{where}: unknown class {event.name!r}; choose from {', '.join(classes)}")
    return event


def match_events(reported: Sequence[VideoEvent], truth: Sequence[VideoEvent], hours: float) -> EventMetrics:
    """Compare reported events with the true events.

    A report is correct if it overlaps a true event of its class; any other report is a false alarm. A true event is
    found if a report of its class overlaps it.

    Args:
        reported: Events that the model reported.
        truth: Events that really happened.
        hours: Duration of the analysed video, above 0.
    """
    false = sum(not any(r.is_match(t) for t in truth) for r in reported)
    low, high = poisson_interval(false)
    recall: list[EventRecall] = []
    for name in sorted({t.name for t in truth}):
        class_events = [t for t in truth if t.name == name]
        found = sum(any(r.is_match(t) for r in reported) for t in class_events)
        recall.append(
            {
                "class": name,
                "events": len(class_events),
                "found": found,
                "recall": found / len(class_events),
                "interval": list(wilson_interval(found, len(class_events))),
            }
        )
    return {
        "hours": hours,
        "reported": len(reported),
        "false_alarms": false,
        "false_alarms_per_hour": false / hours,
        "interval": [low / hours, high / hours],
        "recall": recall,
    }


def poisson_interval(count: int) -> tuple[float, float]:
    """Exact 95 % interval of the mean of a Poisson count (Garwood, 1936), without scipy."""
    low = 0.0 if count == 0 else _find_poisson_mean(count - 1, 0.975)
    return low, _find_poisson_mean(count, 0.025)


def _find_poisson_mean(count: int, probability: float) -> float:
    """The mean at which a Poisson variable is at most `count` with this probability, by bisection."""
    low, high = 0.0, count + 10 * math.sqrt(count + 1) + 10
    for _ in range(80):
        middle = (low + high) / 2
        terms = (math.exp(k * math.log(middle) - middle - math.lgamma(k + 1)) for k in range(count + 1))
        low, high = (middle, high) if math.fsum(terms) > probability else (low, middle)
    return (low + high) / 2
