"""Numbers and nested information as people read them."""

from __future__ import annotations

import pytest

from skd_edge.report import formatting as f


@pytest.mark.parametrize(
    ("formatted", "expected"),
    [
        (f.format_percent(0.8621), "86.2 %"),
        (f.format_percent(None), "n/a"),
        (f.format_percent_range((0.8, 0.9)), "80.0–90.0 %"),
        (f.format_milliseconds(7.123), "7.12 ms"),
        (f.format_milliseconds(9.996), "10.0 ms"),
        (f.format_milliseconds(123.4), "123 ms"),
        (f.format_size(999), "999 bytes"),
        (f.format_size(55_400), "55.4 kB"),
        (f.format_size(5_630_000), "5.63 MB"),
        (f.format_size(2_500_000_000), "2.50 GB"),
        (f.format_points(2.06), "+2.1"),
        (f.format_points(-0.4), "−0.4"),
        (f.format_points(-0.01), "±0.0"),
        (f.format_points(-10.04), "−10.0"),
        (f.format_duration(8.25), "8.2 s"),
        (f.format_duration(59.7), "1 min"),
        (f.format_duration(238.4), "3 min 58 s"),
        (f.format_duration(7500), "2 h 5 min"),
        (f.format_times(1), "once"),
        (f.format_times(3), "3 times"),
        (f.shorten_text("counter-clockwise", 10), "counte…ise"),
    ],
)
def test_numbers_are_easy_to_read(formatted: str, expected: str) -> None:
    assert formatted.replace(f.THIN_SPACE, " ") == expected


def test_device_info_becomes_rows_without_unknown_values() -> None:
    info = {"cpu": {"model_name": "x", "flags": ["a", "b"]}, "gpu": None, "vnni": False, "load": 0.123456, "none": []}
    rows = [("cpu · model name", "x"), ("cpu · flags", "a, b"), ("vnni", "no"), ("load", "0.1235")]
    assert f.flatten_to_rows(info) == rows
