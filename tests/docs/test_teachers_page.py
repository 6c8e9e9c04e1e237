"""docs/teachers.md: every example is a teacher that answers, built from what the page says one has."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper

from skd_edge.models.builder import build_network, validate_networks
from skd_edge.models.external.huggingface import import_transformers
from skd_edge.recipe.loader import load_recipe
from skd_edge.recipe.schema import SingleTeacher

PAGE = Path(__file__).resolve().parents[2] / "docs/teachers.md"
EXAMPLES = re.findall(r"^```yaml\n(teacher:.*?)^```", PAGE.read_text("utf-8"), flags=re.M | re.S)
REST = {"name": "doc", "data": {"kind": "generated"}, "clip": {"frames": 4, "size": 32}, "students": [{"name": "s"}]}


def prepare(folder: Path, text: str) -> None:
    """What the example says one has beside the recipe."""
    if "my-videomae" in text:
        try:
            transformers = import_transformers()
        except ImportError:
            pytest.skip("could not import 'transformers'")
        small = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
        config = transformers.VideoMAEConfig(image_size=32, num_frames=4, decoder_num_hidden_layers=1, **small)
        transformers.VideoMAEForVideoClassification(config).save_pretrained(folder / "my-videomae")
    if "teacher.onnx" in text:
        nodes = [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "w"], ["said"]),
        ]
        tensors = [
            numpy_helper.from_array(np.ones((3, 10), np.float32), "w"),
            numpy_helper.from_array(np.array([-3, -2, -1]), "axes"),
        ]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3, 4, 32, 32])
        said = helper.make_tensor_value_info("said", TensorProto.FLOAT, ["B", 10])
        model = helper.make_model(
            helper.make_graph(nodes, "g", [x], [said], tensors),
            ir_version=9,
            opset_imports=[helper.make_opsetid("", 18)],
        )
        onnx.save(model, folder / "teacher.onnx")
    if "own.pt" in text:
        own = SingleTeacher(width=8)
        clip = load_recipe_from(folder, "teacher: {width: 8}").clip
        torch.save(build_network(own, classes=10, clip=clip, seed=0).state_dict(), folder / "own.pt")
    if "logits.npz" in text:
        np.savez(folder / "logits.npz", clips=np.array(["a.mp4"]), logits=np.ones((1, 10)))


def load_recipe_from(folder: Path, text: str):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(REST | yaml.safe_load(text)))
    return load_recipe(folder / "recipe.yaml")


def test_there_is_an_example_of_each_kind():
    kinds = {key for text in EXAMPLES for key in yaml.safe_load(text)["teacher"]}
    assert {"hub", "torchvision", "timm", "onnx", "logits", "ensemble", "start"} <= kinds


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split("{")[0].strip() + text[9:25].strip())
def test_an_example(text, tmp_path):
    prepare(tmp_path, text)
    recipe = load_recipe_from(tmp_path, text)
    try:
        validate_networks(recipe, allow_code=False)
        if recipe.teacher.logits:
            return
        net = build_network(recipe.teacher, classes=10, clip=recipe.clip, seed=0, names=("c",) * 10).eval()
    except ImportError as error:
        pytest.skip(f"could not import {str(error.name).split('.')[0]!r}")
    with torch.no_grad():
        assert net(torch.zeros(2, 3, 4, 32, 32)).logits.shape == (2, 10)
