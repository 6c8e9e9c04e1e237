"""Operator profiles on OpenVINO: an INT8 file computes in integers, an FP32 file does not."""

import json

import pytest

from skd_bench.errors import UserError
from skd_export.analysis.operator_profile import group_by_operator
from skd_export.quantization.quantize import quantize_for_ort

pytest.importorskip("openvino", reason="openvino is not installed")

from skd_export.analysis.openvino_profile import profile_with_openvino


def test_an_fp32_file_computes_in_fp32(fp32, tmp_path):
    path = tmp_path / "copy.onnx"  # the profile is cached beside the file
    path.write_bytes(fp32.read_bytes())
    known = profile_with_openvino(path)
    assert known["operators"]["Convolution f32"] == 4
    assert all(op.endswith(" f32") for op in known["operators"])
    assert {fate["ran"] for fate in known["fates"]} <= {"fp32", "reformatted"}
    assert sum(known["operators"].values()) == sum(fate["ran"] == "fp32" for fate in known["fates"])


def test_an_int8_file_computes_in_integers(fp32, batches, tmp_path):
    path = tmp_path / "int8.onnx"
    quantize_for_ort(fp32, path, batches())
    known = profile_with_openvino(path)
    assert known["operators"]["Convolution u8"] == 4
    assert "Convolution f32" not in known["operators"]
    rows = group_by_operator(known["fates"])
    assert ("Convolution", "int8", 4) in {(row["op"], row["ran"], row["nodes"]) for row in rows}
    assert any(row["ran"] == "converted" for row in rows)  # the input clip is quantised first
    assert sum(row["share"] for row in rows) == pytest.approx(1)


def test_a_profile_is_cached_and_measured_again_for_another_file(fp32, tmp_path):
    path = tmp_path / "copy.onnx"
    path.write_bytes(fp32.read_bytes())
    first = profile_with_openvino(path)
    cache_file = path.with_suffix(".openvino.json")
    content = json.loads(cache_file.read_text())
    cache_file.write_text(json.dumps(content | {"facts": {"operators": {"from the cache": 1}, "fates": []}}))
    assert profile_with_openvino(path)["operators"] == {"from the cache": 1}
    for broken in (json.dumps(content | {"key": "of another file"}), "{", "[]"):
        cache_file.write_text(broken)
        assert profile_with_openvino(path)["operators"] == first["operators"]


def test_a_file_that_is_not_a_model_is_refused(tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_text("not a model")
    with pytest.raises(UserError, match=r"OpenVINO .* cannot load"):
        profile_with_openvino(path)
