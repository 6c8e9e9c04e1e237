"""The page of a label audit: one self-contained file on which a person checks the clips with doubtful labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from skd_bench.errors import UserError
from skd_edge.labels.audit.label_report import AuditReport, NoiseSummary
from skd_edge.report import formatting as f


def render_audit_html(audit: AuditReport, sheets: Mapping[str, str]) -> str:
    """The page of a label audit.

    Args:
        audit: The content of ``audit.json``.
        sheets: Contact sheets by clip, as ``data:`` URLs; clips without one are listed without a picture.

    Returns:
        One HTML document that contains its style and script. It fetches nothing and sends nothing; decisions stay in
        the reader's browser.

    Raises:
        UserError: jinja2 is missing.
    """
    try:
        from jinja2 import Environment, PackageLoader
    except ImportError as error:
        raise UserError("the audit's page needs jinja2: pip install 'skd-edge[train]'") from error
    environment = Environment(
        loader=PackageLoader("skd_edge.report", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": f.format_percent, "percent_range": f.format_percent_range}
    return environment.get_template("audit.html.j2").render(
        a=audit,
        sheets=sheets,
        classes=audit["noise"]["classes"],
        cells=_build_noise_cells(audit["noise"]),
        worst=_format_worst_mistakes(audit),
    )


@dataclass(frozen=True)
class _NoiseCell:
    """A cell of the noise matrix.

    Attributes:
        p: Probability of the label given the true class.
        range: Its interval.
        own: Whether the label is the true class.
        heat: Strength of the colour, 0..100; 0 if the label is the true class.
    """

    p: float
    range: tuple[float, float]
    own: bool
    heat: int


def _build_noise_cells(noise: NoiseSummary) -> list[list[_NoiseCell]]:
    """The cells of the noise matrix."""
    matrix = noise["matrix"]
    largest = max((p for i, row in enumerate(matrix) for j, p in enumerate(row) if i != j), default=0.0) or 1.0
    return [
        [
            _NoiseCell(
                p,
                (noise["low"][i][j], noise["high"][i][j]),
                i == j,
                0 if i == j else round(100 * min(p / largest, 1)),
            )
            for j, p in enumerate(row)
        ]
        for i, row in enumerate(matrix)
    ]


def _format_worst_mistakes(audit: AuditReport, limit: int = 3) -> list[str]:
    """The most frequent mistakes as sentences, if they are more frequent than with uniform noise of the same rate."""
    noise, classes = audit["noise"], audit["noise"]["classes"]
    uniform_share = noise["rate"]["value"] / max(len(classes) - 1, 1)
    pairs = [
        (noise["matrix"][i][j], f"{100 * noise['matrix'][i][j]:.0f} % of {true} are labelled {labelled}")
        for i, true in enumerate(classes)
        for j, labelled in enumerate(classes)
        if i != j and noise["low"][i][j] > 1.5 * uniform_share and noise["matrix"][i][j] > 0.03
    ]
    return [text for _, text in sorted(pairs, reverse=True)[:limit]]
