"""Commands for recipes and runs: their messages, their exit codes, and what they need to be imported."""

from __future__ import annotations

import json

import pytest

from skd_edge.cli.main import run

LOADING = "loading torch, a few seconds (longer the first time)"
HEAVY = ("torch", "numpy", "pydantic", "yaml", "rich", "av")
# Prints every heavy module when its import begins. The import of torch fails, so that the command ends there.
ANNOUNCE_IMPORTS = f"""
class Announce:
    def find_spec(self, name, path=None, target=None):
        if name in {HEAVY}:
            print('importing', name, file=sys.stderr, flush=True)
        if name == 'torch':
            raise ModuleNotFoundError('No module named torch', name='torch')
sys.meta_path.insert(0, Announce())
"""


def test_validate(recipe, capsys):
    assert run(["validate", recipe, "--set", "seed=4"]) == 0
    assert "ok (small" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["validate", "plan", "compress"])
def test_a_wrong_recipe_is_exit_code_2(recipe, capsys, name):
    assert run([name, recipe, "--set", "sede=4"]) == 2
    err = capsys.readouterr().err
    loading = "" if name == "validate" else f"{name} {recipe}: {LOADING}\n"
    error = "skd-edge: error: --set sede=4: sede: no such setting; did you mean 'seed'"
    assert err.startswith(loading + error)
    assert "Traceback" not in err


def test_schema(capsys):
    assert run(["schema"]) == 0
    assert "extends" in json.loads(capsys.readouterr().out)["properties"]


def test_doctor_json(capsys):
    assert run(["doctor", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["can"]) == {"train", "export", "run"}


def test_validate_and_schema_work_without_torch(program, recipe, tmp_path):
    gone = ("torch", "onnx", "onnxruntime", "openvino", "ai_edge_litert", "sklearn", "plotly", "jinja2")
    code = f"for m in {gone}: sys.modules[m] = None"
    assert program(code, "validate", recipe, cwd=tmp_path).stderr == ""
    assert program(code, "schema").returncode == 0
    done = program(code, "doctor", "--json")
    assert json.loads(done.stdout)["can"] == {"train": False, "export": False, "run": False}


def test_init_then_validate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["init", "nowhere"]) == 2
    (tmp_path / "v").mkdir()
    assert run(["init", "v"]) == 2
    assert "no videos" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["plan"], ["compress"], ["compress", "--dry-run"]], ids=" ".join)
def test_the_first_line_comes_before_anything_heavy_is_imported(program, recipe, tmp_path, words):
    done = program(ANNOUNCE_IMPORTS, *words, recipe, cwd=tmp_path)
    first, *others = done.stderr.splitlines()
    assert first == f"{words[0]} {recipe}: {LOADING}"
    assert "importing pydantic" in others
    assert "importing torch" in others
    assert others[-1] == "skd-edge: error: this command needs torch: pip install 'skd-edge[train]'"
    assert (done.returncode, done.stdout) == (1, "")


def test_torchrun_prints_the_first_line_once(program, recipe, tmp_path):
    lines = []
    for rank in (0, 1, 2):
        ranks = f"import os\nos.environ.update(TORCHELASTIC_RUN_ID='x', RANK='{rank}')\n"
        lines += program(ranks + ANNOUNCE_IMPORTS, "compress", recipe, cwd=tmp_path).stderr.splitlines()
    assert [LOADING in line for line in lines].count(True) == 1


def test_plan_prints_its_text_to_stdout_alone(recipe, capsys, monkeypatch):
    assert run(["plan", recipe, "--set", "data.train=40", "--hourly", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"plan {recipe}: {LOADING}\n"
    assert captured.out.startswith("small: ")
    assert "at 2 an hour" in captured.out


def test_choose_refuses_a_folder_that_is_not_a_run(tmp_path, capsys):
    assert run(["choose", str(tmp_path), "--set", "choice.margin=1"]) == 2
    assert "is not a run of skd-edge" in capsys.readouterr().err


def test_report_prints_its_json_schemas(capsys):
    assert run(["report", "--schema", "comparison"]) == 0
    assert json.loads(capsys.readouterr().out)["type"] == "object"


def test_models_lists_the_networks_of_a_recipe(recipe, capsys):
    assert run(["models", recipe, "--json"]) == 0
    assert {entry["name"] for entry in json.loads(capsys.readouterr().out)} >= {"s"}
