"""What was seen in long videos, and where the time went, as text for people."""

from __future__ import annotations

from typing import Any

from skd_bench.text_tables import align_columns

_MAX_EVENTS = 20


def format_analysis_table(result: dict[str, Any]) -> str:
    """What `watch.watch` found, as aligned text."""
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
    lines = [f"{result['name']}, {result['file']}, on {result['device']['cpu']}", "", *align_columns([head, *rows]), ""]
    lines.append("real-time factor: seconds of work for a second of video; below 1 it keeps up with a camera")
    for row in readable:
        lines += ["", f"{row['video']}: {len(row['events'])} events"]
        lines += [
            f"  {e['start']:8.2f} to {e['end']:8.2f} s  {e['class']}  {e['probability']:.1%}"
            for e in row["events"][:_MAX_EVENTS]
        ]
        if len(row["events"]) > _MAX_EVENTS:
            lines.append(f"  and {len(row['events']) - _MAX_EVENTS} more (--json has all)")
    if (alarms := result["alarms"]) is not None:
        lines += ["", *_format_alarms(alarms)]
    lines += [row["error"] for row in result["videos"] if "error" in row]
    return "\n".join(lines)


def _format_alarms(alarms: dict[str, Any]) -> list[str]:
    low, high = alarms["interval"]
    summary = f"{alarms['false_alarms']} of {alarms['reported']} reports are false alarms: "
    summary += f"{alarms['false_alarms_per_hour']:.3g} an hour [{low:.3g}, {high:.3g}] over {alarms['hours']:.3g} h"
    rows = [
        (f"  {r['class']}", f"{r['found']} of {r['events']}", "[{:.1%}, {:.1%}]".format(*r["interval"]))
        for r in alarms["recall"]
    ]
    return [summary, *(["events found:", *align_columns(rows)] if rows else [])]
