"""Artefacts: which files are written, when they are reused, and what their metadata says."""

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from skd_bench.errors import UserError
from skd_bench.runtimes import find_runtime
from skd_bench.runtimes.openvino import why_no_bfloat16
from skd_bench.video.clip import normalise
from skd_bench.video.types import Preprocessing
from skd_export.analysis.parity import compute_parity, compute_torch_logits
from skd_export.exporter import QuantizationConfig, make_artefacts, read_metadata
from skd_export.graph.onnx_export import load_onnx
from skd_export.graph.uint8_input import Uint8Input
from skd_export.quantization.quantize import count_executed_operators
from skd_export.quantization.sensitivity import compute_onnx_logits

SHAPE, CLASSES = (4, 16, 16), ["left", "right", "up", "down", "still"]


def make(network, folder, clips, precisions=("fp32", "int8"), frames=None, **more):
    quantising = None if clips is None else QuantizationConfig(clips, **more)
    return make_artefacts(
        network, precisions, folder, clip_shape=SHAPE, classes=CLASSES, quantization=quantising, uint8_input=frames
    )


def state(folder):
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.iterdir())}


def test_files_and_their_metadata(network, batches, tmp_path):
    paths = make(network, tmp_path, batches)
    assert {k: p.name for k, p in paths.items()} == {"fp32": "fp32.onnx", "int8": "int8.onnx"}
    assert read_metadata(paths["int8"])["operators"]["QLinearConv"] == 4
    assert read_metadata(paths["fp32"])["operators"]["Conv"] == 4


def test_a_second_call_writes_nothing(network, batches, tmp_path):
    make(network, tmp_path, batches)
    before = state(tmp_path)

    def never():
        raise AssertionError("calibration clips were requested although the file is up to date")

    make(network, tmp_path, never)
    assert state(tmp_path) == before


@pytest.mark.parametrize("change", ["weights", "calibration", "damage", "metadata", "range"])
def test_a_file_is_written_again_if_its_inputs_change(network, batches, tmp_path, change):
    paths = make(network, tmp_path, batches, reduce_range=False)
    before = paths["int8"].read_bytes()
    more = {"reduce_range": False}
    if change == "weights":
        with torch.no_grad():
            network.head.weight.mul_(2)
    elif change == "calibration":
        more["key"] = "others"
    elif change == "range":
        more["reduce_range"] = True
    elif change == "metadata":
        metadata_file = paths["int8"].with_suffix(".json")
        metadata_file.write_text(metadata_file.read_text().replace('"tried": []', '"tried": ["x"]'))
        assert '"x"' in metadata_file.read_text()
    else:
        paths["int8"].write_bytes(before[:-1])
    requests = []
    make(network, tmp_path, lambda: requests.append(1) or batches(), **more)
    assert requests == [1]
    assert (paths["int8"].read_bytes() == before) == (change in ("calibration", "damage", "metadata"))


def test_a_damaged_intermediate_file_is_written_again(network, batches, tmp_path):
    """For uint8 frames, INT8 is made from a float file that is no artefact itself."""
    frames = Uint8Input(Preprocessing(16, 16, "crop", (0.45,) * 3, (0.225,) * 3))
    make(network, tmp_path, batches, frames=frames)
    before = {file.name: file.read_bytes() for file in (*tmp_path.glob("*.clip"), *tmp_path.glob("*.onnx"))}
    damaged = bytearray(before["fp32.clip"])
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "fp32.clip").write_bytes(damaged)
    make(network, tmp_path, batches, frames=frames)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_int8_alone_also_writes_the_fp32_file(network, batches, tmp_path):
    assert list(make(network, tmp_path, batches, ["int8"])) == ["int8"]
    assert (tmp_path / "fp32.onnx").is_file()


def test_impossible_requests_are_refused(network, tmp_path):
    for precision in ("int8", "fp8"):
        with pytest.raises(UserError, match=f"{precision} needs calibration clips"):
            make(network, tmp_path, None, [precision])
    with pytest.raises(UserError, match="unknown precision 'int4'; choose from fp32, fp16, bf16, int8, int8-trt, fp8"):
        make(network, tmp_path, None, ["int4"])
    with pytest.raises(UserError, match=r"fp32\.json, the metadata of .*fp32\.onnx, is missing or unreadable"):
        read_metadata(tmp_path / "fp32.onnx")


# ---------------------------------------------------------------------------------------------- contract, precision
def test_files_of_frames_give_the_logits_of_files_of_clips(network, batches, tmp_path):
    how = Preprocessing(16, 16, "crop", (0.45,) * 3, (0.225,) * 3)
    plain = make(network, tmp_path / "a", batches)
    framed = make(network, tmp_path / "b", batches, frames=Uint8Input(how))
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 16, 16, 3), np.uint8)
    for precision in ("fp32", "int8"):
        assert framed[precision].name == plain[precision].name
        session = find_runtime("ort").load(framed[precision], threads=1)
        np.testing.assert_allclose(
            session.run(pixels), compute_onnx_logits(plain[precision], normalise(pixels, how)), rtol=1e-4, atol=1e-4
        )
    before = state(tmp_path / "b")
    make(network, tmp_path / "b", lambda: pytest.fail("the file was written again"), frames=Uint8Input(how))
    assert state(tmp_path / "b") == before


def test_every_precision_is_close_to_the_network(network, batches, clips, tmp_path):
    lines = []
    made = make(network, tmp_path, batches, ("fp32", "fp16", "int8", "int8-trt", "fp8"), log=lines.append)
    assert len(lines) == 1  # one calibration serves all quantised files
    assert "chunks of 8 clips: up to" in lines[0]
    held_out = clips(64, 5)
    reference = compute_torch_logits(network, [held_out])
    for precision, path in made.items():
        assert compute_parity(reference, compute_onnx_logits(path, held_out))["cosine"] > 0.99, precision
    ran = {p: {f["op"]: f["ran"] for f in read_metadata(path)["fates"]} for p, path in made.items()}
    assert ran["int8"]["QLinearConv"] == "int8"
    assert "int8" not in ran["fp32"].values()


@pytest.mark.parametrize("framed", [False, True])
def test_a_bf16_file_of_either_contract_has_no_profile_of_onnx_runtime(network, batches, clips, tmp_path, framed):
    how = Preprocessing(16, 16, "crop", (0.45,) * 3, (0.225,) * 3)
    made = make(network, tmp_path, None, ("fp32", "bf16"), frames=Uint8Input(how) if framed else None)
    assert read_metadata(made["bf16"])["fates"] == []
    assert read_metadata(made["fp32"])["fates"]
    [x] = load_onnx(made["bf16"]).graph.input
    assert x.name == ("frames" if framed else "clip")
    if why_no_bfloat16():
        pytest.skip("no bfloat16 arithmetic")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 16, 16, 3), np.uint8)
    reference = compute_torch_logits(network, [normalise(pixels, how)])
    logits = find_runtime("openvino").load(made["bf16"], threads=1).run(pixels if framed else normalise(pixels, how))
    assert compute_parity(reference, logits)["cosine"] > 0.99


def test_tensorrts_int8_file_is_symmetric_and_has_no_integer_bias(network, batches, tmp_path):
    model = load_onnx(make(network, tmp_path, batches, ("int8-trt",))["int8-trt"])
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    dequantised = [n for n in model.graph.node if n.op_type == "DequantizeLinear"]
    assert len(dequantised) >= 8
    assert all(not values[n.input[2]].any() for n in dequantised)
    assert {values[n.input[0]].dtype for n in dequantised if n.input[0] in values} == {np.dtype(np.int8)}


def test_sensitive_layers_stay_in_fp32_until_the_file_is_within_bounds(network, batches, tmp_path):
    counts = []

    def refuse(path, precision):
        convolutions = count_executed_operators(path).get("QLinearConv", 0)
        counts.append(convolutions)
        return f"{convolutions} are too many" if convolutions > 3 else None

    path = make(network, tmp_path, batches, ("int8",), find_violation=refuse)["int8"]
    known = read_metadata(path)
    assert len(known["excluded"]) == len(known["tried"]) >= 1
    assert known["excluded"] == [s["layer"] for s in known["sensitivity"]][: len(known["excluded"])]
    errors = [s["error"] for s in known["sensitivity"]]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[-1] > 0
    assert counts[0] == 4
    assert counts[-1] <= 3


def test_a_file_that_stays_outside_its_bounds_has_all_layers_quantised(network, batches, tmp_path):
    path = make(network, tmp_path, batches, ("int8",), find_violation=lambda path, precision: "never")["int8"]
    assert read_metadata(path)["excluded"] == []
    assert read_metadata(path)["operators"]["QLinearConv"] == 4
    assert len(read_metadata(path)["tried"]) == 3  # all layers, then without one and two of five
