"""LiteRT as a runtime of the choice: its files are candidates where they can be written, else left out early."""

import json
import sys
from copy import deepcopy

import pytest

from skd_bench.bundle.manifest import Manifest
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.errors import UserError
from skd_bench.inference.predict import load_artefact
from skd_bench.runtimes.litert import LiteRtRuntime
from skd_edge.pipeline.compress import compress
from skd_edge.pipeline.context import RunOptions
from skd_edge.pipeline.reselect import reselect
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import read_journal
from skd_export.targets.litert import explain_missing_converter

needs_runtime = pytest.mark.skipif(LiteRtRuntime().why_unavailable() is not None, reason="not installed is litert")


@pytest.fixture
def recipe(without_choice):
    data = deepcopy(without_choice)
    data["bench"] |= {"runtime": ["ort", "litert"]}
    data["schedule"] = {"controls": ["alone"]}
    return data | {"choice": {"budget": "5000 ms"}}


def run_recipe(recipe, folder):
    compress(Recipe.model_validate(recipe), folder, RunOptions(jobs=1))
    report = json.loads((folder / "report.json").read_text())
    return report, {row["name"].removeprefix("teacher>small "): row for row in report["candidates"]}


@needs_runtime
def test_without_the_converter_its_pairs_are_left_out_before_training(tmp_path, recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    report, rows = run_recipe(recipe, tmp_path / "run")
    refused = {name: row["reason"] for name, row in rows.items() if row["p50_ms"] is None}
    assert set(refused) == {f"{p} on litert" for p in ("fp32", "fp16", "int8")}
    assert all("docs/precision.md (LiteRT) has the command" in reason for reason in refused.values())
    assert report["chosen"]["runtime"] == "ort"
    events = [e["event"] for e in read_journal(tmp_path / "run")]
    assert events.count("cannot_run") == 3
    assert events.index("cannot_run") < events.index("epoch" if "epoch" in events else "confirmed")
    assert not list((tmp_path / "run").glob("artefacts/**/*.tflite"))


def test_a_first_runtime_without_files_ends_the_run_at_once(tmp_path, recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    recipe["bench"]["runtime"] = ["litert", "ort"]
    with pytest.raises(UserError, match="litert-torch is not installed"):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@needs_runtime
@pytest.mark.skipif(explain_missing_converter() is not None, reason="litert-torch is not installed")
def test_its_files_are_measured_scored_chosen_and_shipped(tmp_path, recipe):
    _, rows = run_recipe(recipe, tmp_path / "run")
    measured = {name for name, row in rows.items() if row["p50_ms"] is not None}
    assert measured == {f"{p} on {r}" for p in ("fp32", "fp16", "int8") for r in ("ort", "litert")}
    assert all(rows[name]["parity"]["n"] == 20 for name in measured)
    assert rows["fp32 on litert"]["parity"]["agreement"] == 1.0
    assert rows["int8 on litert"]["operators"]["DELEGATE"] >= 1
    fast = {name: row["p50_ms"] for name, row in rows.items() if name.endswith("litert")}
    slow = {name: row["p50_ms"] for name, row in rows.items() if not name.endswith("litert")}
    chosen = min(fast, key=fast.get)
    if fast[chosen] < min(slow.values()):
        budget = (fast[chosen] + min(slow.values())) / 2
        decision = reselect(tmp_path / "run", [f"choice.budget={budget} ms"], confirm=True)
        assert decision.chosen.endswith(chosen)
        check_bundle(tmp_path / "run", chosen.split()[0])


def check_bundle(run, precision):
    bundle = Manifest.load(run / "bundle")
    default = bundle.find_artefact()
    assert (default.runtime, default.precision) == ("litert", precision)
    assert default.file.endswith(f".{precision}.tflite")
    assert default.options["batch"] == 1
    assert "quantizer" in default.options["converter"] or precision == "fp32"
    assert find_bundle_problems(run / "bundle") == []
    session = load_artefact(run / "bundle", default, threads=1)
    assert session.runtime_info()["runtime"] == "litert"
    session.close()
    report = json.loads((run / "report.json").read_text())
    names = {row["name"] for row in report["test"]["rows"]}
    assert names >= {"teacher (FP32 file)", "student alone, weak labels (FP32 file)"}
