"""The command `skd-edge report A B C`: reads sources, refuses different devices, evaluates rules, writes output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skd_bench.benchmark.measurements import check_same_device
from skd_bench.bundle.manifest import MANIFEST_FILE
from skd_bench.errors import UsageError, UserError
from skd_bench.files import write_atomic, write_json
from skd_edge.report.comparison import html as page
from skd_edge.report.comparison import markdown as text
from skd_edge.report.comparison.readers import LoadedSource, read_source
from skd_edge.report.comparison.regression_gate import evaluate_rules, parse_rule
from skd_edge.report.comparison.schema import SCHEMA_VERSION, Comparison, ComparisonSource
from skd_edge.report.crossval.html import render_crossval
from skd_edge.report.crossval.schema import CROSSVAL_FILE
from skd_edge.report.schema import SweepPoint
from skd_edge.version import VERSION


@dataclass(frozen=True)
class ComparisonReport:
    """The output of a comparison (Markdown or JSON), and whether a rule failed."""

    text: str
    failed: bool


def compare_sources(
    paths: Sequence[Path],
    *,
    baseline: Path | None = None,
    rules: Sequence[str] = (),
    force: bool = False,
    as_json: bool = False,
    html: Path | None = None,
    table: Path | None = None,
    store: Path | None = None,
) -> ComparisonReport:
    """Compare bundles, runs and measurements. A single run or cross-validation without options: write its report again.

    Args:
        paths: The sources, see `read_source`.
        baseline: The source against which changes are computed, of any of these kinds.
        rules: Rules, see `parse_rule`.
        force: Show measurements of different devices side by side instead of refusing them.
        as_json: Return JSON instead of Markdown.
        html: File to write an HTML page to.
        table: File to write a CSV table to.
        store: File to write the comparison to as JSON, for use as a baseline.

    Returns:
        The output, and whether a rule failed.

    Raises:
        UsageError: There is no source, one is given twice, or a rule is malformed, names an unknown metric or needs a
            baseline.
        UserError: A source cannot be read, devices differ, no row could be checked, or a file cannot be written.
    """
    parsed = [parse_rule(rule) for rule in rules]
    if not paths:
        raise UsageError("there is nothing to report on; give a run folder, or several runs, bundles or measurements")
    plain = not any((baseline, rules, as_json, html, table, store))
    if len(paths) == 1 and plain and not _may_hold_measurements(paths[0]):
        if (paths[0] / CROSSVAL_FILE).is_file():
            return ComparisonReport("\n".join(map(str, render_crossval(paths[0]))), failed=False)
        from skd_edge.report.html import render_run

        return ComparisonReport("\n".join(map(str, render_run(paths[0]))), failed=False)
    loaded = [read_source(path, label) for path, label in zip(paths, make_source_labels(paths), strict=True)]
    comparison = join_sources(loaded)
    baseline_comparison = join_sources([read_source(baseline, "baseline")]) if baseline else None
    _check_one_device([*comparison.sources, *(baseline_comparison.sources if baseline_comparison else [])], force=force)
    gate_result = evaluate_rules(comparison, parsed, baseline_comparison)
    samples, sweeps = _merge_samples_and_sweeps(loaded)
    if html:
        write_atomic(
            html,
            page.render_comparison_html(comparison, baseline_comparison, gate_result, samples=samples, sweeps=sweeps),
        )
    if table:
        write_atomic(table, text.render_comparison_csv(comparison))
    if store:
        write_json(store, comparison.model_dump(mode="json", by_alias=True))
    output = (
        text.render_comparison_json(comparison, gate_result)
        if as_json
        else text.render_comparison_markdown(comparison, baseline_comparison, gate_result)
    )
    return ComparisonReport(output, failed=bool(gate_result.failures))


def _may_hold_measurements(path: Path) -> bool:
    """Whether a path may be a file of measurements or a bundle; any other folder is treated as a run."""
    return path.is_file() or (path / MANIFEST_FILE).exists()


def join_sources(loaded: Sequence[LoadedSource]) -> Comparison:
    """The rows of all sources in one comparison.

    Raises:
        UserError: No source has a measured file.
    """
    rows = [row for one in loaded for row in one.rows]
    sources = [source for one in loaded for source in one.sources]
    if not rows:
        raise UserError(f"{', '.join(s.path for s in sources)}: no measured file was found")
    return Comparison.model_validate(
        {"schema": SCHEMA_VERSION, "created_by": f"skd-edge {VERSION}", "sources": sources, "rows": rows}
    )


def make_source_labels(paths: Sequence[Path]) -> list[str]:
    """A short name for each path: its last part, or as many of its last parts as make all names different.

    Raises:
        UsageError: A path is given twice.
    """
    absolute_paths = [path.absolute() for path in paths]
    if len(set(absolute_paths)) < len(absolute_paths):
        duplicate = next(p for p, w in zip(paths, absolute_paths, strict=True) if absolute_paths.count(w) > 1)
        raise UsageError(f"{duplicate} is given twice; a comparison needs different sources")
    for depth in range(1, 1 + max((len(w.parts) for w in absolute_paths), default=0)):
        names = ["/".join(w.parts[-depth:]) for w in absolute_paths]
        if len(set(names)) == len(names):
            return names
    return [str(w) for w in absolute_paths]


def _check_one_device(sources: Sequence[ComparisonSource], *, force: bool) -> None:
    """Refuse sources that were measured on different devices, unless ``force`` is set.

    Raises:
        UserError: Two devices differ. The message names the differences if the device info of both is known.
    """
    known = [s for s in sources if s.device_id]
    other = next((s for s in known if s.device_id != known[0].device_id), None)
    if other is None or force:
        return
    hint = "; --force shows them side by side without comparing them"
    if known[0].card and other.card:
        try:
            check_same_device(known[0].card, other.card, f"{other.path} was measured")
        except UserError as error:
            raise UserError(f"{error}{hint}") from None
    raise UserError(
        f"{known[0].path} was measured on {known[0].device} (device {known[0].device_id}) and {other.path} on "
        f"{other.device} (device {other.device_id}): latencies of different devices cannot be compared{hint}"
    )


def _merge_samples_and_sweeps(
    loaded: Sequence[LoadedSource],
) -> tuple[dict[str, list[float]], dict[str, list[SweepPoint]]]:
    """Latency samples and batch sweeps of all sources, by file, and by source if there are several."""
    many = len(loaded) > 1
    samples: dict[str, list[float]] = {}
    sweeps: dict[str, list[SweepPoint]] = {}
    for one in loaded:
        suffix = f" · {one.sources[0].label}" if many else ""
        samples |= {name + suffix: values for name, values in one.samples.items()}
        sweeps |= {name + suffix: points for name, points in one.sweeps.items()}
    return samples, sweeps
