"""The figures are ones that Plotly accepts, say what the result says, and keep labels apart."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_edge.report import charts
from skd_edge.report.charts.label_placement import place_labels
from skd_edge.report.schema import RunReport, parse_report


def reliability(result: RunReport) -> charts.Chart | None:
    return charts.build_reliability_chart(result.test.reliability, result.test.ece) if result.test else None


def ecdf(result: RunReport) -> charts.Chart | None:
    return charts.build_ecdf_chart(result.latency_samples)


def batch_sweep(result: RunReport) -> charts.Chart | None:
    return charts.build_batch_sweep_chart(result.batch_sweep)


ALL = [
    charts.build_tradeoff_chart,
    charts.build_latency_chart,
    charts.build_class_shares_chart,
    charts.build_confusion_chart,
    reliability,
    ecdf,
    batch_sweep,
]


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("name", ["full_result", "hostile_result", "unlucky_result"])
def test_plotly_accepts_every_figure(sample: ModuleType, make: Any, name: str) -> None:
    chart = make(parse_report(getattr(sample, name)()))
    if chart is None:
        assert (name, make) in {
            ("unlucky_result", charts.build_latency_chart),
            ("unlucky_result", charts.build_confusion_chart),
            ("hostile_result", charts.build_latency_chart),
            ("unlucky_result", reliability),
            ("unlucky_result", ecdf),
            ("unlucky_result", batch_sweep),
        }
        return
    assert len(go.Figure(chart.figure).data) == len(chart.figure["data"]) > 0
    assert chart.alt


@pytest.mark.parametrize("make", ALL)
def test_nothing_known_is_no_chart(sample: ModuleType, make: Any) -> None:
    assert make(parse_report(sample.minimal_result())) is None


def traces(chart: charts.Chart | None) -> dict[str, Any]:
    assert chart is not None
    return {t["name"]: t for t in chart.figure["data"]}


def test_tradeoff_shows_what_the_result_says(sample: ModuleType) -> None:
    result = parse_report(sample.full_result())
    chart = charts.build_tradeoff_chart(result)
    drawn = traces(chart)
    assert result.chosen
    assert drawn["chosen"]["x"] == [result.chosen.p50_ms]
    assert drawn["chosen"]["y"] == [pytest.approx(85.5)]
    assert len(drawn["not trained"]["x"]) == 4
    assert drawn["baseline"]["y"] == [pytest.approx(88.1)]
    assert set(drawn["wide fp32"]["x"]) == {
        c.p50_ms for c in result.candidates if c.student == "wide" and c.precision == "fp32"
    }
    assert chart
    assert [s["x0"] for s in chart.figure["layout"]["shapes"]] == [8.42]
    assert {"1", "teacher fp32"} <= {a["text"] for a in chart.figure["layout"]["annotations"]}


def test_signs_in_the_chart_are_those_of_the_table(sample: ModuleType) -> None:
    result = parse_report(sample.full_result())
    drawn = traces(charts.build_tradeoff_chart(result))
    for sign in charts.assign_marker_styles(result.candidates).values():
        if sign.student != "broad":
            assert drawn[f"{sign.student} {sign.precision}"]["marker"]["symbol"] == sign.plotly_symbol


def test_precision_and_student_differ_by_more_than_colour(sample: ModuleType) -> None:
    signs = charts.assign_marker_styles(parse_report(sample.full_result()).candidates)
    assert len({s.plotly_symbol for s in signs.values()}) == len(signs) == 6


def test_confusion_counts_and_row_shares(sample: ModuleType) -> None:
    raw = sample.full_result()
    raw["test"]["confusion"] = [[3, 1], [0, 0]]
    raw["test"]["per_class"] = [{"class": "2024-01-01"}, {"class": "7"}]
    chart = charts.build_confusion_chart(parse_report(raw))
    assert chart
    heat = chart.figure["data"][0]
    assert heat["z"] == [[75.0, 25.0], [0.0, 0.0]]
    assert heat["text"] == [["3", "1"], ["", ""]]
    assert chart.figure["layout"]["xaxis"]["ticktext"] == ["2024-01-01", "7"]
    assert "2024-01-01 taken for 7, 1 clips" in chart.alt


def test_latency_says_what_lies_beyond_the_edge(sample: ModuleType) -> None:
    raw = sample.full_result()
    raw["latency_samples"][raw["chosen"]["name"]] = [3.7] * 400 + [900.0]
    raw["chosen"] |= {"p50_ms": 3.7, "p90_ms": 3.7, "p99_ms": None}
    chart = charts.build_latency_chart(parse_report(raw))
    assert chart
    assert "1 slower query lies beyond" in chart.alt
    assert sum(chart.figure["data"][0]["y"]) == 400


def test_ecdf_draws_every_file_with_dashes_of_its_own() -> None:
    chart = charts.build_ecdf_chart({"slow": [4.0, 5.0, 6.0], "fast": [1.0, 2.0, 3.0], "once": [1.0]}, bold="slow")
    drawn = traces(chart)
    assert list(drawn) == ["fast", "slow"]
    assert drawn["fast"]["y"] == pytest.approx([100 / 3, 200 / 3, 100])
    assert drawn["fast"]["line"]["dash"] != drawn["slow"]["line"]["dash"]
    assert drawn["slow"]["line"]["width"] > drawn["fast"]["line"]["width"]
    assert chart
    assert "fast 2.00" in chart.alt
    crowd = charts.build_ecdf_chart({str(i): [i + 1.0, i + 2.0] for i in range(12)}, bold="11")
    assert len(traces(crowd)) == 6
    assert "11" in traces(crowd)
    assert crowd
    assert "6 slower files are left out" in crowd.alt


def test_reliability_says_which_way_it_errs() -> None:
    point = {"n": 50, "confidence": 0.9, "accuracy": 0.6, "interval": [0.46, 0.72]}
    result = parse_report({"schema": 1, "name": "n", "test": {"reliability": [point], "ece": 0.3}})
    chart = reliability(result)
    assert chart
    assert "more sure than right, by 30.0 points" in chart.alt
    file = traces(chart)["this file"]
    assert file["error_y"]["arrayminus"] == [pytest.approx(14)]
    assert traces(chart)["clips"]["y"] == [50]


def test_the_sweep_needs_two_batches(sample: ModuleType) -> None:
    raw = sample.full_result()
    chart = batch_sweep(parse_report(raw))
    assert chart
    assert "most clips a second at batch 16" in chart.alt
    assert {tuple(t["x"]) for t in chart.figure["data"]} == {(1, 2, 4, 8, 16)}
    raw["batch_sweep"] = {n: points[:1] for n, points in raw["batch_sweep"].items()}
    assert batch_sweep(parse_report(raw)) is None


unit = st.floats(0.05, 0.95)


@given(st.lists(st.tuples(unit, unit), min_size=1, max_size=12, unique_by=lambda p: (round(p[0] * 4), round(p[1] * 4))))
def test_labels_of_spread_points_do_not_touch(points: list[tuple[float, float]]) -> None:
    area, marker = (900.0, 900.0), 10.0
    spread = [(round(x * 4) / 4 * 0.9 + 0.05, round(y * 4) / 4 * 0.9 + 0.05) for x, y in points]
    shifts = place_labels(spread, ["10"] * len(points), [marker] * len(points), areas=[area])
    middles = [(x * area[0] + dx, y * area[1] + dy) for (x, y), (dx, dy) in zip(spread, shifts, strict=True)]
    for i, (x, y) in enumerate(middles):
        assert 8 <= x <= area[0] - 8
        assert 7.5 <= y <= area[1] - 7.5
        assert all(abs(x - u) >= 16 or abs(y - v) >= 15 for u, v in middles[:i])


def test_a_crowded_column_takes_different_sides() -> None:
    shifts = place_labels([(0.5, 0.5), (0.5, 0.51)], ["1", "2"], [12, 12], areas=[(280, 350)])
    assert shifts[0] != shifts[1]


@given(x=st.floats(0.3, 0.6), apart=st.floats(0.0, 0.03))
def test_neighbours_on_one_line_keep_their_labels_apart_on_every_screen(x: float, apart: float) -> None:
    screens = [(280.0, 350.0), (560.0, 350.0), (1000.0, 350.0)]
    points = [(x, 0.5), (x + apart, 0.5)]
    (right, down), (right2, down2) = place_labels(points, ["1", "2"], [11, 11], areas=screens)
    for width, _ in screens:
        assert abs(x * width + right - (x + apart) * width - right2) >= 7.9 or abs(down - down2) >= 14.9


def on_two_runtimes(sample: ModuleType) -> dict[str, Any]:
    """The full result, every candidate also on OpenVINO."""
    raw: dict[str, Any] = sample.full_result()
    both = [
        {**c, "name": f"{c['name']} on {runtime}", "runtime": runtime, "chosen": c["chosen"] and runtime == "ort"}
        for c in raw["candidates"]
        for runtime in ("ort", "openvino")
    ]
    return raw | {"candidates": both, "chosen": raw["chosen"] | {"name": f"{raw['chosen']['name']} on ort"}}


def test_runtimes_differ_by_more_than_colour(sample: ModuleType) -> None:
    result = parse_report(on_two_runtimes(sample))
    signs = charts.assign_marker_styles(result.candidates)
    assert len({s.plotly_symbol for s in signs.values()}) == len(signs) == 12
    assert {s.legend_text for s in signs.values() if s.student == "wide"} == {
        f"wide {p} on {r}" for p in ("FP32", "INT8") for r in ("ort", "openvino")
    }
    drawn = traces(charts.build_tradeoff_chart(result))
    assert drawn["wide int8 on openvino"]["marker"]["symbol"] == signs["wide", "int8", "openvino"].plotly_symbol
    go.Figure(charts.build_tradeoff_chart(result).figure)
