"""The report of a run as one self-contained HTML file that works offline; also writes both report files of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_edge.report import cascade_diagram as cascade
from skd_edge.report import charts, summary
from skd_edge.report import formatting as f
from skd_edge.report.markdown import render_report_markdown
from skd_edge.report.schema import JobReport, RunReport, load_report, parse_report

if TYPE_CHECKING:
    from jinja2 import Environment

HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"


def render_run(run_dir: Path) -> list[Path]:
    """Write `report.html` and `report.md` of a run folder from its `report.json`, each atomically.

    Args:
        run_dir: A folder that `skd-edge compress` wrote.

    Returns:
        The two files written.

    Raises:
        UserError: `report.json` is missing, invalid or of a newer version; the folder cannot be written; or jinja2 or
            plotly is not installed.
    """
    run_dir = Path(run_dir)
    report = load_report(run_dir)
    return [
        write_atomic(run_dir / HTML_FILE, render_report_html(report)),
        write_atomic(run_dir / MARKDOWN_FILE, render_report_markdown(report)),
    ]


def render_html(report: Mapping[str, Any]) -> str:
    """The HTML report of the content of a `report.json`.

    Args:
        report: The content; a part of the page whose fields are absent or null is left out.

    Returns:
        One HTML document that contains its style, scripts and figures. Equal reports give equal documents.

    Raises:
        UserError: `report` is not the content of a `report.json`, or jinja2 or plotly is not installed.
    """
    return render_report_html(parse_report(report))


def render_report_html(report: RunReport) -> str:
    """The HTML report of a run; see `render_html`."""
    return make_template_environment().get_template("page.html.j2").render(_build_template_context(report))


def make_template_environment() -> Environment:
    """The jinja2 environment of the templates of this package; all values are escaped.

    Raises:
        UserError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader
    except ImportError as error:
        raise _missing_package_error("jinja2") from error
    template_environment = Environment(
        loader=PackageLoader("skd_edge.report", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    template_environment.filters |= _FILTERS
    return template_environment


def _missing_package_error(package: str) -> UserError:
    return UserError(f"the HTML report needs {package}, which is not installed: pip install 'skd-edge[train]'")


def load_plotly_js() -> str:
    """The plotly.js that the plotly package contains, as text for a script element, marked as not to be escaped.

    Raises:
        UserError: plotly is not installed.
    """
    try:
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise _missing_package_error("plotly") from error
    return Markup(get_plotlyjs().replace("</script", "<\\/script"))


@dataclass(frozen=True)
class _LabelDecisionCount:
    """One segment of the bar of label decisions: its label, number of clips, and CSS class."""

    label: str
    count: int
    style: str


def _build_template_context(report: RunReport) -> dict[str, Any]:
    """The variables of page.html.j2."""
    numbered = summary.number_candidates(report)
    marker_styles = charts.assign_marker_styles([n.candidate for n in numbered])
    charts_by_name = {
        "tradeoff": charts.build_tradeoff_chart(report),
        "shares": charts.build_class_shares_chart(report),
        "confusion": charts.build_confusion_chart(report),
        "latency": charts.build_latency_chart(report),
        "reliability": charts.build_reliability_chart(report.test.reliability, report.test.ece)
        if report.test
        else None,
        "ecdf": charts.build_ecdf_chart(report.latency_samples, report.chosen.name if report.chosen else ""),
        "sweep": charts.build_batch_sweep_chart(report.batch_sweep),
    }
    low, high = _compute_test_range(report)
    context: dict[str, Any] = {
        "r": report,
        "thin": f.THIN_SPACE,
        "headline": summary.format_headline(report),
        "why": summary.format_reason(report),
        "metric": summary.name_metric(report),
        "shows_balanced": summary.shows_balanced_accuracy(report),
        "key_numbers": summary.build_key_numbers(report),
        "resolution": summary.format_resolution(report),
        "test_accesses": summary.format_test_accesses(report),
        "candidates": numbered,
        "marker_styles": marker_styles,
        "legend_styles": [
            s
            for key, s in marker_styles.items()
            if any(
                (n.candidate.student, n.candidate.precision, n.candidate.runtime) == key and n.candidate.trained
                for n in numbered
            )
        ],
        "has_front": any(n.candidate.on_front for n in numbered),
        "has_untrained": any(n.candidate.accuracy is None for n in numbered),
        "tree_wide": cascade.build_wide_diagram(report),
        "tree_narrow": cascade.build_narrow_diagram(report),
        "tree_alt": cascade.format_tree_alt_text(report),
        "states": {job.state for job in report.jobs if job.role not in cascade.UNDRAWN_ROLES},
        "controls": cascade.list_controls(report),
        "gain_references": cascade.list_gain_references(report),
        "test_low": low,
        "test_high": high,
        "label_decisions": _count_label_decisions(report),
        "class_count": _count_classes(report),
        "confusions": summary.find_top_confusions(report),
        "parity": [n for n in numbered if n.candidate.parity],
        "operators": _group_by_runtime([n for n in numbered if n.candidate.operators]),
        "has_joules": any(c.joules_per_clip is not None for c in (*report.candidates, *report.baselines)),
        "data_rows": _build_data_rows(report),
        "device": f.flatten_to_rows(report.device),
        "licences": f.flatten_to_rows(report.licences),
        "footer": _format_footer(report),
        "plotly": load_plotly_js() if any(charts_by_name.values()) else None,
        **charts_by_name,
    }
    return context | {"sections": _list_sections(report, context)}


def _list_sections(report: RunReport, context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Id and title of each section that the page contains, for the links at its top."""
    content_by_section = {
        ("candidates", "Candidates"): context["candidates"],
        ("cascade", "Cascade"): context["tree_wide"] or context["controls"],
        ("test", "Test set"): True,
        ("labels", "Labels"): report.labels,
        ("classes", "Classes"): report.test and (report.test.per_class or context["confusion"]),
        ("calibration", "Calibration"): context["reliability"],
        ("latency", "Latency"): context["latency"] or context["ecdf"],
        ("sweep", "Batch sweep"): context["sweep"],
        ("parity", "Parity"): context["parity"],
        ("data", "Data"): report.data or report.resolution,
        ("device", "Device"): context["device"],
        ("recipe", "Recipe"): report.recipe,
    }
    return [section for section, present in content_by_section.items() if present]


def _group_by_runtime(
    numbered: Sequence[summary.NumberedCandidate],
) -> list[tuple[str, list[summary.NumberedCandidate]]]:
    """Candidates by title of their runtime, ONNX Runtime first: each runtime has its own operators."""
    found: dict[str, list[summary.NumberedCandidate]] = {}
    for n in sorted(numbered, key=lambda n: n.candidate.runtime != "ort"):
        found.setdefault(_RUNTIME_TITLES.get(n.candidate.runtime, n.candidate.runtime or "the runtime"), []).append(n)
    return list(found.items())


def _compute_test_range(report: RunReport) -> tuple[float, float]:
    """Ends of the common axis of the test rows, 0..1, in steps of 10 %."""
    rows = report.test.rows if report.test else []
    ends = [v for row in rows for v in (*(row.interval or ()), row.accuracy) if v is not None]
    if not ends:
        return 0.0, 1.0
    return int(10 * min(ends)) / 10, min(1.0, -int(-10 * max(ends) // 1) / 10)


def _count_label_decisions(report: RunReport) -> list[_LabelDecisionCount]:
    labels = report.labels
    if labels is None:
        return []
    parts = (
        ("unchanged", labels.unchanged, "k"),
        ("changed", labels.changed, "c"),
        ("uncertain", labels.uncertain, "u"),
    )
    return [_LabelDecisionCount(label, count, style) for label, count, style in parts if count is not None]


def _count_classes(report: RunReport) -> int | None:
    classes = report.labels.classes if report.labels else None
    return len(classes) if isinstance(classes, list) else classes


def _build_data_rows(report: RunReport) -> list[tuple[str, str]]:
    data = report.data
    if data is None:
        return []
    splits = {"training clips": data.train, "validation clips": data.val, "test clips": data.test}
    return f.flatten_to_rows(splits | {"classes": len(data.classes) or None})


def _format_footer(report: RunReport) -> str:
    parts = [f"Written by skd-edge {report.version}".strip()]
    parts += [f"on {report.created}"] if report.created else []
    parts += [f"seed {report.seed}"] if report.seed is not None else []
    parts += [f"the run took {f.format_duration(report.seconds)}"] if report.seconds is not None else []
    return ", ".join(parts) + ". All numbers on this page are in report.json."


def _format_epoch_accuracy(job: JobReport, index: int) -> str:
    values = [e.accuracy for e in job.curve if e.accuracy is not None]
    return f.format_percent(values[index]) if values else f.UNKNOWN


_RUNTIME_TITLES = {"ort": "ONNX Runtime", "openvino": "OpenVINO"}
_FILTERS = {
    "percent": f.format_percent,
    "percent_range": lambda interval: f.format_percent_range(interval).removesuffix(f"{f.THIN_SPACE}%"),
    "ms": f.format_bare_milliseconds,
    "ms_range": f.format_milliseconds_range,
    "size": f.format_size,
    "points": f.format_points,
    "duration": f.format_duration,
    "decimal": f.format_decimal,
    "tiny": f.format_tiny_number,
    "flips": lambda flips: f.UNKNOWN if flips is None else len(flips) if isinstance(flips, list) else flips,
    "by_count": lambda operators: sorted(operators.items(), key=lambda item: (-item[1], item[0])),
    "sparkline": cascade.format_sparkline_points,
    "first_accuracy": lambda job: _format_epoch_accuracy(job, 0),
    "last_accuracy": lambda job: _format_epoch_accuracy(job, -1),
}
