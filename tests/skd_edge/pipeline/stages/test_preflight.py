"""Checks before a run: what this machine and the data lack is an error before any long work."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from skd_bench.device.energy.meter import open_energy_meter
from skd_bench.errors import UsageError, UserError
from skd_edge.evaluation.devices import make_device
from skd_edge.models.external import factory
from skd_edge.pipeline.compress import compress
from skd_edge.pipeline.context import RunOptions, open_run
from skd_edge.pipeline.stages.preflight import check_export_needs, check_measurable, check_training_needs, preflight
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import read_journal
from skd_export.targets.litert import explain_missing_converter


def test_a_runtime_that_does_not_load_is_refused_before_anything_is_made(tmp_path, without_choice):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise ImportError('libtbb.so.12: cannot open')")
    recipe = tmp_path / "two.yaml"
    recipe.write_text(json.dumps(without_choice))
    path = os.pathsep.join(p for p in (str(tmp_path), os.environ.get("PYTHONPATH")) if p)
    words = [sys.executable, "-m", "skd_edge.cli", "compress", str(recipe), "--out", str(tmp_path / "run")]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == 1
    assert "openvino is installed and does not load: libtbb.so.12" in done.stderr
    assert "pip install 'skd-edge[openvino]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_joules_are_refused_where_nothing_counts_them(tmp_path, two_runtimes):
    recipe = Recipe.model_validate(two_runtimes | {"choice": {"max_joules": 0.5}, "bench": {"runtime": "ort"}})
    device = make_device(recipe.bench, tmp_path, energy=True)
    if isinstance(meter := open_energy_meter(), str):
        with pytest.raises(UserError, match=r"choice\.max_joules 0\.5: not measurable here: .*bench\.host"):
            compress(recipe, tmp_path / "run")
        assert not (tmp_path / "run").exists()
        assert meter.startswith("not measurable here")
    else:
        check_measurable(recipe, device)
    elsewhere = make_device(recipe.bench, tmp_path, measurements=[tmp_path / "RESULT.json"], energy=True)
    check_measurable(recipe, elsewhere)  # the other machine says whether it has a meter


def test_a_factory_needs_leave(monkeypatch, without_choice):
    monkeypatch.setattr(factory, "_allowed_factories", set())
    teacher = {"factory": "somewhere:net", "substages": ["a"]}
    recipe = Recipe.model_validate(without_choice | {"teacher": teacher, "bench": {"runtime": "ort"}})
    with pytest.raises(UsageError, match="--allow-code"):
        check_training_needs(recipe, allow_code=False)


def test_a_litert_file_needs_the_converter(two_runtimes, without_choice):
    wants_litert = two_runtimes["export"] | {"litert": True}
    check_export_needs(Recipe.model_validate(without_choice))
    recipe = Recipe.model_validate(without_choice | {"export": wants_litert})
    if explain_missing_converter() is None:
        check_export_needs(recipe)
    else:
        with pytest.raises(UserError, match="litert-torch is not installed"):
            check_export_needs(recipe)


def test_the_background_class_must_be_a_class_of_the_data(tmp_path, without_choice):
    choice = {"reject": {"accuracy": 0.5, "background": "elephant"}}
    recipe = Recipe.model_validate(without_choice | {"choice": choice, "bench": {"runtime": "ort"}})
    with open_run(recipe, tmp_path / "run", RunOptions()) as ctx:
        with pytest.raises(UserError, match=r"'elephant' is not a class of the data; choose from .*blink"):
            preflight(ctx)
        choice["reject"]["background"] = ctx.classes[0]
    known = Recipe.model_validate(without_choice | {"choice": choice, "bench": {"runtime": "ort"}})
    with open_run(known, tmp_path / "known", RunOptions()) as ctx:
        preflight(ctx)
    (started,) = [e for e in read_journal(tmp_path / "known") if e["event"] == "started"]
    assert started["recipe"] == "two"
