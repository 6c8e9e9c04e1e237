"""A recipe with `runtime: [tensorrt, ort]`, run whole on the double: engines are built, scored, chosen and shipped."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from copy import deepcopy

import numpy as np
import pytest

from skd_bench.bundle.manifest import Manifest
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.inference.predict import load_artefact
from skd_bench.integrity.checked_files import read_checked
from skd_bench.runtimes.tensorrt.engine_file import read_engine_metadata
from skd_edge.pipeline.compress import compress
from skd_edge.pipeline.context import RunOptions
from skd_edge.pipeline.reselect import reselect
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import read_journal

BENCH = {"processes": 2, "queries": 20, "runtime": ["tensorrt", "ort"], "seconds": 0.02, "warm_seconds": 0.01}
CONTROLS = {"controls": ["alone"]}


@pytest.fixture
def recipe(without_choice):
    """Every precision on both runtimes; each file is within its bounds, so that the choice is between all."""
    data = deepcopy(without_choice)
    data["export"] |= {"precisions": ["fp32", "fp16", "int8", "int8-trt"], "int8_drop": 100.0}
    return data | {"bench": BENCH, "schedule": CONTROLS, "choice": {"budget": "5000 ms"}}


def run_recipe(recipe, folder):
    compress(Recipe.model_validate(recipe), folder, RunOptions(jobs=1))
    report = json.loads((folder / "report.json").read_text())
    return report, {row["name"]: row for row in report["candidates"]}


@pytest.fixture
def events(tmp_path):
    """The journal's events of one kind."""
    return lambda kind: [e for e in read_journal(tmp_path / "run") if e["event"] == kind]


def test_engines_are_built_scored_chosen_and_shipped(tmp_path, recipe, tensorrt_double, events):
    from tensorrt import round_answer

    report, rows = run_recipe(recipe, tmp_path / "run")
    on_gpu = {n: r for n, r in rows.items() if n.endswith(" on tensorrt")}
    measured = {n for n, r in on_gpu.items() if r["p50_ms"] is not None}
    assert {n.split()[1] for n in measured} == {"fp32", "fp16", "int8-trt"}
    [refused] = set(on_gpu) - measured
    assert "symmetric INT8 only" in on_gpu[refused]["reason"]
    assert all(rows[n]["accuracy"] is not None and rows[n]["operators"] for n in measured)

    # Every engine is in the run, beside what it was built from, and its logits are those that were scored.
    engines = sorted((tmp_path / "run" / "engines").glob("*/*.engine"))
    sources = {sha256_file(p) for p in (tmp_path / "run" / "artefacts").glob("**/*.onnx")}
    assert {read_engine_metadata(e).source_sha256 for e in engines} <= sources
    assert {e["name"] for e in events("built")} >= measured
    scored = {e["name"]: e["engine"] for e in events("scored")}
    assert set(scored) >= measured
    assert set(scored.values()) <= {sha256_file(e) for e in engines}
    unsteady = {n for n in measured if not rows[n]["steady"]}
    assert {e["name"] for e in events("drift")} >= unsteady
    stored = (tmp_path / "run" / "artefacts" / "logits").glob("*.logits")
    logits = [np.load(io.BytesIO(read_checked(p))) for p in stored]
    assert sum((round_answer(one) == one).all() for one in logits) >= len(measured)
    assert not list((tmp_path / "run" / "artefacts").glob("clips-*"))

    # The double is named wherever a runtime shows.
    assert any("IS A DOUBLE" in note and "10.13.3+double" in note for note in report["notes"])
    assert report["device"]["runtimes"]["tensorrt"] == "10.13.3+double"

    assert report["test"]["rows"]


def test_an_engine_is_chosen_confirmed_and_shipped(tmp_path, recipe, tensorrt_double, events):
    """TensorRT is the only runtime, so that an engine wins whatever its milliseconds on the double are."""
    recipe["bench"] = BENCH | {"runtime": ["tensorrt"], "build": {"builds": 2}}
    recipe["export"] |= {"precisions": ["fp32"]}
    report, _ = run_recipe(recipe, tmp_path / "run")
    assert report["test"]["rows"]
    chosen = report["chosen"]["name"]
    assert all(len(e["builds_ms"]) == 2 for e in events("scored"))
    assert any(note.startswith("Each engine was built 2 times") and chosen in note for note in report["notes"])
    check_bundle_of_engine(tmp_path / "run", chosen)

    # Again from the stored measurements alone: nothing is built, and the engine that was scored is shipped.
    before = len(events("built"))
    shutil.rmtree(tmp_path / "run" / "bundle")
    assert reselect(tmp_path / "run", ["choice.budget=4000 ms"], confirm=True).chosen == chosen
    assert len(events("built")) == before
    check_bundle_of_engine(tmp_path / "run", chosen)

    # A control that cannot be built any more is not in the test table; the choice, once the test set is open, stays.
    exported = {e["job"] for e in events("artefact") if "job" in e}
    artefacts = tmp_path / "run" / "artefacts"
    [control] = [p for p in artefacts.glob("*/fp32.onnx") if p.parent.name not in exported]
    for engine in (tmp_path / "run" / "engines").glob(f"*/{sha256_file(control)[:16]}*"):
        engine.unlink()
    shutil.rmtree(artefacts / "logits")
    tensorrt_double("build-memory")
    assert reselect(tmp_path / "run", ["choice.budget=3000 ms"], confirm=True).chosen == chosen
    [left_out] = events("not_compared")
    assert left_out["name"] == "student alone, weak labels (FP32 file)"
    assert "Requested amount of GPU memory" in left_out["reason"]


def test_an_engine_that_overflows_is_left_out_and_the_others_go_on(tmp_path, recipe, tensorrt_double, events):
    tensorrt_double("overflow", "throttle")  # engines of FP16 files: found only when they are scored
    recipe["bench"] = BENCH | {"runtime": ["tensorrt"]}
    recipe["export"] |= {"precisions": ["fp32", "fp16"]}
    recipe["schedule"] = {"controls": []}
    report, rows = run_recipe(recipe, tmp_path / "run")
    assert report["chosen"]["precision"] == "fp32"
    refused = {e["name"]: e["reason"] for e in events("not_built")}
    assert refused
    assert all(" fp16" in name and "NaN or infinity" in reason for name, reason in refused.items())
    assert {row["precision"] for row in rows.values() if row["accuracy"] is not None} == {"fp32"}
    drifts = events("drift")  # the GPU was hot all the time
    assert {e["name"] for e in drifts} == {e["name"] for e in events("scored")}
    assert all((e["steady"], e["reasons"]) == (False, ["hardware thermal slowdown"]) for e in drifts)
    assert any("1000 MHz before and 1000 MHz after" in note for note in report["notes"])


def test_a_host_is_contacted_once_for_each_step_and_never_again(tmp_path, recipe, packs_over_ssh, events):
    """Random weights, then the trained files with validation clips, then test clips; a repeat needs nothing of it."""
    recipe["bench"] = BENCH | {"runtime": ["tensorrt"], "host": "me@board"}
    recipe["export"] |= {"precisions": ["fp32"]}
    report, rows = run_recipe(recipe, tmp_path / "run")
    assert len(packs_over_ssh) == 3
    built = {e["name"] for e in events("built")}
    assert built >= {name for name, row in rows.items() if row["accuracy"] is not None}
    clips = [sorted(n for n in list_pack(p) if n.endswith(".npy")) for p in packs_over_ssh]
    assert [len(names) for names in clips] == [0, 1, 1]
    again, _ = run_recipe(recipe, tmp_path / "run")
    assert again["chosen"] == report["chosen"]
    assert reselect(tmp_path / "run", ["choice.budget=4000 ms"], confirm=True).chosen == report["chosen"]["name"]
    assert len(packs_over_ssh) == 3
    assert {row["name"].partition(":")[0] for row in report["test"]["rows"]} == {
        "skd-edge",
        "teacher (FP32 file)",
        "student alone, weak labels (FP32 file)",
    }


def list_pack(pack):
    with zipfile.ZipFile(io.BytesIO(pack)) as file:
        return file.namelist()


def check_bundle_of_engine(run, name):
    manifest = Manifest.load(run / "bundle")
    chosen = manifest.find_artefact()
    assert (chosen.runtime, chosen.precision) == ("tensorrt", name.split()[1])
    assert chosen.options["build"] == {"workspace_mib": 1024, "level": None, "tf32": False}
    assert chosen.options["engine"]["version"] == "10.13.3+double"
    engines = {sha256_file(p) for p in (run / "engines").rglob("*.engine")}
    assert chosen.options["engine"]["engine_sha256"] in engines
    assert find_bundle_problems(run / "bundle") == []
    assert "10.13.3+double" in (run / "bundle" / "README.md").read_text()
    assert "10.13.3+double" in (run / "bundle" / "MEASURED.md").read_text()
    session = load_artefact(run / "bundle", chosen, threads=1)
    assert session.runtime_info()["runtime"] == "tensorrt"
    session.close()


def test_without_memory_for_engines_the_other_runtime_goes_on(tmp_path, recipe, tensorrt_double, events):
    tensorrt_double("build-memory")
    recipe["export"] |= {"precisions": ["fp32", "fp16"]}
    recipe["schedule"] = {"controls": []}
    report, rows = run_recipe(recipe, tmp_path / "run")
    on_gpu = [r for n, r in rows.items() if n.endswith(" on tensorrt")]
    assert all(r["p50_ms"] is None for r in on_gpu)
    assert sum("Requested amount of GPU memory" in r["reason"] for r in on_gpu) == 2
    assert report["chosen"]["runtime"] == "ort"
    assert events("not_built")
    assert not report["baselines"]  # the teacher runs on the first runtime, which cannot run it
    with pytest.raises(UserError, match=r"needs the teacher's milliseconds.*Requested amount of GPU memory"):
        run_recipe(recipe | {"choice": {"budget": "0.5 x teacher"}}, tmp_path / "relative")


def test_a_first_runtime_that_is_missing_ends_the_run_at_once(tmp_path, recipe):
    with pytest.raises(UserError, match="the runtime 'tensorrt' cannot be used"):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
