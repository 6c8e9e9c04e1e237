"""Charts of classes: shares before and after label optimisation, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

from skd_edge.report import formatting as f
from skd_edge.report import summary
from skd_edge.report.charts.common import Chart, Figure, escape_label, make_axis, make_layout
from skd_edge.report.schema import RunReport


def build_class_shares_chart(report: RunReport, limit: int = 30) -> Chart | None:
    """Shares of the classes before and after label optimisation; None if they are unknown.

    Args:
        report: The report.
        limit: Largest number of classes; if there are more, those whose share changed most are shown.
    """
    labels = report.labels
    if labels is None or not (labels.class_shares_before or labels.class_shares_after):
        return None
    before, after = labels.class_shares_before, labels.class_shares_after
    names = list(dict.fromkeys([*before, *after]))
    if len(names) > limit:
        names = sorted(names, key=lambda n: -abs((after.get(n) or 0.0) - (before.get(n) or 0.0)))[:limit]
    series = [("before", before, "var(--whisker)", "/"), ("after", after, "var(--s1)", "")]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": list(range(len(names))),
            "x": [None if shares.get(n) is None else 100 * (shares[n] or 0.0) for n in names],
            "marker": {
                "color": colour,
                "pattern": {"shape": shape, "size": 5, "solidity": 0.35, "fgcolor": "var(--card)", "bgcolor": colour},
            },
            "hovertext": [f"{escape_label(n, 60)}: {f.format_percent(shares.get(n))} {name}" for n in names],
            "hoverinfo": "text",
        }
        for name, shares, colour, shape in series
        if shares
    ]
    layout = make_layout(
        xaxis=make_axis("share of the training clips, %") | {"rangemode": "tozero"}, yaxis=_make_class_axis(names)
    )
    layout |= {"barmode": "group", "bargap": 0.32, "bargroupgap": 0.08}
    layout["margin"]["l"] = 10
    change = _format_largest_change(before, after)
    alt_text = f"Shares of {len(names)} classes before and after label optimisation. Largest change: {change}."
    return Chart({"data": data, "layout": layout}, alt_text, 90 + 34 * len(names))


def _format_largest_change(before: dict[str, float | None], after: dict[str, float | None]) -> str:
    both = {n: 100 * ((after[n] or 0.0) - (before[n] or 0.0)) for n in before if n in after}
    if not both:
        return f.UNKNOWN
    name = max(both, key=lambda n: abs(both[n]))
    return f"{name}, {f.format_points(both[name])} points"


def build_confusion_chart(report: RunReport) -> Chart | None:
    """The confusion matrix of the test set; None if there is none."""
    if report.test is None or not report.test.confusion:
        return None
    names = summary.class_names(report)
    count = len(names)
    rows = report.test.confusion
    cells = [[(row[j] if j < len(row) else 0) or None for j in range(count)] for row in rows]
    totals = [max(1, sum(row)) for row in rows]
    heat = {
        "type": "heatmap",
        "z": [[100 * (v or 0) / total for v in row] for row, total in zip(cells, totals, strict=True)],
        "text": [["" if v is None else str(v) for v in row] for row in cells],
        "hovertext": [
            [f"{escape_label(names[i], 40)} → {escape_label(names[j], 40)}: {v or 0}" for j, v in enumerate(row)]
            for i, row in enumerate(cells)
        ],
        "hoverinfo": "text",
        "colorscale": [[0, "var(--heat0)"], [1, "var(--heat1)"]],
        "zmin": 0,
        "zmax": 100,
        "showscale": False,
        "xgap": 1 if count <= 60 else 0,
        "ygap": 1 if count <= 60 else 0,
    }
    if count <= 15:
        heat["texttemplate"] = "%{text}"
    x = _make_class_axis(names) | {"side": "top", "tickangle": -90, "autorange": True}
    y = _make_class_axis(names)
    layout = make_layout(xaxis=x, yaxis=y)
    layout["margin"] = {"l": 10, "r": 10, "t": 10, "b": 10}
    worst = "; ".join(f"{a} predicted as {b}, {n} clips" for a, b, n in summary.find_top_confusions(report, 3))
    alt_text = f"Confusion matrix of {count} classes. Most frequent mistakes: {worst or 'none'}."
    return Chart({"data": [heat], "layout": layout}, alt_text, min(820, 190 + (30 if count <= 15 else 14) * count))


def _make_class_axis(names: Sequence[str]) -> Figure:
    """An axis with class names as texts at positions 0, 1, ...: Plotly would parse names such as dates or numbers."""
    few = len(names) <= 45
    return {
        "tickmode": "array",
        "tickvals": list(range(len(names))) if few else [],
        "ticktext": [escape_label(n, 18) for n in names] if few else [],
        "autorange": "reversed",
        "automargin": True,
        "fixedrange": True,
        "gridcolor": "var(--line)",
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
        "ticklabelstandoff": 4,
    }
