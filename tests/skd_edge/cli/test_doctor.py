"""What doctor says about the machine that runs the tests, and about things that are broken."""

from __future__ import annotations

import json
import sys

from skd_bench.runtimes import registered_runtimes
from skd_edge.cli.doctor import AREA_TITLES, DiagnosticReport, Finding, _inspect_disk, _inspect_module, run_diagnostics


def test_this_machine(tmp_path):
    examined = run_diagnostics(tmp_path)
    found = {f.name: f for f in examined.findings}
    assert {"python", "cores", "memory", "disk", "ISA", "GPU", "torch", "onnx", "tensorrt", "tensorrt-rtx"} <= set(
        found
    )
    assert set(registered_runtimes()) <= {f.name for f in examined.findings if f.area == "run"}
    assert found["python"].ok
    assert found["torch"].ok == ("torch" in sys.modules)
    assert str(tmp_path) in found["disk"].detail
    assert {f.area for f in examined.findings} == set(AREA_TITLES)
    assert all(f.detail for f in examined.findings)
    assert json.loads(json.dumps(examined.to_json()))["can"] == examined.capabilities()


def test_text_says_why_and_how():
    text = DiagnosticReport((Finding("run", "x", False, "not installed", "pip install x"),)).to_text()
    assert "missing  x" in text
    assert "pip install x" in text
    assert "Run: no" in text
    assert "Train: no" in text


def test_absent_and_broken_modules_are_findings(tmp_path, monkeypatch):
    (tmp_path / "broken_for_doctor.py").write_text("raise RuntimeError('no libfoo.so')")
    (tmp_path / "lacking_for_doctor.py").write_text("import surely_absent_module")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert _inspect_module("run", "surely_absent_module", "x", "pip install x").detail == "not installed"
    broken = _inspect_module("run", "broken_for_doctor", "x", None)
    assert not broken.ok
    assert "no libfoo.so" in broken.detail
    assert _inspect_module("run", "lacking_for_doctor", "x", None).detail == "installed, but needs surely_absent_module"


def test_a_folder_that_is_not_there(tmp_path):
    assert not _inspect_disk(tmp_path / "absent").ok
