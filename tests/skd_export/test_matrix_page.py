"""The page of the conformance matrix says what the numbers say, and the published one is of the published numbers."""

import sys

import pytest

CELL = {"agreement": 1.0, "relative": 2e-6, "accuracy_drop": 0.0, "verdict": None}


@pytest.fixture
def suite(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "bench" / "suites"))
    import export_matrix

    yield export_matrix
    sys.modules.pop("export_matrix", None)


def result(*rows):
    settings = {"shape": "8x24x24", "width": 8, "epochs": 1, "train": 10, "compare": 20}
    device = {"cpu": "a CPU", "cores_usable": 2}
    return {"device": device, "settings": settings, "seconds": 60, "absent": {"tensorrt": "no GPU"}, "rows": list(rows)}


def row(precision, **runtimes):
    return {"network": "mobile, conv", "accuracy": 0.5, "precision": precision, "bytes": 1500,
            "runtimes": {name.replace("_", "-"): cell for name, cell in runtimes.items()}}  # fmt: skip


def test_cells_tell_parity_bounds_and_reasons(suite):
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
