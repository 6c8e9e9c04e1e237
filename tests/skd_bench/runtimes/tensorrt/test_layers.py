"""JSON of TensorRT's inspector, in the layout that NVIDIA documents, counted by kind and precision."""

from __future__ import annotations

import json

from skd_bench.runtimes.tensorrt.layers import summarise_layers


def tensor(kind: str) -> dict[str, object]:
    return {"Name": "x", "Location": "Device", "Dimensions": [1, 8, 4, 4], "Format/Datatype": kind}


def layer(kind: str, read: str, wrote: str) -> dict[str, object]:
    return {"Name": "n", "LayerType": kind, "Inputs": [tensor(read)], "Outputs": [tensor(wrote)], "TacticName": "t"}


def test_layers_by_kind_and_precision():
    wide, half = "Thirty-two wide channel vectorized row major Int8 format", "Row major linear FP16 format"
    inspected = {
        "Layers": [
            layer("Reformat", "Row major linear FP32", wide),
            layer("CaskConvolution", wide, wide),
            layer("CaskConvolution", wide, wide),
            layer("CaskConvolution", wide, "Row major linear FP32"),
            layer("kgen", half, half),
        ],
        "Bindings": ["clip", "logits"],
    }
    rows = summarise_layers(json.dumps(inspected))
    assert rows[0] == {"op": "CaskConvolution", "ran": "int8", "format": wide, "nodes": 2}
    assert {(r["op"], r["ran"], r["nodes"]) for r in rows[1:]} == {
        ("CaskConvolution", "int8", 1),
        ("Reformat", "reformatted", 1),
        ("kgen", "fp16", 1),
    }


def test_an_engine_with_only_layer_names():
    assert summarise_layers(json.dumps({"Layers": ["conv1", "conv2"]})) == [
        {"op": "unknown", "ran": "unknown", "format": "unknown", "nodes": 2}
    ]
    assert summarise_layers("") == []


def test_tensorrt_11_has_type_and_format_in_two_fields():
    """https://docs.nvidia.com/deeplearning/tensorrt/ (migration from 10.x to 11.x, IEngineInspector)."""
    half = {"Name": "x", "Datatype": "Half", "Format": "Channel major linear", "Dimensions": [1, 8]}
    kept = {"Name": "n", "LayerType": "kgen", "Inputs": [half], "Outputs": [half], "TacticName": "t"}
    inspected = {"Layers": [kept], "I/O Tensors": [{"Name": "clip", "IOMode": "Input", "DataType": "Float"}]}
    assert summarise_layers(json.dumps(inspected)) == [
        {"op": "kgen", "ran": "fp16", "format": "Half Channel major linear", "nodes": 1}
    ]
