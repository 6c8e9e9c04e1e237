"""Real videos with labels and titles, a small ONNX model, and a recipe with label sources."""

from __future__ import annotations

import csv

import onnx
import pytest
from onnx import TensorProto, helper

from skd_edge.recipe.schema import Recipe

CLASSES = ("blink", "grow", "spin_cw")
BASE = {
    "name": "v",
    "clip": {"frames": 4, "size": 16},
    "teacher": {"width": 4, "depths": [1]},
    "students": [{"name": "s", "width": 4, "depths": [1]}],
}


@pytest.fixture(scope="session")
def videos(film, tmp_path_factory):
    """Real files with a title and a label (wrong for every fifth training clip); one file is not a video."""
    root = tmp_path_factory.mktemp("sources")
    rows = []
    for i in range(30):
        name, split = CLASSES[i % 3], "train" if i < 21 else ("val", "test")[i % 2]
        film(root / f"{i}.mp4", name, seed=i, frames=4, size=16)
        label = CLASSES[(i + 1) % 3] if split == "train" and i % 5 == 0 else name
        rows.append([f"{i}.mp4", label, f"a {name.replace('_', ' ')} film" if i % 2 else "untitled", split])
    (root / "7.mp4").write_bytes(b"not a video")
    with (root / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "title", "split"], *rows])
    return root


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A real ONNX file whose logits are (0, 0, 2) for every clip."""
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    shape = ["B", 3, 4, 16, 16]
    nodes = [
        helper.make_node("ReduceMean", ["clip"], ["mean"], axes=[1, 2, 3, 4], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["zeros"]),
        helper.make_node("Unsqueeze", ["zeros", "last"], ["column"]),
        helper.make_node("Add", ["column", "bias"], ["logits"]),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("last", TensorProto.INT64, [1], [1]),
        helper.make_tensor("bias", TensorProto.FLOAT, [1, 3], [0.0, 0.0, 2.0]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("clip", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 3])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.fixture(scope="session")
def recipe():
    """A function from the folder of the videos and label settings to a recipe."""

    def make(root, **labels):
        data = {"kind": "csv", "root": root} | {s: {"split": [s]} for s in ("train", "val", "test")}
        return Recipe.model_validate(BASE | {"data": data, "labels": labels})

    return make
