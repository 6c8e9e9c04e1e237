"""An external teacher, end to end: refused without --allow-code, trained here, given with weights, not exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from skd_bench.errors import UserError
from skd_edge.cli.main import run
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.execution.job_graph import DatasetFingerprint, build_recipe_job_graph, fingerprint_of
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.labels.dataset import load_training_data
from skd_edge.models.external import factory
from skd_edge.pipeline.compress import compress
from skd_edge.pipeline.context import RunOptions
from skd_edge.recipe.loader import load_recipe, resolved_yaml
from skd_edge.run_folder import Run, read_journal

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, width, undecided):
        super().__init__()
        self.undecided = undecided
        self.low = nn.Sequential(nn.Conv3d(3, width, 3, (1, 2, 2), 1), nn.BatchNorm3d(width), nn.ReLU())
        self.high = nn.Sequential(nn.Conv3d(width, width, 3, 2, 1), nn.BatchNorm3d(width), nn.ReLU())
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        x = self.low(x)
        if self.undecided and x.mean().item() > 99:  # no exporter can follow this
            x = x * 2
        return self.fc(self.high(x).mean((2, 3, 4)))

def net(classes=10, width=12, undecided=True):
    return Net(classes, width, undecided)
"""
RECIPE = {
    "name": "elsewhere",
    "data": {"kind": "generated", "train": 40, "val": 20, "test": 20, "frames": 4, "size": 16},
    "clip": {"frames": 4, "size": 16},
    "augment": {"shift": 1, "views": 2},
    "students": [{"name": "small", "width": 4, "depths": [1, 1]}],
    "schedule": {"controls": []},
    "training": {"teacher_epochs": 2, "epochs": 1, "batch": 20},
    "export": {"precisions": ["fp32"]},
    "bench": {"processes": 1, "queries": 70},
    "choice": {"budget": "500 ms"},
}


def write(folder: Path, module: str, source: str = SOURCE, **teacher: object) -> Path:
    """A recipe with a factory in a file beside it."""
    (folder / f"{module}.py").write_text(source)
    named = {"factory": f"{module}:net", "substages": ["low", "high"], **teacher}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"teacher": named}))
    return folder / "recipe.yaml"


@pytest.mark.parametrize("command", ["compress", "plan"])
def test_refused_without_permission_and_no_code_runs(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(factory, "_allowed_factories", set())
    recipe = write(tmp_path, "beside_refused", "import pathlib\npathlib.Path(__file__).with_name('ran').touch()")
    assert run(["validate", str(recipe)]) == 0  # reads the recipe only
    assert run([command, str(recipe), "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr().err
    assert "'beside_refused:net' runs somebody's code" in printed
    assert "--allow-code" in printed
    assert {p.name for p in tmp_path.iterdir()} == {"beside_refused.py", "recipe.yaml"}


def test_plan_counts_the_jobs_of_a_teacher_that_is_trained_here_or_given(tmp_path, capsys):
    recipe = write(tmp_path, "beside_planned")
    assert run(["plan", str(recipe), "--allow-code"]) == 0
    assert "scout" in capsys.readouterr().out
    assert run(["plan", str(recipe), "--allow-code", "--set", "teacher.trained=true"]) == 0
    assert "scout" not in capsys.readouterr().out


def test_its_recipe_reads_back_and_its_job_hashes_depend_on_all_of_its_settings(tmp_path):
    recipe = load_recipe(write(tmp_path, "beside_named", arguments={"width": 12, "undecided": False}))
    assert recipe.teacher.code == tmp_path
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "resolved.yaml").write_text(resolved_yaml(recipe))
    assert load_recipe(tmp_path / "elsewhere" / "resolved.yaml") == recipe

    def named(*sets: str) -> set[str]:
        changed = load_recipe(tmp_path / "recipe.yaml", sets)
        return {
            n.hash for n in build_recipe_job_graph(changed, DatasetFingerprint("data", "weak", 10), changed.students)
        }

    one = named()
    assert named("teacher.name=boss", "teacher.floor=0.01") == one
    other = [named("teacher.arguments.width=16"), named("teacher.substages=[low, fc]"), named("teacher.input=frames")]
    (tmp_path / "beside_named.py").write_text(SOURCE + "\n")
    other.append(named())
    torch.save({}, tmp_path / "w.pt")
    other.append(named("teacher.checkpoint=" + str(tmp_path / "w.pt")))
    assert all(not names & one for names in other)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"substages": ["low"]}, "small has 2 substages and teacher has 1"),
        ({"substages": ["low", "low"]}, "names 'low' twice"),
        ({"width": 48}, "teacher.width is for the built-in families"),
        ({"factory": None}, "teacher.substages is for external networks"),
        ({"factory": "os.system"}, "package.module:callable"),
    ],
)
def test_what_validate_refuses(teacher, message, tmp_path, capsys):
    assert run(["validate", str(write(tmp_path, "beside_wrong", **teacher))]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"substages": ["low", "hihg"]}, "'hihg', which is not a module of the network; choose from: high"),
        ({"arguments": {"classes": 7}}, "has 7 classes, but the dataset has 10"),
    ],
)
def test_what_is_refused_before_a_clip_is_read(teacher, message, tmp_path, own_places):
    with pytest.raises(UserError, match=message):
        compress(load_recipe(write(tmp_path, "beside_early", **teacher)), tmp_path / "run", RunOptions(allow_code=True))
    assert not list(own_places.rglob("*.mp4"))


def test_a_relative_budget_needs_the_teachers_file(tmp_path):
    recipe = load_recipe(write(tmp_path, "beside_relative"), ["choice.budget=0.5 x teacher"])
    with pytest.raises(UserError, match=r"'0.5 x teacher' needs the teacher's milliseconds.*budget in milliseconds"):
        compress(recipe, tmp_path / "run", RunOptions(allow_code=True))


def test_compress_with_a_teacher_that_cannot_be_exported_then_with_its_weights(tmp_path, own_places):
    path = write(tmp_path, "beside_whole")
    out = compress(load_recipe(path), tmp_path / "run", RunOptions(allow_code=True))
    report = json.loads((out / "report.json").read_text())
    assert report["chosen"]["student"] == "small"
    assert report["baselines"] == []
    assert any("could not be exported" in note for note in report["notes"])
    assert "as fast as the teacher" not in report["headline"]
    journal = read_journal(out)
    assert "teacher_not_exported" in {e["event"] for e in journal}
    jobs = {e["role"]: e["job"] for e in journal if e["event"] == "job_finished"}
    assert jobs.keys() == {"scout", "teacher", "student"}

    weights = out / "jobs" / jobs["teacher"] / "weights.safetensors"  # its names carry the adapter's prefix
    given = load_recipe(path, [f"teacher.checkpoint={weights}"])
    material = load_training_data(given, own_places)
    first = build_recipe_job_graph(given, fingerprint_of(material), given.students)[0]
    assert first.spec.role == "teacher"
    with Run(tmp_path / "given", "x: 1") as folder:
        done = LocalExecutor(folder, material, given.labels, inference_preprocessing(given.clip)[1]).train_job(first)
    assert done.curve == []
    assert done.accuracy == next(e["accuracy"] for e in journal if e.get("job") == jobs["teacher"] and "accuracy" in e)
