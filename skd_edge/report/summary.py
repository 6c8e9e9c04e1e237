"""What the page and the Markdown both say: derived once from the result, in words and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skd_edge.report import formatting as f
from skd_edge.report.schema import Candidate, Result, first


@dataclass(frozen=True)
class KeyNumber:
    """One tile of the band at the top: a label, its number, and what qualifies it (pieces that break as wholes)."""

    label: str
    value: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Numbered:
    """A candidate with the number that stands for it in the chart and in the table (from 1)."""

    number: int
    it: Candidate

    @property
    def mark(self) -> str:
        """What makes it special, in one word; empty for the rest."""
        if self.it.chosen:
            return "chosen"
        if not self.it.trained:
            return "not trained"
        if not self.it.eligible:
            return "ruled out"
        return "front" if self.it.on_front else ""


def numbered(result: Result) -> list[Numbered]:
    """The candidates in the order of the table: the chosen one, then by accuracy, then the untrained by latency."""

    def order(c: Candidate) -> tuple[bool, bool, float, float, str]:
        return (not c.chosen, c.accuracy is None, -(c.accuracy or 0.0), c.p50_ms or 0.0, c.name)

    chosen = result.chosen.name if result.chosen else None
    marked = [c.model_copy(update={"chosen": True}) if c.name == chosen else c for c in result.candidates]
    return [Numbered(i, c) for i, c in enumerate(sorted(marked, key=order), 1)]


def chosen_candidate(result: Result) -> Candidate | None:
    """The entry of `candidates` that was chosen; None when nothing was, or when it is not listed."""
    return next((n.it for n in numbered(result) if n.it.chosen), None)


def teacher_baseline(result: Result) -> Candidate | None:
    """The baseline that is the teacher: by the name at the root of the chosen path, else the first baseline."""
    roots = {"teacher"} | ({result.chosen.path[0]} if result.chosen and result.chosen.path else set())
    named = (b for b in result.baselines if b.student in roots or b.name.split(" ")[0] in roots)
    return first(next(named, None), next(iter(result.baselines), None))


def headline(result: Result) -> str:
    """The first line: what to ship."""
    if result.headline:
        return result.headline
    if result.chosen:
        return (
            f"Ship {result.chosen.name}: {f.percent(result.chosen.accuracy)} at {f.milliseconds(result.chosen.p50_ms)}."
        )
    return "Nothing to ship: no candidate meets the recipe's constraints."


def why(result: Result) -> str:
    """The reason behind the first line."""
    if result.chosen:
        return result.chosen.why
    reasons = sorted({c.reason for c in result.candidates if c.reason})
    return "Why not: " + "; ".join(reasons[:4]) + "." if reasons else ""


def against_teacher(result: Result) -> tuple[float | None, float | None]:
    """How many times faster than the teacher the chosen one is, and how many points it lost (negative: gained)."""
    chosen, teacher = result.chosen, teacher_baseline(result)
    if chosen is None or teacher is None:
        return None, None
    ratio = teacher.p50_ms / chosen.p50_ms if teacher.p50_ms and chosen.p50_ms else None
    both = chosen.accuracy is not None and teacher.accuracy is not None
    lost = 100 * ((teacher.accuracy or 0.0) - (chosen.accuracy or 0.0)) if both else None
    return ratio, lost


def lost_in_words(lost: float | None) -> str:
    """Points against the teacher, in words."""
    if lost is None:
        return f.UNKNOWN
    if abs(lost) < 0.05:
        return "level with the teacher"
    return f"{abs(lost):.1f} points {'lost' if lost > 0 else 'gained'}"


def key_numbers(result: Result) -> list[KeyNumber]:
    """The band of key numbers; empty when nothing was chosen."""
    chosen = result.chosen
    if chosen is None:
        return []
    band = [KeyNumber("Accuracy, validation", f.percent(chosen.accuracy), _interval_note(chosen.interval))]
    if result.test and result.test.accuracy is not None:
        band.append(KeyNumber("Accuracy, test", f.percent(result.test.accuracy), _interval_note(result.test.interval)))
    tail = (f"p90 {f.milliseconds(chosen.p90_ms)}", f"p99 {f.milliseconds(chosen.p99_ms)}")
    band += [
        KeyNumber("Latency, p50", f.milliseconds(chosen.p50_ms), tail),
        KeyNumber("Size", f.size(chosen.bytes), _kind(result)),
    ]
    ratio, lost = against_teacher(result)
    if ratio is not None or lost is not None:
        band.append(KeyNumber("Against the teacher", _speed(ratio), (lost_in_words(lost),)))
    return band


def _speed(ratio: float | None) -> str:
    if ratio is None:
        return f.UNKNOWN
    return f"{ratio:.1f}× faster" if ratio >= 1 else f"{1 / ratio:.1f}× slower"


def _interval_note(interval: Sequence[float] | None) -> tuple[str, ...]:
    return (f"95{f.THIN}% interval", f.percent_range(interval)) if interval else ()


def _kind(result: Result) -> tuple[str, ...]:
    chosen = result.chosen
    return (" · ".join(filter(None, (chosen.precision.upper(), chosen.runtime))),) if chosen else ()


def resolution(result: Result) -> str:
    """How small a difference the validation set can show."""
    known = result.resolution
    if known is None:
        return ""
    if known.text or known.points is None:
        return known.text
    clips = f"{known.n} validation clips" if known.n else "The validation set"
    return f"{clips} resolve differences of about ±{known.points:.1f} points; smaller ones are noise."


def looks(result: Result) -> str:
    """How often the test set has been looked at."""
    test = result.test
    if test is None:
        return "The test set was not looked at in this run."
    if test.looks is None:
        return ""
    name = f" ({test.hash[:12]})" if test.hash else ""
    warning = " Each look after the first makes its number a little more optimistic." if test.looks > 1 else ""
    return f"This test set{name} has been looked at {f.times(test.looks)} on this machine.{warning}"


def confusions(result: Result, most: int = 5) -> list[tuple[str, str, int]]:
    """The most frequent mistakes on the test set: true class, predicted class, clips."""
    if result.test is None:
        return []
    names = class_names(result)
    found = [
        (names[i], names[j], count)
        for i, row in enumerate(result.test.confusion)
        for j, count in enumerate(row)
        if i != j and count > 0 and i < len(names) and j < len(names)
    ]
    return sorted(found, key=lambda c: -c[2])[:most]


def class_names(result: Result) -> list[str]:
    """The classes in the order of the confusion matrix, filled up with numbers where names are missing."""
    if result.test is None:
        return list(result.data.classes) if result.data else []
    names = [c.name for c in result.test.per_class] or (list(result.data.classes) if result.data else [])
    count = len(result.test.confusion)
    return (names + [f"class {i}" for i in range(len(names), count)])[: count or len(names)]
