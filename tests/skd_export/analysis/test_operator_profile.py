"""Operator profiles on ONNX Runtime: which type each node computes in, and how profiles are grouped."""

import pytest

from skd_bench.errors import UserError
from skd_bench.video.types import Preprocessing
from skd_export.analysis.operator_profile import group_by_operator, profile_operators
from skd_export.graph.uint8_input import add_preprocessing
from skd_export.quantization.quantize import convert_fp16, count_executed_operators, quantize_for_ort


def list_types(path, op):
    return {profile["ran"] for profile in profile_operators(path) if profile["op"] == op}


def test_an_fp32_file_computes_in_fp32(fp32):
    profiles = profile_operators(fp32)
    convolutions = [p for p in profiles if "Conv" in p["op"]]
    assert len(convolutions) == sum(n for op, n in count_executed_operators(fp32).items() if "Conv" in op)
    assert {p["ran"] for p in convolutions} == {"fp32"}
    assert {p["ran"] for p in profiles} <= {"fp32", "reformatted", "other"}
    assert len({p["node"] for p in profiles}) == len(profiles)
    assert all(p["microseconds"] >= 0 for p in profiles)


def test_an_int8_file_computes_in_int8_and_converts_its_input(fp32, batches, tmp_path):
    quantize_for_ort(fp32, tmp_path / "int8.onnx", batches())
    assert list_types(tmp_path / "int8.onnx", "QLinearConv") == {"int8"}
    assert list_types(tmp_path / "int8.onnx", "QuantizeLinear") == {"converted"}


def test_fp16_convolutions_run_in_fp32_on_a_cpu(fp32, tmp_path):
    convert_fp16(fp32, tmp_path / "fp16.onnx")
    profiles = profile_operators(tmp_path / "fp16.onnx")
    assert {p["ran"] for p in profiles if "Conv" in p["op"]} == {"fp32"}
    assert any(p["op"] == "Cast" and p["ran"] == "reformatted" for p in profiles)


def test_a_file_that_takes_uint8_frames_is_profiled_too(fp32, tmp_path):
    add_preprocessing(fp32, tmp_path / "frames.onnx", Preprocessing(16, 16, "crop", (0.45,) * 3, (0.225,) * 3))
    assert any("Conv" in p["op"] for p in profile_operators(tmp_path / "frames.onnx"))


def test_a_damaged_file_is_an_error_with_its_name(fp32, tmp_path, capfd):
    """onnxruntime's InvalidProtobuf is no RuntimeError; and nothing is printed on the way."""
    (tmp_path / "cut.onnx").write_bytes(fp32.read_bytes()[:-7])
    (tmp_path / "none.onnx").write_bytes(b"no network")
    for name in ("cut.onnx", "none.onnx", "gone.onnx"):
        with pytest.raises(UserError, match=f"ONNX Runtime cannot run .*{name}"):
            profile_operators(tmp_path / name)
    assert capfd.readouterr().out == ""


def test_profiles_are_grouped_by_operator_and_type():
    profiles = [
        {"op": "Conv", "ran": "int8", "microseconds": 20.0},
        {"op": "Cast", "ran": "reformatted", "microseconds": 10.0},
        {"op": "Conv", "ran": "fp32", "microseconds": 50.0},
        {"op": "Conv", "ran": "int8", "microseconds": 20.0},
    ]
    assert group_by_operator(profiles) == [
        {"op": "Conv", "ran": "fp32", "nodes": 1, "share": 0.5},
        {"op": "Conv", "ran": "int8", "nodes": 2, "share": 0.4},
        {"op": "Cast", "ran": "reformatted", "nodes": 1, "share": 0.1},
    ]
    assert group_by_operator([]) == []
    assert group_by_operator([{"op": "Conv", "ran": "fp32", "microseconds": 0.0}])[0]["share"] == 0
