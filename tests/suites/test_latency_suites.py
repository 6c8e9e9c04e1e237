"""Latency suites: ratios, goals and pages, and that the published pages belong to the published results."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pytest

from skd_bench.benchmark.latency import LatencyResult
from skd_bench.stats import percentile_interval


@pytest.fixture
def suites(root, monkeypatch):
    """The repository; the suites' modules are removed after the test, so that each test imports them again."""
    yield root
    for name in [n for n in sys.modules if n.startswith("bench.suites")]:
        sys.modules.pop(name, None)


def latency(name: str, ms: float) -> LatencyResult:
    samples = [[ms * (1 + 0.01 * i) for i in range(20)] for _ in range(3)]
    return LatencyResult(name, samples, percentile_interval(samples, 50), None, None, 60, 1.0, 1.0, True, None)


def measured(**ms: float) -> dict[str, LatencyResult]:
    return {key.replace("__", " ").replace("_", "-"): latency(key, value) for key, value in ms.items()}


def test_ratios_goals_and_the_fastest_runtime(suites):
    from bench.suites.latency.runtimes import compare_with_eager

    found = compare_with_eager(
        measured(torch_eager__fp32=6.0, ort__fp32=2.0, ort__int8=1.8, openvino__fp32=1.6, openvino__int8=1.0)
    )
    assert found["best"] == "openvino int8"
    assert found["best_over_eager"]["value"] == pytest.approx(6.0)
    assert found["int8_over_fp32"]["ort"]["value"] == pytest.approx(2.0 / 1.8)
    assert found["met"] == {"eager": True, "int8": True}
    slow = compare_with_eager(measured(torch_eager__fp32=6.0, ort__fp32=2.0, ort__int8=1.8, litert__fp32=1.5))
    assert (slow["best"], slow["met"]) == ("litert fp32", {"eager": False, "int8": False})
    # LiteRT has an FP32 file only: the goal for INT8 applies to the fastest runtime that supports both precisions.
    both = compare_with_eager(measured(torch_eager__fp32=6.0, ort__fp32=2.0, ort__int8=1.2, litert__fp32=1.0))
    assert (both["best"], both["met"]) == ("litert fp32", {"eager": True, "int8": True})


def test_the_speed_page_shows_the_results(suites):
    from bench.suites.latency.runtimes import compare_with_eager
    from bench.suites.latency.runtimes_page import page

    found = compare_with_eager(measured(torch_eager__fp32=6.0, ort__fp32=2.0, ort__int8=1.0))
    parity = {"n": 9, "agreement": 1.0, "relative": 1e-6, "accuracy_drop": 0.0, "verdict": None, "bytes": 1}
    kinds = {"ort": [{"op": "QLinearConv", "ran": "int8", "nodes": 17, "share": 0.75}], "openvino": {"Reorder u8": 17}}
    row = {
        "student": "a student",
        "export": {"seconds": 9.0, "files": {"fp32": parity, "int8": parity}},
        "latency": {"1": found},
        "operators": {"int8": kinds},
    }
    text = page(
        {
            "device": {"cpu": "a CPU", "cores_usable": 2},
            "after": {"load": [0.5]},
            "versions": {"ort": "1"},
            "processes": 3,
            "queries": 20,
            "rows": [row],
        }
    )
    assert "| a student | 1 | ort int8 | 6.00 [6.00, 6.00] | ort 2.00 [2.00, 2.00] |" in text
    assert "| int8 | 17 QLinearConv int8 (75%) | 17 Reorder u8 |" in text
    assert "1 of 1 rows" in text


def test_the_students_of_the_speed_suite_come_from_recipes(suites):
    from bench.suites.latency.runtimes import students

    found = students()
    assert len({s.title for s in found}) == len(found) >= 4
    assert {s.trained for s in found} == {True, False}


def test_the_pages_belong_to_the_published_results(suites):
    for name, page in (("latency.runtimes", "latency.runtimes_page"), ("export.qat", "export.qat")):
        suite = importlib.import_module(f"bench.suites.{name}")
        if suite.RESULTS.is_file():  # a run of the suite writes it
            written = importlib.import_module(f"bench.suites.{page}").page(json.loads(suite.RESULTS.read_text("utf-8")))
            assert suite.PAGE.read_text("utf-8") == written


def test_fading_hues_depend_on_the_order_of_frames(suites):
    """A class of the second half has the frames of one of the first half in reverse: only the order differs."""
    from bench.suites.fixtures import render_tints

    clips, labels = render_tints(40, 0, frames=8, size=16, fading=True)
    assert clips.shape == (40, 8, 16, 16, 3)
    colours = clips.astype(np.float64).mean((2, 3)) - clips.mean((1, 2, 3))[:, None]  # (N, T, 3), about the clip's mean
    rising = np.einsum("ntc,nc->nt", colours, 24 * np.cos(2 * np.pi * ((labels % 5)[:, None] / 5 + np.arange(3) / 3)))
    slope = rising @ np.linspace(-1, 1, 8)
    assert (np.sign(slope) == np.where(labels < 5, 1, -1)).mean() > 0.9
