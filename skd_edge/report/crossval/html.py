"""The report of a cross-validation as one self-contained HTML file; also writes both pages of a folder."""

from __future__ import annotations

from pathlib import Path

from skd_bench.files import write_atomic
from skd_edge.report import formatting as f
from skd_edge.report.crossval import summary
from skd_edge.report.crossval.markdown import render_crossval_markdown
from skd_edge.report.crossval.schema import ROLE_NAMES, ROLE_TITLES, CrossValidationReport, load_crossval
from skd_edge.report.html import make_template_environment

HTML_FILE = "crossval.html"
MARKDOWN_FILE = "crossval.md"


def render_crossval(folder: Path) -> list[Path]:
    """Write ``crossval.html`` and ``crossval.md`` of a folder from its ``crossval.json``, each atomically.

    Returns:
        The two files written.

    Raises:
        UserError: ``crossval.json`` is missing or invalid, the folder cannot be written, or jinja2 is not installed.
    """
    report = load_crossval(folder)
    return [
        write_atomic(folder / HTML_FILE, render_crossval_html(report)),
        write_atomic(folder / MARKDOWN_FILE, render_crossval_markdown(report)),
    ]


def render_crossval_html(report: CrossValidationReport) -> str:
    """One HTML document, in the style of the report of a run. Equal reports give equal documents.

    Raises:
        UserError: jinja2 is not installed.
    """
    ends = [end for row in report.pooled for end in (*row.balanced_interval, *row.accuracy_interval)]
    context = {
        "r": report,
        "thin": f.THIN_SPACE,
        "headline": summary.format_headline(report),
        "meaning": summary.format_meaning(report),
        "key_numbers": summary.build_key_numbers(report),
        "choices": summary.format_choices(report),
        "roles": {role: name for role, name in ROLE_NAMES.items() if report.find_pooled(role)},
        "titles": ROLE_TITLES,
        "low": max(min(ends, default=0.0) - 0.02, 0.0),
        "high": min(max(ends, default=1.0) + 0.02, 1.0),
        "failed": [fold for fold in report.folds if fold.state == "failed"],
        "device": f.flatten_to_rows(report.device),
        "footer": f"skd-edge {report.version} · seed {report.seed}",
    }
    return make_template_environment().get_template("crossval.html.j2").render(context)
