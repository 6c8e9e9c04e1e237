"""Two runtimes in one recipe: every file is a candidate on each of them."""

from __future__ import annotations

import json
import time

import pytest

from skd_bench.benchmark import latency, worker
from skd_bench.benchmark.latency import LatencyTarget
from skd_bench.benchmark.measurements import DeviceMeasurements
from skd_bench.bundle.manifest import Manifest
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.device.energy.meter import EnergyMeter
from skd_bench.errors import UserError
from skd_bench.integrity.checked_files import read_checked_json
from skd_edge.evaluation.devices import make_device
from skd_edge.evaluation.file_scorer import FileScorer
from skd_edge.pipeline.compress import compress
from skd_edge.pipeline.reselect import reselect
from skd_edge.recipe.schema import Recipe
from skd_edge.recipe.sections import BenchmarkSettings
from skd_edge.report.comparison.readers import read_source
from skd_edge.run_folder import read_journal

FORMS = ["fp32 on ort", "fp32 on openvino", "fp16 on ort", "fp16 on openvino", "int8 on ort", "int8 on openvino"]
REASON = "openvino cannot run it: (as if)"


@pytest.fixture
def without_half(monkeypatch):
    """OpenVINO rejects FP16 files. In truth it runs all of ours, so that the rejection is simulated."""
    real = FileScorer.why_unrunnable

    def refusal(self, path, runtime):
        return REASON if (path.stem, runtime) == ("fp16", "openvino") else real(self, path, runtime)

    monkeypatch.setattr(FileScorer, "why_unrunnable", refusal)


class Lamp:
    """A rail that draws two watts by the clock, and fifty while this process computes."""

    rail, at = "a lamp", 0.0

    def read_joules_delta(self):
        before, self.at = self.at, 2 * time.perf_counter() + 50 * time.process_time()
        return self.at - before


@pytest.fixture
def with_a_meter(monkeypatch):
    """A simulated energy meter, as this machine has none. All else is measured as usual, in fresh processes."""

    def run(job, fresh=latency.run_in_fresh_process):
        return (
            worker.run_job(job | {"energy_s": 0.05}, lambda: EnergyMeter([Lamp()])) if "energy_s" in job else fresh(job)
        )

    monkeypatch.setattr(latency, "run_in_fresh_process", run)
    monkeypatch.setattr("skd_edge.pipeline.stages.preflight.open_energy_meter", lambda: EnergyMeter([Lamp()]))


def test_every_file_is_a_candidate_on_every_runtime(tmp_path, without_half, with_a_meter, two_runtimes):
    pytest.importorskip("openvino", reason="openvino is not installed")
    folder = compress(Recipe.model_validate(two_runtimes), tmp_path / "run")
    report = json.loads((folder / "report.json").read_text())
    rows = {row["name"].removeprefix("teacher>small "): row for row in report["candidates"]}
    assert list(rows) == FORMS
    no_half = rows.pop("fp16 on openvino")
    assert (no_half["trained"], no_half["p50_ms"], no_half["reason"]) == (False, None, REASON)
    for form, row in rows.items():
        precision, runtime = form.split(" on ")
        assert (row["precision"], row["runtime"], row["trained"]) == (precision, runtime, True)
        assert row["p50_ms"] > 0
        assert row["parity"]["n"] == 20
        assert report["latency_samples"][row["name"]]
        assert abs(sum(fate["share"] for fate in row["fates"]) - 1) < 1e-6
        assert row["joules_interval"][0] <= row["joules_per_clip"] <= row["joules_interval"][1]
    assert "Conv" in rows["fp32 on ort"]["operators"]
    assert {op for op in rows["int8 on openvino"]["operators"] if op.startswith("Convolution")} == {"Convolution u8"}
    measured_untrained = {
        e["name"] for e in read_journal(folder) if e["event"] == "measured" and e.get("weights") == "random"
    }
    assert measured_untrained == {"teacher fp32", *(f"small {form}" for form in rows)}
    assert [e["name"] for e in read_journal(folder) if e["event"] == "cannot_run"] == ["small fp16 on openvino"]

    chosen = report["chosen"]
    assert f" on {chosen['runtime']}, trained by" in report["headline"]
    manifest, readme = Manifest.load(folder / "bundle"), (folder / "bundle" / "README.md").read_text()
    assert find_bundle_problems(folder / "bundle") == []
    default = manifest.find_artefact()
    assert (default.runtime, default.precision) == (chosen["runtime"], chosen["precision"])
    assert default.measured["p50_ms"] == chosen["p50_ms"]
    assert len({a.precision for a in manifest.artefacts}) == len(manifest.artefacts) > 1
    for artefact in manifest.artefacts:
        row = rows[f"{artefact.precision} on {artefact.runtime}"]
        for key in ("p50_ms", "accuracy", "joules_per_clip"):
            assert artefact.measured[key] == row[key]
    rows_of = {kind: read_source(folder / kind, kind).rows for kind in (".", "bundle")}
    assert {row.name for row in rows_of["bundle"]} < {row.name for row in rows_of["."]}  # compared file by file
    places = {"ort": readme.index("Use it from Python: ONNX Runtime"), "openvino": readme.index("## OpenVINO")}
    assert min(places, key=lambda name: places[name]) == chosen["runtime"]
    page = (folder / "report.html").read_text()
    assert "<h3>ONNX Runtime</h3>" in page
    assert "<h3>OpenVINO</h3>" in page
    assert "Joules<br>a clip" in page
    stored = (read_checked_json(p) for p in (folder / "measurements" / "here").iterdir())
    kept = [m for session in stored for m in DeviceMeasurements.from_json(session, "a session").measured]
    whole = [a.sha256 for a in manifest.artefacts if a.precision != "fp16"]
    assert {(m.sha256, m.runtime) for m in kept} >= {(sha, r) for sha in whole for r in ("ort", "openvino")}

    low = min(row["joules_per_clip"] for row in rows.values())
    frugal = reselect(folder, ["choice.budget=1000 ms", f"choice.max_joules={low}"])
    over = {name for name, why in frugal.reasons.items() if "J a clip is over max_joules" in why}
    assert len(over) == len(rows) - 1
    assert frugal.reasons.keys() == {row["name"] for row in rows.values()}


def test_joules_that_were_never_measured_are_an_error(tmp_path):
    (tmp_path / "a.onnx").write_text("a")
    device = make_device(BenchmarkSettings(), tmp_path, energy=True, cache_only=True)
    with pytest.raises(UserError, match="holds no joules of all 1 files"):
        device.measure([LatencyTarget("a", tmp_path / "a.onnx")])
