"""Places the labels of points so that they do not cover other points or labels, if possible."""

from __future__ import annotations

from collections.abc import Sequence

Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""

# Left and right first, because the vertical error bar of a point is above and below it.
_SIDES = ((1, 0), (-1, 0), (1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1), (0, 1))


def place_labels(
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    markers: Sequence[float],
    *,
    areas: Sequence[tuple[float, float]],
    letter: tuple[float, float] = (8.0, 15.0),
) -> list[tuple[float, float]]:
    """Choose a position for each label in turn: the one of eight around its point that covers the smallest area.

    Args:
        points: Positions in the plot, 0..1, x to the right and y down.
        labels: Text of each point.
        markers: Diameter of each point's marker, pixels.
        areas: Width and height of the plot in pixels, for each screen size to consider. The distance between points
            depends on the screen, but that between a point and its label does not, so labels that are apart on one
            screen may overlap on another.
        letter: Width and height of a letter, pixels.

    Returns:
        For each point the centre of the label relative to the point, in pixels, x to the right and y down.
    """
    taken = {
        a: [_rectangle_around(x * a[0], y * a[1], m, m) for (x, y), m in zip(points, markers, strict=True)]
        for a in areas
    }
    shifts = []
    for (x, y), label, marker in zip(points, labels, markers, strict=True):
        width, height = letter[0] * len(label), letter[1]
        boxes = {
            (right, down): {a: _rectangle_around(x * a[0] + right, y * a[1] + down, width, height) for a in areas}
            for right, down in (_compute_label_shift(side, marker, width, height) for side in _SIDES)
        }
        costs = {
            shift: sum(_compute_overlap_cost(box, taken[a], a) for a, box in each.items())
            for shift, each in boxes.items()
        }
        best = min(costs, key=lambda shift: costs[shift])
        shifts.append(best)
        for area, box in boxes[best].items():
            taken[area].append(box)
    return shifts


def _compute_label_shift(side: tuple[int, int], marker: float, width: float, height: float) -> tuple[float, float]:
    right, down = side
    corner = 0.7 if right and down else 1.0
    return right * (corner * marker / 2 + width / 2 + 3), down * (corner * marker / 2 + height / 2 + 1)


def _rectangle_around(x: float, y: float, width: float, height: float) -> Rectangle:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _compute_overlap_cost(box: Rectangle, taken: Sequence[Rectangle], area: tuple[float, float]) -> float:
    outside = max(0.0, -box[0]) + max(0.0, box[2] - area[0]) + max(0.0, -box[1]) + max(0.0, box[3] - area[1])
    covered = sum(
        max(0.0, min(box[2], t[2]) - max(box[0], t[0])) * max(0.0, min(box[3], t[3]) - max(box[1], t[1])) for t in taken
    )
    return covered + 100.0 * outside
