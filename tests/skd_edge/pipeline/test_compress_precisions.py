"""Precisions that not every runtime has: each pair runs, or is left out early with its reason."""

import json
from copy import deepcopy

import pytest

from skd_bench.bundle.manifest import Manifest
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.runtimes.openvino import why_no_bfloat16
from skd_edge.pipeline.compress import compress
from skd_edge.pipeline.context import RunOptions
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import read_journal


@pytest.mark.skipif(why_no_bfloat16() is not None, reason="no bfloat16 arithmetic")
def test_bf16_is_a_candidate_on_openvino_and_fp8_waits_for_a_gpu(tmp_path, two_runtimes):
    recipe = deepcopy(two_runtimes)
    recipe["export"] |= {"precisions": ["fp32", "bf16", "fp8"]}
    recipe["choice"] = {"budget": "1000 ms"}
    folder = compress(Recipe.model_validate(recipe), tmp_path / "run", RunOptions(jobs=1))
    report = json.loads((folder / "report.json").read_text())
    rows = {row["name"].removeprefix("teacher>small "): row for row in report["candidates"]}
    measured = {name: row for name, row in rows.items() if row["p50_ms"] is not None}
    assert set(measured) == {"fp32 on ort", "fp32 on openvino", "bf16 on openvino"}
    bf16 = measured["bf16 on openvino"]
    assert bf16["operators"].get("Convolution bf16")
    assert {fate["ran"] for fate in bf16["fates"] if fate["op"] == "Convolution"} == {"bf16"}
    assert bf16["parity"]["relative"] > 1e-4
    reasons = {name: row["reason"] for name, row in rows.items() if name not in measured}
    assert set(reasons) == {"bf16 on ort", "fp8 on ort", "fp8 on openvino"}
    assert "ort has no bfloat16 convolution" in reasons["bf16 on ort"]
    assert all("has no FP8 convolution; tensorrt has" in reasons[f"fp8 on {r}"] for r in ("ort", "openvino"))
    refused = [e for e in read_journal(folder) if e["event"] == "cannot_run"]
    assert len(refused) == 3  # before anything was trained
    manifest = Manifest.load(folder / "bundle")
    assert find_bundle_problems(folder / "bundle") == []
    assert all(a.runtime == "openvino" for a in manifest.artefacts if a.precision == "bf16")
