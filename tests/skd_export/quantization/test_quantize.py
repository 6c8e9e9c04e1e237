"""INT8 and FP16 files: executed operators, parity, weights and metadata."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from skd_bench.errors import UserError
from skd_export.analysis.parity import compute_parity, compute_torch_logits, find_violated_bound
from skd_export.graph.onnx_export import CLASSES_KEY, load_onnx
from skd_export.quantization.quantize import (
    convert_fp16,
    count_executed_operators,
    isa_has_vnni,
    needs_reduced_range,
    quantize_for_ort,
)


def widest_weight(path):
    arrays = [numpy_helper.to_array(t) for t in load_onnx(path).graph.initializer]
    return max(int(np.abs(a.astype(int)).max()) for a in arrays if a.dtype == np.int8 and a.ndim > 1)


def test_every_convolution_runs_as_integers(fp32, batches, tmp_path):
    facts = quantize_for_ort(fp32, tmp_path / "int8.onnx", batches())
    assert facts["convolutions"] == facts["convolutions_fused"] == facts["operators"]["QLinearConv"] == 4
    assert facts["calibration_clips"] == 48
    assert facts["operators"] == count_executed_operators(tmp_path / "int8.onnx")
    assert "QLinearConv" not in count_executed_operators(fp32)
    onnx.checker.check_model(str(tmp_path / "int8.onnx"))


def test_logits_stay_close_and_classes_agree(network, fp32, batches, clips, tmp_path):
    quantize_for_ort(fp32, tmp_path / "int8.onnx", batches())
    held_out = clips(200, 11)
    session = ort.InferenceSession(str(tmp_path / "int8.onnx"), providers=["CPUExecutionProvider"])
    found = compute_parity(compute_torch_logits(network, [held_out]), session.run(None, {"clip": held_out})[0])
    assert found["spread"] > 0.1
    assert 0 < found["relative"] < 0.2
    assert found["cosine"] > 0.99
    assert found["agreement"] > 0.9
    assert find_violated_bound(found, "fp32") is not None


@pytest.mark.parametrize(("reduce_range", "widest"), [(True, 64), (False, 127)])
def test_a_reduced_range_gives_7_bit_weights(fp32, batches, tmp_path, reduce_range, widest):
    facts = quantize_for_ort(fp32, tmp_path / "x.onnx", batches(), reduce_range=reduce_range)
    assert facts["reduce_range"] is reduce_range
    assert widest_weight(tmp_path / "x.onnx") == widest


def test_the_default_range_is_what_the_machine_needs(fp32, batches, tmp_path):
    facts = quantize_for_ort(fp32, tmp_path / "x.onnx", batches())
    assert facts["reduce_range"] is needs_reduced_range()


def test_the_file_contains_its_classes_and_no_temporary_path(fp32, batches, tmp_path):
    quantize_for_ort(fp32, tmp_path / "x.onnx", batches())
    assert [p.key for p in load_onnx(tmp_path / "x.onnx").metadata_props] == [CLASSES_KEY]
    data = (tmp_path / "x.onnx").read_bytes()
    assert b"/tmp" not in data
    assert b"skd-int8" not in data


def test_operators_of_a_file_that_is_not_a_model(tmp_path):
    (tmp_path / "x.onnx").write_text("not a model")
    with pytest.raises(UserError, match="cannot load"):
        count_executed_operators(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu avx2", False), ("fpu avx2 avx512_vnni", True), ("avx_vnni", True)]
)
def test_vnni_is_read_from_the_cpu_flags(tmp_path, monkeypatch, flags, expected):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert isa_has_vnni(tmp_path / "cpuinfo") is expected
    assert isa_has_vnni(tmp_path / "none") is None


def test_vnni_is_unknown_on_other_architectures(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert isa_has_vnni() is None
    assert needs_reduced_range() is False


# ------------------------------------------------------------------------------------------------------------ FP16
def test_fp16_has_the_same_input_and_output_and_close_logits(network, fp32, clips, tmp_path):
    facts = convert_fp16(fp32, tmp_path / "fp16.onnx")
    half = load_onnx(tmp_path / "fp16.onnx")
    onnx.checker.check_model(half, full_check=True)
    ends = [v.type.tensor_type.elem_type for v in (*half.graph.input, *half.graph.output)]
    assert ends == [onnx.TensorProto.FLOAT] * 2
    assert {p.key for p in half.metadata_props} == {CLASSES_KEY}
    weights = [t for t in half.graph.initializer if len(t.dims) > 1 and t.data_type != onnx.TensorProto.INT64]
    assert weights
    assert all(t.data_type == onnx.TensorProto.FLOAT16 for t in weights)
    assert facts["operators"]["Cast"] == 2
    held_out = clips(200, 11)
    session = ort.InferenceSession(str(tmp_path / "fp16.onnx"), providers=["CPUExecutionProvider"])
    found = compute_parity(compute_torch_logits(network, [held_out]), session.run(None, {"clip": held_out})[0])
    assert found["spread"] > 0.1
    assert 0 < found["relative"] < 0.02  # 0 would mean that nothing was rounded
    assert find_violated_bound(found, "fp16") is None


def test_equal_files_give_equal_fp16_bytes(fp32, tmp_path):
    for name in "ab":
        convert_fp16(fp32, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("weight", [70000.0, -70000.0, np.nan])
def test_weights_beyond_fp16_are_refused(fp32, tmp_path, weight):
    model = load_onnx(fp32)
    tensor = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 4)
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] = weight
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, tmp_path / "wide.onnx")
    with pytest.raises(UserError, match=r"wide\.onnx has a weight of .*larger than FP16 can hold"):
        convert_fp16(tmp_path / "wide.onnx", tmp_path / "fp16.onnx")
    assert not (tmp_path / "fp16.onnx").exists()
