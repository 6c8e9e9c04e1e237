"""Students of every kind, end to end: ``compress`` distils, exports, quantises and measures each on a tiny set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from skd_bench.errors import UserError
from skd_edge.cli.main import run
from skd_edge.models.external.torchvision_timm import import_torchvision
from skd_edge.pipeline.compress import compress
from skd_edge.pipeline.context import RunOptions
from skd_edge.recipe.loader import load_recipe
from skd_edge.run_folder import read_journal

SOURCE = """
import torch
from torch import nn

def layer(cin, cout, stride):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout), nn.Hardswish())

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.act, self.conv2 = layer(width, width, 1), nn.Hardsigmoid(), layer(width, width, 1)

    def forward(self, x):
        return x + self.conv2(self.conv1(x)) * self.act(x.mean((2, 3), keepdim=True))

class Frames(nn.Module):  # of single frames
    def __init__(self, classes, width, undecided):
        super().__init__()
        self.undecided = undecided
        layers = [nn.Sequential(layer(3 if k == 0 else width, width, 2), Block(width)) for k in range(4)]
        self.features, self.fc = nn.Sequential(*layers), nn.Linear(width, classes)

    def forward(self, x):
        if self.undecided and x.mean().item() > 99:  # no exporter can follow this
            x = x * 2
        return self.fc(self.features(x).mean((2, 3)))

class Clips(nn.Module):  # of whole clips, with 3-D convolutions
    def __init__(self, classes, width):
        super().__init__()
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Conv3d(3 if k == 0 else width, width, 3, (1, 2, 2), 1), nn.BatchNorm3d(width), nn.ReLU())
            for k in range(4)
        )
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return self.fc(x.mean((2, 3, 4)))

def frames(classes=10, width=8, undecided=False):
    return Frames(classes, width, undecided)

def clips(classes=10, width=8):
    return Clips(classes, width)

class Frozen(Clips):  # its batch norms stay in train mode
    def train(self, mode=True):
        return super().train(True)

def frozen(classes=10, width=8):
    return Frozen(classes, width)
"""
RECIPE = {
    "name": "anybody",
    "data": {"kind": "generated", "train": 40, "val": 20, "test": 20, "frames": 4, "size": 32},
    "clip": {"frames": 4, "size": 32},
    "augment": {"shift": 1, "views": 2},
    "teacher": {"family": "resnet", "width": 8},
    "labels": {"optimise": False},
    "schedule": {"controls": []},
    "training": {
        "teacher_epochs": 2,
        "epochs": 2,
        "batch": 20,
        "rounds": 1,
        "combination": "curriculum",
        "losses": {"correlation": 1.0, "distribution": 1.0, "logits": 2.0},
    },
    "export": {"precisions": ["fp32", "int8"], "calibration_clips": 16, "int8_agreement": 0.0},
    "bench": {"processes": 1, "queries": 20},
}
PARTS = [f"parts.{k}" for k in range(4)]
OWN_CODE = [
    {"name": "found", "factory": "students_beside:frames", "input": "frames"},
    {"name": "shifted", "factory": "students_beside:frames", "input": "frames", "temporal": "shift"},
    {"name": "cubes", "factory": "students_beside:clips", "arguments": {"width": 6}, "substages": PARTS},
]


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def one_cache(monkeypatch, own_places, shared_cache):
    """The teacher is trained once for all tests here."""
    monkeypatch.setenv("SKD_EDGE_CACHE", str(shared_cache))
    return shared_cache


def write(folder: Path, *students: dict[str, object], **more: object) -> Path:
    (folder / "students_beside.py").write_text(SOURCE)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"students": list(students)} | more))
    return folder / "recipe.yaml"


def compress_each(folder: Path, *students: dict[str, object]) -> Path:
    """Compress with these students; each has a trained file of both precisions that answers as its network does."""
    out = compress(load_recipe(write(folder, *students)), folder / "run", RunOptions(allow_code=True))
    report = json.loads((out / "report.json").read_text())
    wanted = {(s["name"], precision) for s in students for precision in ("fp32", "int8")}
    assert {(c["student"], c["precision"]) for c in report["candidates"]} == wanted
    trained = {e["name"].split(">")[-1] for e in read_journal(out) if e["event"] == "job_finished"}
    assert trained >= {s["name"] for s in students}
    return out


def test_students_of_a_factory(tmp_path):
    out = compress_each(tmp_path, *OWN_CODE)
    own_words = (b"students_beside", b"no exporter can follow", b"class Frames")
    for file in (path for path in (out / "bundle").rglob("*") if path.is_file()):
        assert not [word for word in own_words if word in file.read_bytes()], file
    assert run(["models", str(tmp_path / "recipe.yaml"), "--allow-code"]) == 0


def test_a_student_of_a_mobile_family(tmp_path):
    compress_each(tmp_path, {"name": "mobile", "family": "mobilenetv3-small", "width": 4})


@pytest.mark.parametrize(
    ("library", "student"),
    [
        ("torchvision", {"name": "small", "torchvision": "mobilenet_v3_small", "temporal": "conv"}),
        ("timm", {"name": "small", "timm": "mobilenetv3_small_050"}),
    ],
)
def test_a_student_of_a_library(library, student, tmp_path):
    try:
        import_torchvision(library)
    except ImportError:
        pytest.skip(f"could not import '{library}'")
    compress_each(tmp_path, student)


def test_code_of_a_student_needs_permission(tmp_path, capsys):
    recipe = write(tmp_path, OWN_CODE[0])
    for command in (["compress", "--out", str(tmp_path / "run")], ["plan"], ["models"]):
        assert run([command[0], str(recipe), *command[1:]]) == 2
        assert "found.factory 'students_beside:frames' runs somebody's code" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"substages": ["features.0", "features.9"]}, "features.9.*is not a module of the network"),
        ({"arguments": {"classes": 7}}, "odd of students_beside:frames has 7 classes, but the dataset has 10"),
        (
            {"arguments": {"undecided": True}},
            r"cannot be written as ONNX: .*source: students_beside.py:24\)",
        ),
        ({"factory": "students_beside:frozen", "input": "clip", "substages": PARTS}, "is in train mode"),
        ({"pretrained": "WEIGHTS"}, r"does not fit the network of students_beside:frames: 0 of .*; not features.0.0.0"),
        ({"factory": "students_beside:clips", "input": "clip"}, "odd.factory students_beside:clips: its substages can"),
    ],
)
def test_what_is_said_before_anything_trains(keys, message, tmp_path):
    torch.save({"other": torch.zeros(2)}, tmp_path / "w.pt")
    keys = {key: str(tmp_path / "w.pt") if value == "WEIGHTS" else value for key, value in keys.items()}
    student = {"name": "odd", "factory": "students_beside:frames", "input": "frames", **keys}
    teacher = {"family": "resnet", "width": 8, "depths": [1] * len(keys.get("substages", PARTS))}
    path = write(tmp_path, student, teacher=teacher)
    with pytest.raises(UserError, match=message):
        compress(load_recipe(path), tmp_path / "run", RunOptions(allow_code=True))
    assert not list(tmp_path.glob("run/jobs/*"))


def test_a_student_with_another_number_of_substages_is_refused_at_its_line(tmp_path, capsys):
    assert run(["validate", str(write(tmp_path, OWN_CODE[2] | {"substages": PARTS[:3]}))]) == 2
    assert "cubes has 3 substages and teacher has 4" in capsys.readouterr().err
    graft = RECIPE["training"] | {"combination": "graft"}
    assert run(["validate", str(write(tmp_path, OWN_CODE[0], training=graft))]) == 2
    assert "training.combination: graft" in capsys.readouterr().err
