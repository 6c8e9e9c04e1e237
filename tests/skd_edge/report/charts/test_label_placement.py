"""Label placement: labels do not touch each other, on any screen size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skd_edge.report.charts.label_placement import place_labels

unit = st.floats(0.05, 0.95)


@given(st.lists(st.tuples(unit, unit), min_size=1, max_size=12, unique_by=lambda p: (round(p[0] * 4), round(p[1] * 4))))
def test_labels_of_spread_points_do_not_touch(points: list[tuple[float, float]]) -> None:
    area, marker = (900.0, 900.0), 10.0
    spread = [(round(x * 4) / 4 * 0.9 + 0.05, round(y * 4) / 4 * 0.9 + 0.05) for x, y in points]
    shifts = place_labels(spread, ["10"] * len(points), [marker] * len(points), areas=[area])
    centres = [(x * area[0] + dx, y * area[1] + dy) for (x, y), (dx, dy) in zip(spread, shifts, strict=True)]
    for i, (x, y) in enumerate(centres):
        assert 8 <= x <= area[0] - 8
        assert 7.5 <= y <= area[1] - 7.5
        assert all(abs(x - u) >= 16 or abs(y - v) >= 15 for u, v in centres[:i])


def test_points_above_each_other_get_labels_on_different_sides() -> None:
    shifts = place_labels([(0.5, 0.5), (0.5, 0.51)], ["1", "2"], [12, 12], areas=[(280, 350)])
    assert shifts[0] != shifts[1]


@given(x=st.floats(0.3, 0.6), apart=st.floats(0.0, 0.03))
def test_labels_of_neighbours_do_not_touch_on_any_screen(x: float, apart: float) -> None:
    screens = [(280.0, 350.0), (560.0, 350.0), (1000.0, 350.0)]
    points = [(x, 0.5), (x + apart, 0.5)]
    (right, down), (right2, down2) = place_labels(points, ["1", "2"], [11, 11], areas=screens)
    for width, _ in screens:
        assert abs(x * width + right - (x + apart) * width - right2) >= 7.9 or abs(down - down2) >= 14.9
