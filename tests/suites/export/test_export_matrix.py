"""The page of the export matrix: it shows the results, and the published page belongs to the published results."""

import json
import sys

import pytest

from skd_export.exporter import PRECISIONS

CELL = {"agreement": 1.0, "relative": 2e-6, "accuracy_drop": 0.0, "verdict": None}


@pytest.fixture
def suite(root, monkeypatch):
    from bench.suites.export import export_matrix

    yield export_matrix
    for name in [n for n in sys.modules if n.startswith("bench.suites")]:
        sys.modules.pop(name, None)


def result(*rows):
    settings = {"shape": "8x24x24", "width": 8, "train": 10, "calibrate": 5, "judge": 5, "compare": 20, "epochs": 1}
    device = {"cpu": "a CPU", "cores_usable": 2}
    return {"device": device, "settings": settings, "seconds": 60, "absent": {"tensorrt": "no GPU"}, "rows": list(rows)}


def row(precision, **runtimes):
    return {
        "network": "mobile, conv",
        "accuracy": 0.5,
        "precision": precision,
        "bytes": 1500,
        "runtimes": {name.replace("_", "-"): cell for name, cell in runtimes.items()},
    }


def test_cells_show_parity_bounds_and_reasons(suite):
    worse = CELL | {"agreement": 0.9, "accuracy_drop": 3.0, "verdict": "too far"}
    text = suite.page(
        result(
            row("fp32", ort=CELL, tensorrt_rtx={"bytes": 2_000_000, "state": "built, not run"}),
            row("int8", ort=worse, tensorrt_rtx={"reason": "does not take the operator X at the node 'n1' of a.onnx"}),
        ),
        {"how": "How.", "rows": []},
    )
    assert "| 100.0%, 2e-06 | 2000 kB |" in text
    assert "| 90.0%, 2e-06, +3.0 points lost, **outside** | none (1) |" in text
    assert "built, not run" in text
    assert "(1) does not take the operator X" in text
    assert "- `tensorrt`: no GPU" in text


def test_the_page_belongs_to_the_published_results(suite):
    published, others = (json.loads(path.read_text("utf-8")) for path in (suite.RESULTS, suite.OTHERS))
    assert suite.PAGE.read_text("utf-8") == suite.page(published, others)


def test_the_matrix_is_complete_and_within_its_bounds(suite):
    """It has each family and operator at each precision, and parity on ONNX Runtime and OpenVINO."""
    rows = json.loads(suite.RESULTS.read_text("utf-8"))["rows"]
    names = {f"{family}, {operator}" for family in suite.FAMILIES for operator in suite.OPERATORS}
    assert {(r["network"], r["precision"]) for r in rows} == {(n, p) for n in names for p in PRECISIONS}
    for one in rows:
        assert one["accuracy"] > 0.75  # parity on random weights, or at chance, proves nothing
        if one["precision"] == "bf16":
            assert "implementation for Conv" in one["runtimes"].pop("ort")["reason"]
        for found in (one["runtimes"][name] for name in ("ort", "openvino") if name in one["runtimes"]):
            assert found["spread"] > 0.01
            assert found["verdict"] is None
