"""Sentences and numbers that both the HTML page and the Markdown report contain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skd_bench.metrics.class_averages import METRIC_NAMES
from skd_edge.report import formatting as f
from skd_edge.report.schema import CandidateReport, RunReport, first_not_none


@dataclass(frozen=True)
class KeyNumber:
    """One of the key numbers at the top of the report.

    Attributes:
        label: What the number is.
        value: The number with its unit.
        notes: Remarks below the number; a line break may come between two of them, but not within one.
    """

    label: str
    value: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NumberedCandidate:
    """A candidate with its number in the chart and in the table, from 1."""

    number: int
    candidate: CandidateReport

    @property
    def status_label(self) -> str:
        """Its status for the table: "chosen", "not trained", "ruled out", "front", or empty."""
        if self.candidate.chosen:
            return "chosen"
        if not self.candidate.trained:
            return "not trained"
        if not self.candidate.eligible:
            return "ruled out"
        return "front" if self.candidate.on_front else ""


def name_metric(report: RunReport) -> str:
    """What candidates were compared by: "accuracy", "balanced accuracy" or "macro-F1"."""
    return METRIC_NAMES[report.metric]


def shows_balanced_accuracy(report: RunReport) -> bool:
    """Whether balanced accuracy is shown beside accuracy: where it decided, or classes have unequal sizes."""
    return report.metric != "accuracy" or (report.data is not None and report.data.unequal_classes)


def read_score(report: RunReport, row: CandidateReport) -> tuple[float | None, tuple[float, float] | None]:
    """The metric that decided, of one file on the validation clips, with its interval, 0..1."""
    if report.metric == "balanced":
        return row.balanced_accuracy, row.balanced_interval
    if report.metric == "macro-f1":
        return row.macro_f1, row.macro_f1_interval
    return row.accuracy, row.interval


def plot_score_as_accuracy(report: RunReport) -> RunReport:
    """The report for a chart in which the metric that decided takes the place of the accuracy."""

    def change(row: CandidateReport) -> CandidateReport:
        value, interval = read_score(report, row)
        return row.model_copy(update={"accuracy": value, "interval": interval})

    changed = {"candidates": [change(c) for c in report.candidates], "baselines": [change(b) for b in report.baselines]}
    chosen = {"chosen": report.chosen and change(report.chosen)}
    return report.model_copy(update=changed | chosen)


def number_candidates(report: RunReport) -> list[NumberedCandidate]:
    """The candidates in the order of the table: the chosen one, the trained by the metric, the untrained by latency."""

    def sort_key(c: CandidateReport) -> tuple[bool, bool, float, float, str]:
        score, _ = read_score(report, c)
        return (not c.chosen, score is None, -(score or 0.0), c.p50_ms or 0.0, c.name)

    chosen = report.chosen.name if report.chosen else None
    marked = [c.model_copy(update={"chosen": True}) if c.name == chosen else c for c in report.candidates]
    return [NumberedCandidate(i, c) for i, c in enumerate(sorted(marked, key=sort_key), 1)]


def find_chosen_candidate(report: RunReport) -> CandidateReport | None:
    """The chosen entry of `candidates`; None if no candidate was chosen or the chosen one is not listed."""
    return next((n.candidate for n in number_candidates(report) if n.candidate.chosen), None)


def find_teacher_baseline(report: RunReport) -> CandidateReport | None:
    """The baseline with the name of the first network of the chosen path, else the first baseline; None without any."""
    roots = {"teacher"} | ({report.chosen.path[0]} if report.chosen and report.chosen.path else set())
    named = (b for b in report.baselines if b.student in roots or b.name.split(" ")[0] in roots)
    return first_not_none(next(named, None), next(iter(report.baselines), None))


def format_headline(report: RunReport) -> str:
    """The headline: what to ship."""
    if report.headline:
        return report.headline
    if report.chosen:
        score, latency = read_score(report, report.chosen)[0], f.format_milliseconds(report.chosen.p50_ms)
        of = "" if report.metric == "accuracy" else f" {name_metric(report)}"
        return f"Ship {report.chosen.name}: {f.format_percent(score)}{of} at {latency}."
    return "Nothing to ship: no candidate meets the recipe's constraints."


def format_reason(report: RunReport) -> str:
    """The reason for the headline: why the candidate was chosen, or why none was."""
    if report.chosen:
        return report.chosen.why
    reasons = sorted({c.reason for c in report.candidates if c.reason})
    return "Reasons: " + "; ".join(reasons[:4]) + "." if reasons else ""


def compare_with_teacher(report: RunReport) -> tuple[float | None, float | None]:
    """The chosen candidate against the teacher.

    Returns:
        The teacher's p50 divided by the candidate's, and the teacher's metric minus the candidate's, in points; None
        where a number is unknown.
    """
    chosen, teacher = report.chosen, find_teacher_baseline(report)
    if chosen is None or teacher is None:
        return None, None
    ratio = teacher.p50_ms / chosen.p50_ms if teacher.p50_ms and chosen.p50_ms else None
    own, best = read_score(report, chosen)[0], read_score(report, teacher)[0]
    lost = None if own is None or best is None else 100 * (best - own)
    return ratio, lost


def format_points_lost(lost: float | None) -> str:
    """The difference in accuracy to the teacher, as text."""
    if lost is None:
        return f.UNKNOWN
    if abs(lost) < 0.05:
        return "as accurate as the teacher"
    return f"{abs(lost):.1f} points {'lost' if lost > 0 else 'gained'}"


def build_key_numbers(report: RunReport) -> list[KeyNumber]:
    """The key numbers at the top of the report; empty if no candidate was chosen."""
    chosen = report.chosen
    if chosen is None:
        return []
    band = [
        KeyNumber("Accuracy, validation", f.format_percent(chosen.accuracy), _format_interval_note(chosen.interval))
    ]
    if report.test and report.test.accuracy is not None:
        band.append(
            KeyNumber(
                "Accuracy, test", f.format_percent(report.test.accuracy), _format_interval_note(report.test.interval)
            )
        )
    band += _build_balanced_numbers(report)
    tail = (f"p90 {f.format_milliseconds(chosen.p90_ms)}", f"p99 {f.format_milliseconds(chosen.p99_ms)}")
    band += [
        KeyNumber("Latency, p50", f.format_milliseconds(chosen.p50_ms), tail),
        KeyNumber("Size", f.format_size(chosen.bytes), _format_precision_and_runtime(report)),
    ]
    ratio, lost = compare_with_teacher(report)
    if ratio is not None or lost is not None:
        band.append(KeyNumber("Versus the teacher", _format_speed_ratio(ratio), (format_points_lost(lost),)))
    return band


def _build_balanced_numbers(report: RunReport) -> list[KeyNumber]:
    chosen, test = report.chosen, report.test
    if chosen is None or not shows_balanced_accuracy(report):
        return []
    numbers = [("validation", chosen.balanced_accuracy, chosen.balanced_interval)]
    numbers += [("test", test.balanced_accuracy, test.balanced_interval)] if test else []
    return [
        KeyNumber(f"Balanced accuracy, {where}", f.format_percent(value), _format_interval_note(interval))
        for where, value, interval in numbers
        if value is not None
    ]


def _format_speed_ratio(ratio: float | None) -> str:
    if ratio is None:
        return f.UNKNOWN
    return f"{ratio:.1f}× faster" if ratio >= 1 else f"{1 / ratio:.1f}× slower"


def _format_interval_note(interval: Sequence[float] | None) -> tuple[str, ...]:
    return (f"95{f.THIN_SPACE}% interval", f.format_percent_range(interval)) if interval else ()


def _format_precision_and_runtime(report: RunReport) -> tuple[str, ...]:
    chosen = report.chosen
    return (" · ".join(filter(None, (chosen.precision.upper(), chosen.runtime))),) if chosen else ()


def format_resolution(report: RunReport) -> str:
    """A sentence on the smallest difference that the validation clips can show; empty if unknown."""
    known = report.resolution
    if known is None:
        return ""
    if known.text or known.points is None:
        return known.text
    clips = f"{known.n} validation clips" if known.n else "The validation clips"
    return f"{clips} can show differences of about {known.points:.1f} points; smaller differences may be chance."


def format_test_accesses(report: RunReport) -> str:
    """A sentence on how often the test set has been evaluated; empty if unknown."""
    test = report.test
    if test is None:
        return "The test set was not evaluated in this run."
    if test.looks is None:
        return ""
    name = f" ({test.hash[:12]})" if test.hash else ""
    warning = " Each evaluation after the first makes the result slightly more optimistic." if test.looks > 1 else ""
    return f"This test set{name} has been evaluated {f.format_times(test.looks)} on this machine.{warning}"


def find_top_confusions(report: RunReport, limit: int = 5) -> list[tuple[str, str, int]]:
    """The most frequent mistakes on the test set: true class, predicted class, number of clips."""
    if report.test is None:
        return []
    names = class_names(report)
    found = [
        (names[i], names[j], count)
        for i, row in enumerate(report.test.confusion)
        for j, count in enumerate(row)
        if i != j and count > 0 and i < len(names) and j < len(names)
    ]
    return sorted(found, key=lambda c: -c[2])[:limit]


def class_names(report: RunReport) -> list[str]:
    """The classes in the order of the confusion matrix; a class without a name is called "class 3", for example."""
    if report.test is None:
        return list(report.data.classes) if report.data else []
    names = [c.name for c in report.test.per_class] or (list(report.data.classes) if report.data else [])
    count = len(report.test.confusion)
    return (names + [f"class {i}" for i in range(len(names), count)])[: count or len(names)]
