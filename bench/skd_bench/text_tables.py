"""Text tables of accuracy, long-video and benchmark results, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skd_bench.metrics.class_averages import are_unequal
from skd_bench.untrusted.text import escape_name

if TYPE_CHECKING:
    from skd_bench.benchmark.results import BenchmarkResult, BenchmarkRow
    from skd_bench.evaluation.evaluate import EvaluatedFile, EvaluationResult
    from skd_bench.inference.long_video import AnalysisResult
    from skd_bench.metrics.event_metrics import EventMetrics
    from skd_bench.metrics.reject_metrics import RejectMetrics


def format_accuracy_table(result: EvaluationResult) -> str:
    """Format a result of `skd_bench.evaluation.evaluate.evaluate` as an aligned text table."""
    lines = [f"{escape_name(result['name'])}: {result['videos']} videos, {len(result['classes'])} classes", ""]
    supports = [c["support"] for r in result["rows"] for c in r["accuracy"]["per_class"] if c["support"]]
    unequal = bool(supports) and are_unequal(supports)
    head = ["file", "views", "top-1 [95 %]", "macro-F1", "calib. error", "agrees with FP32", "decode+infer ms"]
    head[3:3] = ["balanced [95 %]"] * unequal
    lines += align_columns([head, *(_format_accuracy_row(r, unequal) for r in result["rows"])])
    lines += ["", "* the bundle's default file; the last column shows what further views cost"]
    for r in result["rows"]:
        for name, a in (("FP32", r["against_fp32"]), ("one view", r["against_one_view"])):
            if a is not None:
                low, high = (100 * v for v in a["difference_interval"])
                points = f"{100 * a['difference']:+.1f} points [{low:+.1f}, {high:+.1f}]"
                lines.append(f"{_format_title(r)} against {name}: {points}, McNemar p = {a['mcnemar']:.2g}")
        if (reject_metrics := r["rejecting"]) is not None:
            lines += ["", *_format_reject_metrics(r, reject_metrics)]
    lines += [f"not read: {escape_name(bad['path'])}: {escape_name(bad['reason'])}" for bad in result["unreadable"]]
    lines += [f"not run: {escape_name(file)}: {escape_name(reason)}" for file, reason in result["not_run"].items()]
    lines += [left_out] if (left_out := result.get("left_out")) else []
    return "\n".join(lines)


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Format rows of cells as lines: the first column is aligned left, the others right.

    Args:
        rows: At least one row; all rows have the same number of cells.
    """
    rows = [[escape_name(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    sides = [str.ljust] + [str.rjust] * (len(widths) - 1)
    return ["  ".join(s(c, w) for s, c, w in zip(sides, row, widths, strict=True)).rstrip() for row in rows]


def _format_title(row: EvaluatedFile) -> str:
    file = escape_name(row["file"])
    return f"{file}, {row['views']} views" if row["views"] > 1 else file


def _format_accuracy_row(row: EvaluatedFile, with_balanced: bool) -> tuple[str, ...]:
    accuracy, cost, fp32 = row["accuracy"], row["cost"], row["against_fp32"]
    shares = [accuracy["top1"], accuracy["balanced_accuracy"]] if with_balanced else [accuracy["top1"]]
    return (
        ("* " if row["default"] and row["views"] == 1 else "  ") + row["file"],
        str(row["views"]),
        *(f"{share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}]" for share in shares),
        f"{accuracy['macro_f1']:.3f}",
        f"{accuracy['ece']:.3f}",
        f"{fp32['agreement']:.1%}" if fp32 else "",
        f"{cost['decode_ms']:.1f} + {cost['infer_ms']:.2f}",
    )


def _format_reject_metrics(row: EvaluatedFile, metrics: RejectMetrics) -> list[str]:
    correct = "n/a" if metrics["right"] is None else f"{metrics['right']:.1%}"
    share = f"{metrics['answered']:.1%} answered, {correct} of these correct"
    lines = [f"{_format_title(row)} from probability {metrics['threshold']:g}: {share}"]
    cells = [("  class", "clips", "recall [95 %]", "false reports")]
    for r in metrics["recall"]:
        recall = "n/a"
        if r["recall"] is not None and r["interval"] is not None:
            recall = "{:.1%} [{:.1%}, {:.1%}]".format(r["recall"], *r["interval"])
        cells.append((f"  {r['class']}", str(r["support"]), recall, str(r["false_reports"])))
    return lines + align_columns(cells)


_MAX_EVENTS = 20  # events printed for each video


def format_analysis_table(result: AnalysisResult) -> str:
    """Format a result of `skd_bench.inference.long_video.analyse_videos` as an aligned text table."""
    readable = [row for row in result["videos"] if "error" not in row]
    stages = list(result["total"]["stages"])
    head = ("video", "seconds", "answers", "real-time factor", *(f"{s} %" for s in stages), "answer ms")
    rows = [
        (
            r["video"],
            f"{r['seconds']:.1f}",
            str(r["answers"]),
            f"{r['real_time_factor']:.3f}",
            *(f"{100 * r['shares'].get(s, 0.0):.1f}" for s in stages),
            f"{r['answer_ms']:.2f}",
        )
        for r in readable
    ]
    head_line = f"{result['name']}, {result['file']}, on {result['device']['cpu']}"
    lines = [escape_name(head_line), "", *align_columns([head, *rows]), ""]
    lines.append("real-time factor: processing seconds per second of video; below 1, a camera can be processed live")
    for row in readable:
        lines += ["", f"{escape_name(row['video'])}: {len(row['events'])} events"]
        lines += [
            f"  {e['start']:8.2f} to {e['end']:8.2f} s  {escape_name(e['class'])}  {e['probability']:.1%}"
            for e in row["events"][:_MAX_EVENTS]
        ]
        if len(row["events"]) > _MAX_EVENTS:
            lines.append(f"  and {len(row['events']) - _MAX_EVENTS} more (--json prints all)")
    if (alarms := result["alarms"]) is not None:
        lines += ["", *_format_alarms(alarms)]
    lines += [escape_name(row["error"]) for row in result["videos"] if "error" in row]
    return "\n".join(lines)


def _format_alarms(alarms: EventMetrics) -> list[str]:
    low, high = alarms["interval"]
    summary = f"{alarms['false_alarms']} of {alarms['reported']} reports are false alarms: "
    summary += f"{alarms['false_alarms_per_hour']:.3g} an hour [{low:.3g}, {high:.3g}] over {alarms['hours']:.3g} h"
    rows = [
        (f"  {r['class']}", f"{r['found']} of {r['events']}", "[{:.1%}, {:.1%}]".format(*r["interval"]))
        for r in alarms["recall"]
    ]
    return [summary, *(["events found:", *align_columns(rows)] if rows else [])]


def format_benchmark_table(result: BenchmarkResult) -> str:
    """Format a result of `skd_bench.benchmark.benchmark.benchmark_bundle` as an aligned text table."""
    device, contract = result["device"], result["contract"]
    lines = [
        escape_name(f"{result['name']} on {device['cpu']} (device {result['device_id']})"),
        f"one clip of {contract['frames']} frames, {contract['height']}x{contract['width']}, {result['threads']} "
        f"thread{'s' * (result['threads'] != 1)}; network only; p50 with its 95 % interval over processes",
        "",
    ]
    head = ("artefact", "p50 ms", "p90 ms", "p99 ms", "n", "load ms", "first ms", "peak MB", "file kB", "J/clip")
    rows = [head, *(_format_artefact_row(a) for a in result["artefacts"])]
    lines += align_columns(rows)
    lines += ["", "* the bundle's default file", *_format_load_lines(result["artefacts"])]
    lines += [escape_name(f"not run: {skipped['name']}: {skipped['reason']}") for skipped in result["not_run"]]
    if clips := result["clips"]:
        lines.append(
            f"before the network: decoding {clips['decode_ms']:.2f} ms, preprocessing {clips['preprocess_ms']:.2f} ms "
            f"(median of {clips['n']}, {clips['samples']} sample clips)"
        )
    reasons = sorted({a["energy"]["reason"] for a in result["artefacts"] if "reason" in a["energy"]})
    lines += [escape_name(f"energy: {reason}") for reason in reasons]
    lines += [escape_name(f"note: {note}") for note in result["notes"]]
    return "\n".join(lines)


def _format_load_lines(artefacts: list[BenchmarkRow]) -> list[str]:
    """Format the scenarios, the batches and the latency bound of every row that has them."""
    lines = []
    for artefact in artefacts:
        file = escape_name(artefact["name"])
        for name, figure in artefact.get("scenarios", {}).items():
            shortfall = "" if figure["mlperf_floor_met"] else ", shorter than MLPerf requires"
            interval_text = " [{}, {}]".format(*map(_format_number, figure["interval"])) if figure["interval"] else ""
            batch = f", batch {figure['batch']}" if "batch" in figure else ""
            figure_text = f"{figure['metric']} {_format_number(figure['value'])}{interval_text}{batch}"
            lines.append(f"{file}: {escape_name(name)}: {figure_text} ({figure['clips']} clips{shortfall})")
        for row in artefact.get("batches", []):
            speed = (
                f"{_format_number(row['clips_per_second'])} clips/s [{', '.join(map(_format_number, row['interval']))}]"
            )
            p50, p99 = _format_number(row["p50_ms"]), _format_number(row["p99_ms"])
            lines.append(f"{file}: batch {row['batch']}: p50 {p50} ms, p99 {p99} ms, {speed}")
        if bound := artefact.get("bound"):
            best_batch = (
                bound["batch"] and f"{_format_number(bound['clips_per_second'])} clips/s with batch {bound['batch']}"
            )
            limit = f"{bound['metric']} <= {_format_number(bound['bound_ms'])}"
            lines.append(f"{file}: within {limit}: {best_batch or 'no batch size: ' + bound['reason']}")
    return lines


def _format_artefact_row(artefact: BenchmarkRow) -> tuple[str, ...]:
    latency, energy = artefact["latency"], artefact["energy"]
    p50 = _format_number(latency["p50_ms"])
    if latency["p50_interval"]:
        p50 += " [{}, {}]".format(*map(_format_number, latency["p50_interval"]))
    return (
        ("* " if artefact["default"] else "  ") + artefact["name"],
        p50,
        _format_number(latency["p90_ms"]),
        _format_number(latency["p99_ms"]),
        str(latency["n"]),
        _format_number(latency["load_ms"]),
        _format_number(latency["first_ms"]),
        _format_number(latency["peak_mb"]),
        _format_number(artefact["bytes"] / 1000),
        _format_number(None if "reason" in energy else energy["joules_per_clip"]),
    )


def _format_number(value: float | None) -> str:
    """Three significant digits; n/a where the value is None, for example a percentile of too few samples."""
    if value is None:
        return "n/a"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
