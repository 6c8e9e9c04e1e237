"""The story of `skd-edge report A B C`: read the sources, refuse what does not compare, judge, and write it down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skd_bench.benchmark.measurements import refuse_other_device
from skd_bench.bundle.manifest import MANIFEST
from skd_bench.errors import UsageError, UserError
from skd_bench.files import write_atomic, write_json
from skd_edge import __version__
from skd_edge.report.comparison import html as page
from skd_edge.report.comparison import markdown as text
from skd_edge.report.comparison.readers import Read, read_source
from skd_edge.report.comparison.regression_gate import judge, parse_rule
from skd_edge.report.comparison.schema import SCHEMA, Comparison, Source
from skd_edge.report.schema import SweepPoint


@dataclass(frozen=True)
class Reported:
    """What a comparison says (Markdown or JSON), and whether a rule failed."""

    text: str
    failed: bool


def report(
    paths: Sequence[Path],
    *,
    baseline: Path | None = None,
    rules: Sequence[str] = (),
    force: bool = False,
    as_json: bool = False,
    html: Path | None = None,
    table: Path | None = None,
    store: Path | None = None,
) -> Reported:
    """Compare bundles, runs and measurements; one run folder alone has its own report written again.

    Args:
        paths: See `sources.read_source`.
        baseline: What changes are counted from, of any of these kinds.
        rules: See `gate.parse_rule`.
        force: Put different devices side by side.
        as_json: Say it as JSON instead of Markdown.
        html: Where a page is written.
        table: Where a CSV file is written.
        store: Where the comparison is stored as JSON, to be a baseline.

    Raises:
        UsageError: A rule is malformed, names an unknown metric or needs a baseline.
        UserError: A source cannot be read, devices differ, or a file cannot be written.
    """
    parsed = [parse_rule(rule) for rule in rules]
    if not paths:
        raise UsageError("nothing to report on: give a run folder, or several runs, bundles or measurements")
    plain = not any((baseline, rules, as_json, html, table, store))
    if len(paths) == 1 and plain and not _measured(paths[0]):
        from skd_edge.report.html import render_run

        return Reported("\n".join(map(str, render_run(paths[0]))), failed=False)
    read = [read_source(path, label) for path, label in zip(paths, labels(paths), strict=True)]
    now = joined(read)
    before = joined([read_source(baseline, "baseline")]) if baseline else None
    refuse_other_devices([*now.sources, *(before.sources if before else [])], force=force)
    judged = judge(now, parsed, before)
    samples, sweeps = _raw(read)
    if html:
        write_atomic(html, page.html_of(now, before, judged, samples=samples, sweeps=sweeps))
    if table:
        write_atomic(table, text.csv_of(now))
    if store:
        write_json(store, now.model_dump(mode="json", by_alias=True))
    said = text.json_of(now, judged) if as_json else text.markdown_of(now, before, judged)
    return Reported(said, failed=bool(judged.failures))


def _measured(path: Path) -> bool:
    """Whether a path may hold measurements: a file or a bundle; any other folder is taken for a run."""
    return path.is_file() or (path / MANIFEST).exists()


def joined(read: Sequence[Read]) -> Comparison:
    """Every source's rows in one comparison.

    Raises:
        UserError: No source has a measured file.
    """
    rows = [row for one in read for row in one.rows]
    sources = [source for one in read for source in one.sources]
    if not rows:
        raise UserError(f"nothing was measured in {', '.join(s.path for s in sources)}")
    return Comparison.model_validate(
        {"schema": SCHEMA, "created_by": f"skd-edge {__version__}", "sources": sources, "rows": rows}
    )


def labels(paths: Sequence[Path]) -> list[str]:
    """A short name for each path: its last part, or as many as tell it from the others.

    Raises:
        UsageError: A path is given twice.
    """
    whole = [path.absolute() for path in paths]
    if len(set(whole)) < len(whole):
        twice = next(p for p, w in zip(paths, whole, strict=True) if whole.count(w) > 1)
        raise UsageError(f"{twice} is given twice; a comparison needs different sources")
    for depth in range(1, 1 + max((len(w.parts) for w in whole), default=0)):
        names = ["/".join(w.parts[-depth:]) for w in whole]
        if len(set(names)) == len(names):
            return names
    return [str(w) for w in whole]


def refuse_other_devices(sources: Sequence[Source], *, force: bool) -> None:
    """Milliseconds of different devices are not compared unless that is forced.

    Raises:
        UserError: Two devices differ; says in what, where both cards are known.
    """
    known = [s for s in sources if s.device_id]
    other = next((s for s in known if s.device_id != known[0].device_id), None)
    if other is None or force:
        return
    hint = "; --force puts them side by side without comparing them"
    if known[0].card and other.card:
        try:
            refuse_other_device(known[0].card, other.card, f"{other.path} was measured")
        except UserError as error:
            raise UserError(f"{error}{hint}") from None
    raise UserError(
        f"{known[0].path} was measured on {known[0].device} (device {known[0].device_id}) and {other.path} on "
        f"{other.device} (device {other.device_id}): milliseconds of different devices are not compared{hint}"
    )


def _raw(read: Sequence[Read]) -> tuple[dict[str, list[float]], dict[str, list[SweepPoint]]]:
    """Samples and sweeps of every source, named by file and source."""
    many = len(read) > 1
    samples: dict[str, list[float]] = {}
    sweeps: dict[str, list[SweepPoint]] = {}
    for one in read:
        end = f" · {one.sources[0].label}" if many else ""
        samples |= {name + end: values for name, values in one.samples.items()}
        sweeps |= {name + end: points for name, points in one.sweeps.items()}
    return samples, sweeps
