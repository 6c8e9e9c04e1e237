"""The cascades as a tree of boxes: computes the position of each box and edge; the template draws them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from skd_edge.report import formatting as f
from skd_edge.report.schema import JobReport, RunReport

UNDRAWN_ROLES = ("control", "rung")
"""Roles of jobs that do not lead to a candidate; they are listed, but not drawn in the tree."""


@dataclass
class _TreeNode:
    """A network at its place in a cascade; `job` is None if no job of the run trained it."""

    path: tuple[str, ...]
    job: JobReport | None
    children: list[_TreeNode] = field(default_factory=list)


@dataclass(frozen=True)
class JobBox:
    """The box of one network in the diagram.

    Attributes:
        x: Left edge, pixels.
        y: Top edge, pixels.
        width: Pixels.
        height: Pixels.
        title: First line: the network.
        number: Second line: its accuracy with the half-width of the interval.
        detail: Third line: time or state, and epochs.
        state: "trained", "cached", "pruned" or "given".
        on_path: Whether it is on the path of the chosen candidate.
        hint: Text of the tooltip.
        gain: Gain in accuracy points, shown at the edge.
        edge: SVG path of the edge from its parent; empty for a root.
        gain_at: Position of `gain`, pixels.
    """

    x: float
    y: float
    width: float
    height: float
    title: str
    number: str
    detail: str
    state: str
    on_path: bool
    hint: str
    gain: str
    edge: str
    gain_at: tuple[float, float]


@dataclass(frozen=True)
class CascadeDiagram:
    """A tree with its layout: size in pixels, boxes with parents first, and whether it is the narrow layout."""

    width: float
    height: float
    boxes: list[JobBox]
    narrow: bool


def build_job_tree(jobs: Sequence[JobReport]) -> list[_TreeNode]:
    """The trees of the jobs that lead to a candidate.

    Args:
        jobs: The jobs of a run.

    Returns:
        The roots. A network on a path that no job trained gets a node without a job.
    """
    drawn_jobs = [job for job in jobs if job.role not in UNDRAWN_ROLES]
    nodes: list[_TreeNode] = []
    roots: list[_TreeNode] = []
    for job in sorted(drawn_jobs, key=lambda job: len(job.path)):
        node = _TreeNode(tuple(job.path) or (job.learner,), job)
        _find_sibling_list(node, nodes, roots).append(node)
        nodes.append(node)
    return roots


def _find_sibling_list(node: _TreeNode, nodes: list[_TreeNode], roots: list[_TreeNode]) -> list[_TreeNode]:
    """The list to which a node belongs: the children of its parent, or the roots.

    The parent is the node of the teacher's job, otherwise a node whose path is the node's path without its last
    network; if neither exists, that node is added.
    """
    parent_path = node.path[:-1]
    if not parent_path:
        return roots
    possible_parents = [n for n in nodes if n.path == parent_path]
    teachers = [n for n in possible_parents if n.job and node.job and n.job.job == node.job.teacher and n.job.job]
    if teachers or possible_parents:
        return (teachers or possible_parents)[0].children
    given = _TreeNode(parent_path, None)
    _find_sibling_list(given, nodes, roots).append(given)
    nodes.append(given)
    return given.children


def build_wide_diagram(report: RunReport) -> CascadeDiagram | None:
    """The tree from left to right, for wide screens and print; None without jobs."""
    roots = build_job_tree(report.jobs)
    if not roots:
        return None
    width, height, column_gap, row_gap = 204.0, 72.0, 104.0, 18.0
    centres, rows = _compute_box_centres(roots, height, row_gap)
    boxes = []
    for node, parent, depth in _iter_nodes(roots):
        x, centre = depth * (width + column_gap) + 2, centres[id(node)]
        edge = (
            f"M{x - column_gap:.0f} {centres[id(parent)]:.0f} H{x - column_gap + 22:.0f} V{centre:.0f} H{x:.0f}"
            if parent
            else ""
        )
        boxes.append(_make_job_box(node, report, (x, centre - height / 2, width, height), edge, (x - 8, centre - 7)))
    columns = 1 + max(depth for _, _, depth in _iter_nodes(roots))
    return CascadeDiagram(
        columns * (width + column_gap) - column_gap + 4, rows * (height + row_gap) - row_gap + 4, boxes, narrow=False
    )


def _compute_box_centres(roots: Sequence[_TreeNode], height: float, row_gap: float) -> tuple[dict[int, float], int]:
    """Vertical centre of each box by `id` of its node, and the number of rows: leaves in rows, parents centred."""
    centres: dict[int, float] = {}
    rows = 0

    def place_subtree(node: _TreeNode) -> float:
        nonlocal rows
        child_centres = [place_subtree(child) for child in node.children]
        if not child_centres:
            child_centres = [rows * (height + row_gap) + height / 2 + 2]
            rows += 1
        centres[id(node)] = (child_centres[0] + child_centres[-1]) / 2
        return centres[id(node)]

    for root in roots:
        place_subtree(root)
    return centres, rows


def build_narrow_diagram(report: RunReport) -> CascadeDiagram | None:
    """The tree as an indented list of boxes, 340 pixels wide, for phones; None without jobs."""
    roots = build_job_tree(report.jobs)
    if not roots:
        return None
    height, row_gap, total_width = 72.0, 10.0, 340.0
    tops: dict[int, float] = {}
    boxes: list[JobBox] = []
    for node, parent, depth in _iter_nodes(roots):
        x, y = min(depth, 6) * 20.0 + 2, len(boxes) * (height + row_gap) + 2
        tops[id(node)] = y
        edge = f"M{x - 10:.0f} {tops[id(parent)] + height:.0f} V{y + height / 2:.0f} H{x:.0f}" if parent else ""
        boxes.append(_make_job_box(node, report, (x, y, total_width - x - 2, height), edge, (total_width - 14, y + 24)))
    return CascadeDiagram(total_width, len(boxes) * (height + row_gap) - row_gap + 4, boxes, narrow=True)


def _iter_nodes(
    nodes: Sequence[_TreeNode], parent: _TreeNode | None = None, depth: int = 0
) -> Iterator[tuple[_TreeNode, _TreeNode | None, int]]:
    """Every node with its parent and depth, parents first."""
    for node in nodes:
        yield node, parent, depth
        yield from _iter_nodes(node.children, node, depth + 1)


def _make_job_box(
    node: _TreeNode,
    report: RunReport,
    rectangle: tuple[float, float, float, float],
    edge: str,
    gain_at: tuple[float, float],
) -> JobBox:
    job = node.job
    chosen = tuple(report.chosen.path) if report.chosen else ()
    accuracy = "" if job is None or job.accuracy is None else f.format_percent(job.accuracy)
    half_width = f" ±{50 * (job.interval[1] - job.interval[0]):.1f}" if job and job.interval and accuracy else ""
    return JobBox(
        *rectangle,
        title=f.shorten_text(node.path[-1], 19),
        number=accuracy + half_width,
        detail=_format_job_detail(job),
        state=job.state if job and job.state in {"trained", "cached", "pruned"} else "trained" if job else "given",
        on_path=bool(chosen) and chosen[: len(node.path)] == node.path,
        hint=" → ".join(node.path) + (f": {job.reason}" if job and job.reason else ""),
        gain=f"{f.format_points(job.gain)} pts" if job and job.gain is not None else "",
        edge=edge,
        gain_at=gain_at,
    )


def _format_job_detail(job: JobReport | None) -> str:
    if job is None:
        return "given"
    # The frame's line style shows that a job was trained here; state, duration and epochs do not fit in one line.
    is_timed = job.state == "trained" and job.seconds is not None
    parts = [f.format_duration(job.seconds) if is_timed else job.state]
    if job.epochs and job.state != "pruned":
        parts.append(f"{job.epochs} epochs")
    return f.shorten_text(" · ".join(parts), 30)


@dataclass(frozen=True)
class ControlStudent:
    """A student trained without the method: its name, how it was trained, its accuracy, and the text of the tooltip."""

    name: str
    how: str
    accuracy: str
    hint: str


def list_controls(report: RunReport) -> list[ControlStudent]:
    """The students that were trained for comparison only; they are listed below the tree."""
    return [
        ControlStudent(
            f.shorten_text(job.learner, 24),
            f"plain KD from {f.shorten_text(job.path[-2], 20)}" if len(job.path) > 1 else "alone, on the weak labels",
            f"{f.format_percent(job.accuracy)}{f' ({f.format_percent_range(job.interval)})' if job.interval else ''}",
            job.reason,
        )
        for job in report.jobs
        if job.role == "control"
    ]


def list_gain_references(report: RunReport) -> list[str]:
    """The references of the gains, without duplicates."""
    return list(dict.fromkeys(job.gain_over for job in report.jobs if job.gain is not None and job.gain_over))


def format_tree_alt_text(report: RunReport) -> str:
    """A description of the tree, for screen readers."""
    descriptions = []
    for job in (job for job in report.jobs if job.role not in UNDRAWN_ROLES):
        gain = f" ({f.format_points(job.gain)} points)" if job.gain is not None else ""
        descriptions.append(
            f"{' to '.join(job.path or [job.learner])}: {f.format_percent(job.accuracy)}{gain}, {job.state}"
        )
    return "Tree of cascades. " + "; ".join(descriptions) + "."


def format_sparkline_points(job: JobReport, width: float = 96.0, height: float = 22.0) -> str:
    """Validation accuracy by epoch as points of an SVG polyline; empty if fewer than two epochs have an accuracy."""
    values = [e.accuracy for e in job.curve if e.accuracy is not None]
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = (width - 4) / (len(values) - 1)
    return " ".join(f"{2 + i * step:.1f},{2 + (height - 4) * (1 - (v - low) / span):.1f}" for i, v in enumerate(values))
