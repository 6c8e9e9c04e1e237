"""The cascades as a tree of boxes: where each leg's box and its edge go. The template only draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from skd_edge.report import formatting as f
from skd_edge.report.schema import Leg, Result

APART = ("control", "rung")
"""Roles of legs that no candidate comes from: they are listed, and not drawn in the tree."""


@dataclass
class _Node:
    """A network at its place in a cascade; `leg` is None where it was given and no leg trained it."""

    path: tuple[str, ...]
    leg: Leg | None
    children: list[_Node] = field(default_factory=list)


@dataclass(frozen=True)
class Box:
    """A drawn leg: pixels of its box, its lines of text, and the edge that leads to it."""

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
class Drawing:
    """A tree laid out: its size in pixels and its boxes, parents first."""

    width: float
    height: float
    boxes: list[Box]
    narrow: bool


def tree(legs: Sequence[Leg]) -> list[_Node]:
    """The forest of the legs that lead to a candidate, by their paths; networks without a leg of their own stand in."""
    real = [leg for leg in legs if leg.role not in APART]
    nodes: list[_Node] = []
    roots: list[_Node] = []
    for leg in sorted(real, key=lambda leg: len(leg.path)):
        node = _Node(tuple(leg.path) or (leg.learner,), leg)
        _parent(node, nodes, roots).append(node)
        nodes.append(node)
    return roots


def _parent(node: _Node, nodes: list[_Node], roots: list[_Node]) -> list[_Node]:
    """Where a node hangs: under the leg that taught it, else under its path's beginning, made up where missing."""
    before = node.path[:-1]
    if not before:
        return roots
    above = [n for n in nodes if n.path == before]
    taught = [n for n in above if n.leg and node.leg and n.leg.leg == node.leg.teacher and n.leg.leg]
    if taught or above:
        return (taught or above)[0].children
    given = _Node(before, None)
    _parent(given, nodes, roots).append(given)
    nodes.append(given)
    return given.children


def wide(result: Result) -> Drawing | None:
    """The tree from left to right, for wide screens and print."""
    roots = tree(result.legs)
    if not roots:
        return None
    width, height, across, down = 204.0, 72.0, 104.0, 18.0
    middles, rows = _middles(roots, height, down)
    boxes = []
    for node, parent, depth in _walk(roots):
        x, middle = depth * (width + across) + 2, middles[id(node)]
        edge = (
            f"M{x - across:.0f} {middles[id(parent)]:.0f} H{x - across + 22:.0f} V{middle:.0f} H{x:.0f}"
            if parent
            else ""
        )
        boxes.append(_box(node, result, (x, middle - height / 2, width, height), edge, (x - 8, middle - 7)))
    columns = 1 + max(depth for _, _, depth in _walk(roots))
    return Drawing(columns * (width + across) - across + 4, rows * (height + down) - down + 4, boxes, narrow=False)


def _middles(roots: Sequence[_Node], height: float, down: float) -> tuple[dict[int, float], int]:
    """The height of each box's middle, by `id` of its node, and the rows used: leaves in rows, parents centred."""
    middles: dict[int, float] = {}
    rows = 0

    def settle(node: _Node) -> float:
        nonlocal rows
        below = [settle(child) for child in node.children]
        if not below:
            below = [rows * (height + down) + height / 2 + 2]
            rows += 1
        middles[id(node)] = (below[0] + below[-1]) / 2
        return middles[id(node)]

    for root in roots:
        settle(root)
    return middles, rows


def narrow(result: Result) -> Drawing | None:
    """The tree as an indented list of boxes, for phones: 340 pixels wide."""
    roots = tree(result.legs)
    if not roots:
        return None
    height, down, total = 72.0, 10.0, 340.0
    tops: dict[int, float] = {}
    boxes: list[Box] = []
    for node, parent, depth in _walk(roots):
        x, y = min(depth, 6) * 20.0 + 2, len(boxes) * (height + down) + 2
        tops[id(node)] = y
        edge = f"M{x - 10:.0f} {tops[id(parent)] + height:.0f} V{y + height / 2:.0f} H{x:.0f}" if parent else ""
        boxes.append(_box(node, result, (x, y, total - x - 2, height), edge, (total - 14, y + 24)))
    return Drawing(total, len(boxes) * (height + down) - down + 4, boxes, narrow=True)


def _walk(
    nodes: Sequence[_Node], parent: _Node | None = None, depth: int = 0
) -> Iterator[tuple[_Node, _Node | None, int]]:
    """Every node with its parent and depth, parents first."""
    for node in nodes:
        yield node, parent, depth
        yield from _walk(node.children, node, depth + 1)


def _box(
    node: _Node, result: Result, at: tuple[float, float, float, float], edge: str, gain_at: tuple[float, float]
) -> Box:
    leg = node.leg
    chosen = tuple(result.chosen.path) if result.chosen else ()
    accuracy = "" if leg is None or leg.accuracy is None else f.percent(leg.accuracy)
    half = f" ±{50 * (leg.interval[1] - leg.interval[0]):.1f}" if leg and leg.interval and accuracy else ""
    return Box(
        *at,
        title=f.short(node.path[-1], 19),
        number=accuracy + half,
        detail=_detail(leg),
        state=leg.state if leg and leg.state in {"trained", "cached", "pruned"} else "trained" if leg else "given",
        on_path=bool(chosen) and chosen[: len(node.path)] == node.path,
        hint=" → ".join(node.path) + (f": {leg.reason}" if leg and leg.reason else ""),
        gain=f"{f.points(leg.gain)} pts" if leg and leg.gain is not None else "",
        edge=edge,
        gain_at=gain_at,
    )


def _detail(leg: Leg | None) -> str:
    if leg is None:
        return "given"
    parts = [leg.state]
    if leg.state != "pruned":
        parts += [f.duration(leg.seconds)] if leg.seconds is not None else []
        parts += [f"{leg.epochs} epochs"] if leg.epochs else []
    return f.short(" · ".join(parts), 30)


@dataclass(frozen=True)
class Control:
    """A student trained without the method: its name, how, and its accuracy."""

    name: str
    how: str
    accuracy: str
    hint: str


def controls(result: Result) -> list[Control]:
    """The legs that only serve comparison, drawn apart from the tree."""
    return [
        Control(
            f.short(leg.learner, 24),
            f"plain KD from {f.short(leg.path[-2], 20)}" if len(leg.path) > 1 else "alone, on the weak labels",
            f"{f.percent(leg.accuracy)}{f' ({f.percent_range(leg.interval)})' if leg.interval else ''}",
            leg.reason,
        )
        for leg in result.legs
        if leg.role == "control"
    ]


def gains_over(result: Result) -> list[str]:
    """What the gains were measured against, each once."""
    return list(dict.fromkeys(leg.gain_over for leg in result.legs if leg.gain is not None and leg.gain_over))


def alt(result: Result) -> str:
    """The tree in words."""
    said = []
    for leg in (leg for leg in result.legs if leg.role not in APART):
        gain = f" ({f.points(leg.gain)} points)" if leg.gain is not None else ""
        said.append(f"{' to '.join(leg.path or [leg.learner])}: {f.percent(leg.accuracy)}{gain}, {leg.state}")
    return "Tree of cascades. " + "; ".join(said) + "."


def sparkline(leg: Leg, width: float = 96.0, height: float = 22.0) -> str:
    """Validation accuracy by epoch as the points of an SVG polyline; empty with fewer than two known epochs."""
    values = [e.accuracy for e in leg.curve if e.accuracy is not None]
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = (width - 4) / (len(values) - 1)
    return " ".join(f"{2 + i * step:.1f},{2 + (height - 4) * (1 - (v - low) / span):.1f}" for i, v in enumerate(values))
