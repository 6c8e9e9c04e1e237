"""Calibration: how clips are read, checked and counted, and how much memory that takes."""

import logging

import numpy as np
import onnx
import pytest

from skd_bench.errors import UserError
from skd_export.graph.onnx_export import load_onnx
from skd_export.quantization.calibration import CalibrationRanges, choose_chunk_size, estimate_clip_bytes
from skd_export.quantization.quantize import quantize_for_ort


def test_equal_clips_give_equal_bytes_in_any_batches(fp32, clips, tmp_path):
    every = clips(20, 3)
    quantize_for_ort(fp32, tmp_path / "a.onnx", [every])
    quantize_for_ort(fp32, tmp_path / "b.onnx", (every[i : i + 3] for i in range(0, 20, 3)))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_every_clip_has_an_effect_also_the_first_of_many(fp32, clips, tmp_path):
    many = clips(512, 3)  # 64 chunks
    quantize_for_ort(fp32, tmp_path / "a.onnx", [many])
    many[0] *= 5
    quantize_for_ort(fp32, tmp_path / "b.onnx", [many])
    assert (tmp_path / "a.onnx").read_bytes() != (tmp_path / "b.onnx").read_bytes()


def test_clips_are_read_once_and_batch_by_batch(fp32, clips, tmp_path):
    alive, most = 0, 0

    class Counted(np.ndarray):
        def __del__(self):
            nonlocal alive
            alive -= self.base is None

    def stream():
        nonlocal alive, most
        for seed in range(12):
            batch = np.empty((4, 3, 4, 16, 16), np.float32).view(Counted).copy()
            batch[...] = clips(4, seed)
            alive += 1
            most = max(most, alive)
            yield batch
            del batch

    assert quantize_for_ort(fp32, tmp_path / "x.onnx", stream())["calibration_clips"] == 48
    assert most <= 3


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (np.zeros((2, 3, 4, 16, 15), np.float32), "must be float32"),
        (np.zeros((2, 3, 4, 16, 16), np.float64), "float64"),
        (np.full((2, 3, 4, 16, 16), np.nan, np.float32), "NaN"),
        (np.zeros((0, 3, 4, 16, 16), np.float32), "there are none"),
    ],
)
def test_bad_calibration_is_refused_and_writes_nothing(fp32, tmp_path, batch, words):
    with pytest.raises(UserError, match=words):
        quantize_for_ort(fp32, tmp_path / "x.onnx", [batch])
    assert not list(tmp_path.iterdir())


def test_the_root_logger_is_restored(fp32, batches, tmp_path, capfd):
    before = (logging.getLogger().level, logging.getLogger().handlers[:])
    quantize_for_ort(fp32, tmp_path / "x.onnx", batches())
    assert (logging.getLogger().level, logging.getLogger().handlers) == before
    assert capfd.readouterr() == ("", "")


def test_smaller_chunks_limit_memory(fp32):
    model = onnx.shape_inference.infer_shapes(load_onnx(fp32))
    assert choose_chunk_size(model) == 8
    model.graph.value_info[0].type.tensor_type.shape.dim[0].dim_value = 2**26
    assert choose_chunk_size(model) == 1


def test_memory_is_estimated_from_all_activations(fp32):
    model = onnx.shape_inference.infer_shapes(load_onnx(fp32))
    clip, logits = 4 * 3 * 4 * 16 * 16, 4 * 5  # bytes of the input and the output alone
    assert estimate_clip_bytes(model) > clip + logits


def test_the_first_clips_are_stored_as_samples(fp32, clips):
    every, lines = clips(20, 3), []
    ranges = CalibrationRanges(fp32, [every[:6], every[6:]], log=lines.append, sample_size=9)
    assert ranges.clip_count == 20
    assert np.array_equal(ranges.sample_clips, every[:9])
    assert [op for _, op in ranges.layers] == ["Conv"] * 4 + ["Gemm"]
    assert len(lines) == 1
    assert "chunks of 8 clips" in lines[0]
