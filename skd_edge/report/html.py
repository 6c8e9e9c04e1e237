"""The HTML report: one self-contained file that works offline, and the two files of a run folder."""

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
from skd_edge.report.markdown import markdown_of
from skd_edge.report.schema import Leg, Result, check_result, load_result

if TYPE_CHECKING:
    from jinja2 import Environment

HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"


def render_run(run_dir: Path) -> list[Path]:
    """Render `report.json` of a run folder to `report.html` and `report.md` beside it, atomically.

    Args:
        run_dir: A folder that `skd-edge compress` wrote.

    Returns:
        The two files written.

    Raises:
        UserError: `report.json` is missing, broken or newer; the folder cannot be written; an extra is missing.
    """
    run_dir = Path(run_dir)
    result = load_result(run_dir)
    return [
        write_atomic(run_dir / HTML_FILE, html_of(result)),
        write_atomic(run_dir / MARKDOWN_FILE, markdown_of(result)),
    ]


def render_html(result: Mapping[str, Any]) -> str:
    """The report page of a result object (the content of `report.json`).

    Args:
        result: The object; absent or null fields leave their part of the page out.

    Returns:
        One HTML document with style, scripts and figures inside. Equal results give equal text.

    Raises:
        UserError: The object is no result, or jinja2 or plotly is missing.
    """
    return html_of(check_result(result))


def html_of(result: Result) -> str:
    """The report page of a checked result; see `render_html`."""
    return environment().get_template("page.html.j2").render(_context(result))


def environment() -> Environment:
    """The templates of this package, with everything escaped.

    Raises:
        UserError: jinja2 is missing.
    """
    try:
        from jinja2 import Environment, PackageLoader
    except ImportError as error:
        raise _missing("jinja2") from error
    made = Environment(
        loader=PackageLoader("skd_edge.report", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= _FILTERS
    return made


def _missing(package: str) -> UserError:
    return UserError(f"the HTML report needs {package}, which is not installed: pip install 'skd-edge[train]'")


def plotly_js() -> str:
    """The bundled plotly.js, safe inside a script element, marked as not to be escaped."""
    try:
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise _missing("plotly") from error
    return Markup(get_plotlyjs().replace("</script", "<\\/script"))


@dataclass(frozen=True)
class _Decided:
    """One piece of the bar of label decisions."""

    label: str
    count: int
    style: str


def _context(result: Result) -> dict[str, Any]:
    """Everything the template names; it only lays out."""
    numbered = summary.numbered(result)
    signs = charts.signs([n.it for n in numbered])
    drawn = {
        "tradeoff": charts.tradeoff(result),
        "shares": charts.class_shares(result),
        "confusion": charts.confusion(result),
        "latency": charts.latency(result),
        "reliability": charts.reliability(result.test.reliability, result.test.ece) if result.test else None,
        "ecdf": charts.ecdf(result.latency_samples, result.chosen.name if result.chosen else ""),
        "sweep": charts.batch_sweep(result.batch_sweep),
    }
    low, high = _test_range(result)
    context: dict[str, Any] = {
        "r": result,
        "thin": f.THIN,
        "headline": summary.headline(result),
        "why": summary.why(result),
        "key_numbers": summary.key_numbers(result),
        "resolution": summary.resolution(result),
        "looks": summary.looks(result),
        "candidates": numbered,
        "sign_of": signs,
        "signs": [
            s
            for key, s in signs.items()
            if any((n.it.student, n.it.precision, n.it.runtime) == key and n.it.trained for n in numbered)
        ],
        "has_front": any(n.it.on_front for n in numbered),
        "has_untrained": any(n.it.accuracy is None for n in numbered),
        "tree_wide": cascade.wide(result),
        "tree_narrow": cascade.narrow(result),
        "tree_alt": cascade.alt(result),
        "states": {leg.state for leg in result.legs if leg.role not in cascade.APART},
        "controls": cascade.controls(result),
        "gains_over": cascade.gains_over(result),
        "test_low": low,
        "test_high": high,
        "decided": _decided(result),
        "class_count": _class_count(result),
        "confusions": summary.confusions(result),
        "parity": [n for n in numbered if n.it.parity],
        "operators": _by_runtime([n for n in numbered if n.it.operators]),
        "has_joules": any(c.joules_per_clip is not None for c in (*result.candidates, *result.baselines)),
        "data_rows": _data_rows(result),
        "device": f.facts(result.device),
        "licences": f.facts(result.licences),
        "footer": _footer(result),
        "plotly": plotly_js() if any(drawn.values()) else None,
        **drawn,
    }
    return context | {"sections": _sections(result, context)}


def _sections(result: Result, context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The links under the head: the sections that this page has."""
    there = {
        ("candidates", "Candidates"): context["candidates"],
        ("cascade", "Cascade"): context["tree_wide"] or context["controls"],
        ("test", "Test set"): True,
        ("labels", "Labels"): result.labels,
        ("classes", "Classes"): result.test and (result.test.per_class or context["confusion"]),
        ("calibration", "Calibration"): context["reliability"],
        ("latency", "Latency"): context["latency"] or context["ecdf"],
        ("sweep", "Batch sweep"): context["sweep"],
        ("parity", "Parity"): context["parity"],
        ("data", "Data"): result.data or result.resolution,
        ("device", "Device"): context["device"],
        ("recipe", "Recipe"): result.recipe,
    }
    return [section for section, present in there.items() if present]


def _by_runtime(numbered: Sequence[summary.Numbered]) -> list[tuple[str, list[summary.Numbered]]]:
    """Candidates by what ran them: each runtime has operators of its own."""
    found: dict[str, list[summary.Numbered]] = {}
    for n in sorted(numbered, key=lambda n: n.it.runtime != "ort"):
        found.setdefault(_RUNTIMES.get(n.it.runtime, n.it.runtime or "the runtime"), []).append(n)
    return list(found.items())


def _test_range(result: Result) -> tuple[float, float]:
    """The common scale of the test rows' whiskers, in whole tens of percent."""
    rows = result.test.rows if result.test else []
    ends = [v for row in rows for v in (*(row.interval or ()), row.accuracy) if v is not None]
    if not ends:
        return 0.0, 1.0
    return int(10 * min(ends)) / 10, min(1.0, -int(-10 * max(ends) // 1) / 10)


def _decided(result: Result) -> list[_Decided]:
    labels = result.labels
    if labels is None:
        return []
    parts = (("kept", labels.kept, "k"), ("changed", labels.changed, "c"), ("left uncertain", labels.uncertain, "u"))
    return [_Decided(label, count, style) for label, count, style in parts if count is not None]


def _class_count(result: Result) -> int | None:
    classes = result.labels.classes if result.labels else None
    return len(classes) if isinstance(classes, list) else classes


def _data_rows(result: Result) -> list[tuple[str, str]]:
    data = result.data
    if data is None:
        return []
    splits = {"training clips": data.train, "validation clips": data.val, "test clips": data.test}
    return f.facts(splits | {"classes": len(data.classes) or None})


def _footer(result: Result) -> str:
    parts = [f"Written by skd-edge {result.version}".strip()]
    parts += [f"on {result.created}"] if result.created else []
    parts += [f"seed {result.seed}"] if result.seed is not None else []
    parts += [f"the run took {f.duration(result.seconds)}"] if result.seconds is not None else []
    return ", ".join(parts) + ". All numbers of this page are in report.json."


def _accuracy_at(leg: Leg, index: int) -> str:
    values = [e.accuracy for e in leg.curve if e.accuracy is not None]
    return f.percent(values[index]) if values else f.UNKNOWN


_RUNTIMES = {"ort": "ONNX Runtime", "openvino": "OpenVINO"}
_FILTERS = {
    "percent": f.percent,
    "percent_range": lambda interval: f.percent_range(interval).removesuffix(f"{f.THIN}%"),
    "ms": f.bare_milliseconds,
    "ms_range": f.milliseconds_range,
    "size": f.size,
    "points": f.points,
    "duration": f.duration,
    "decimal": f.decimal,
    "tiny": f.tiny,
    "flips": lambda flips: f.UNKNOWN if flips is None else len(flips) if isinstance(flips, list) else flips,
    "by_count": lambda operators: sorted(operators.items(), key=lambda item: (-item[1], item[0])),
    "sparkline": cascade.sparkline,
    "first_accuracy": lambda leg: _accuracy_at(leg, 0),
    "last_accuracy": lambda leg: _accuracy_at(leg, -1),
}
