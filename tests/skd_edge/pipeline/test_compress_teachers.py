"""External teachers, end to end: with each, ``compress`` trains a small student on a tiny generated set."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper

from skd_bench.errors import UserError
from skd_edge.cli.main import run
from skd_edge.data.sources.synthetic import generated_classes
from skd_edge.execution.job_graph import DatasetFingerprint, build_recipe_job_graph
from skd_edge.labels.dataset import load_training_data
from skd_edge.models.external.torchvision_timm import import_torchvision
from skd_edge.pipeline.compress import compress
from skd_edge.recipe.loader import load_recipe, resolved_yaml
from skd_edge.run_folder import read_journal

RECIPE = {
    "name": "taught",
    "data": {"kind": "generated", "train": 40, "val": 20, "test": 20, "frames": 4, "size": 16},
    "clip": {"frames": 4, "size": 16},
    "augment": {"shift": 1, "views": 2},
    "students": [{"name": "small", "width": 4}],
    "schedule": {"controls": []},
    "training": {
        "teacher_epochs": 2,
        "epochs": 1,
        "batch": 20,
        "rounds": 1,
        "combination": "curriculum",
        "losses": {"correlation": 1.0, "distribution": 1.0, "logits": 2.0},
    },
    "export": {"precisions": ["fp32"]},
    "bench": {"processes": 1, "queries": 70},
}


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def one_cache(monkeypatch, own_places, shared_cache):
    """Clips are rendered, and the student traced, once for all tests here."""
    monkeypatch.setenv("SKD_EDGE_CACHE", str(shared_cache))
    return shared_cache


def write(folder: Path, teacher: object, **more: object) -> Path:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"teacher": teacher} | more))
    return folder / "recipe.yaml"


def videomae(folder: Path) -> None:
    """A tiny VideoMAE with random weights, as ``save_pretrained`` writes it."""
    if importlib.util.find_spec("torchvision"):
        import_torchvision("torchvision")
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        image_size=32,
        patch_size=16,
        num_frames=4,
        tubelet_size=2,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        decoder_num_hidden_layers=1,
    )
    torch.manual_seed(0)
    transformers.VideoMAEForVideoClassification(config).save_pretrained(folder)


def onnx_file(path: Path) -> None:
    """A linear teacher of ten classes: the mean brightness of each channel of each frame."""
    weight = np.random.default_rng(0).standard_normal((12, 10)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["clip", "axes"], ["mean"], keepdims=0),
        helper.make_node("Flatten", ["mean"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    tensors = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array([-2, -1]), "axes")]
    clip = helper.make_tensor_value_info("clip", TensorProto.FLOAT, ["B", 3, 4, 16, 16])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 10])
    graph = helper.make_graph(nodes, "g", [clip], [logits], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def jobs(out: Path) -> dict[str, dict[str, object]]:
    return {e["role"]: e for e in read_journal(out) if e["event"] == "job_finished"}


def test_a_videomae_of_transformers_is_trained_here_and_teaches(tmp_path):
    videomae(tmp_path / "model")
    recipe = load_recipe(write(tmp_path, {"hub": "model"}))
    assert recipe.teacher.hub == str(tmp_path / "model")
    out = compress(recipe, tmp_path / "run")
    report = json.loads((out / "report.json").read_text())
    assert report["chosen"]["student"] == "small"
    assert jobs(out).keys() == {"scout", "teacher", "student"}
    curve = json.loads((out / "jobs" / str(jobs(out)["student"]["job"]) / "job.json").read_text())["curve"]
    assert {"correlation", "distribution"} <= curve[0]["terms"].keys()  # its substages are teacher outputs


def test_an_onnx_file_teaches(tmp_path):
    onnx_file(tmp_path / "t.onnx")
    out = compress(load_recipe(write(tmp_path, {"onnx": "t.onnx", "name": "given"})), tmp_path / "run")
    report = json.loads((out / "report.json").read_text())
    assert report["chosen"]["path"] == ["given", "small"]
    assert jobs(out).keys() == {"teacher", "student"}
    assert any("could not be exported" in note for note in report["notes"])
    other = [
        "teacher.classes=[" + ", ".join(reversed(generated_classes(load_recipe(tmp_path / "recipe.yaml").data))) + "]"
    ]
    turned = compress(load_recipe(tmp_path / "recipe.yaml", other), tmp_path / "turned")
    logits = [np.load(o / "jobs" / str(jobs(o)["teacher"]["job"]) / "val_logits.npy") for o in (out, turned)]
    assert np.array_equal(logits[0][:, ::-1], logits[1])
    assert not np.array_equal(logits[0], logits[1])


def test_a_file_of_logits_teaches(tmp_path, shared_cache, capsys):
    path = write(tmp_path, {"logits": "outputs.npz"}, assistants=[{"name": "between", "width": 6}])
    recipe = load_recipe(path)
    material = load_training_data(recipe, shared_cache)
    train, val = material.clips.train, material.clips.val
    names = np.array([*train.names, *val.names])
    right = np.eye(10)[np.concatenate([train.labels, val.labels])] * 0.91 + 0.009
    order = np.random.default_rng(0).permutation(10)
    classes = np.array(material.clips.classes)[order]
    np.savez(tmp_path / "outputs.npz", clips=names, probabilities=right[:, order], classes=classes)
    assert run(["plan", str(path)]) == 0
    assert "scout" not in capsys.readouterr().out
    out = compress(recipe, tmp_path / "run")
    done = jobs(out)
    assert done["teacher"]["accuracy"] == 1.0
    assert done.keys() == {"teacher", "assistant", "student"}
    curves = {
        e["name"]: json.loads((out / "jobs" / e["job"] / "job.json").read_text())["curve"][0]["terms"].keys()
        for e in read_journal(out)
        if e["event"] == "job_finished" and e["role"] != "teacher"
    }
    assert {"correlation", "distribution"} & curves["teacher>small"] == set()  # a file has no substages
    assert {"correlation", "distribution"} <= curves["teacher>between>small"]  # the assistant has
    assert "logits" in curves["teacher>small"]

    np.savez(tmp_path / "outputs.npz", clips=names[1:], probabilities=right[1:], classes=material.clips.classes)
    with pytest.raises(UserError, match="has no row for 1 of 40 clips"):
        compress(recipe, tmp_path / "again")


@pytest.mark.parametrize(
    ("teacher", "more", "message"),
    [
        ({"hub": "x", "onnx": "t.onnx"}, {}, "teacher.hub and teacher.onnx are two networks"),
        ({"hub": "x", "width": 48}, {}, "teacher.width is for the built-in families"),
        ({"onnx": "t.onnx", "arguments": {"a": 1}}, {}, "teacher.arguments is for external networks"),
        ({"torchvision": "r3d_18", "trained": True}, {}, "teacher.trained is for"),
        ({"hub": "x", "classes": ["a", "b"]}, {}, "this one is trained here and gets the dataset's classes"),
        ({"logits": "t.npz"}, {"augment": {"mixup": 0.4}}, "augment.mixup mixes clips"),
        ({"logits": "t.npz"}, {"choice": {"budget": "0.5 x teacher"}}, "teacher.logits is not a network"),
        ({"onnx": "t.onnx"}, {"training": {"combination": "graft"}}, "graft runs .* comes from onnx cannot do"),
        ({"ensemble": [{"onnx": "t.onnx"}]}, {}, "has one member"),
        ({"ensemble": [{"onnx": "t.onnx"}, {"hub": "x"}]}, {}, "ensemble.1 would have to be trained first"),
        ({"ensemble": [{"onnx": "t.onnx"}, {"logits": "x"}]}, {}, "average the files' logits"),
        ({"family": "efficientnet-lite0", "width": 64}, {}, "width is fixed in efficientnet-lite0"),
        ({"start": "imagenet"}, {}, "start: imagenet is for the families efficientnet-lite0"),
        ({"hub": "x", "substages": ["a", "b"]}, {}, "small has 4 substages and teacher has 2"),
    ],
)
def test_what_validate_refuses(teacher, more, message, tmp_path, capsys):
    assert run(["validate", str(write(tmp_path, teacher, **more))]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_an_ensembles_factory_needs_permission(tmp_path, capsys):
    onnx_file(tmp_path / "t.onnx")
    member = {"factory": "beside:net", "substages": ["a"], "trained": True}
    path = write(tmp_path, {"ensemble": [{"onnx": "t.onnx"}, member]})
    assert run(["compress", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "'beside:net' runs somebody's code" in capsys.readouterr().err
    assert load_recipe(path).teacher.ensemble[1].code == tmp_path


def test_job_hashes_depend_on_the_content_of_the_files(tmp_path):
    onnx_file(tmp_path / "t.onnx")
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "u.onnx").write_bytes((tmp_path / "t.onnx").read_bytes())

    def named(teacher: object, names: tuple[str, ...] = ("a", "b")) -> set[str]:
        recipe = load_recipe(write(tmp_path, teacher))
        return {
            n.hash
            for n in build_recipe_job_graph(recipe, DatasetFingerprint("data", "weak", 2, names), recipe.students)
        }

    one = named({"onnx": "t.onnx"})
    assert named({"onnx": "moved/u.onnx", "floor": 0.1}) == one
    others = [
        named({"onnx": "t.onnx"}, ("b", "a")),
        named({"ensemble": [{"onnx": "t.onnx"}, {"onnx": "t.onnx"}]}),
        named({"onnx": "t.onnx", "classes": ["a", "b"]}),
    ]
    model = onnx.load(tmp_path / "t.onnx")
    model.doc_string = "another file"
    onnx.save(model, tmp_path / "t.onnx")
    others.append(named({"onnx": "t.onnx"}))
    assert all(not one & other for other in others)


def test_a_recipe_with_an_ensemble_reads_back(tmp_path):
    recipe = load_recipe(write(tmp_path, {"ensemble": [{"onnx": "t.onnx"}, {"checkpoint": "w.pt", "width": 8}]}))
    (tmp_path / "resolved.yaml").write_text(resolved_yaml(recipe))
    assert load_recipe(tmp_path / "resolved.yaml") == recipe
