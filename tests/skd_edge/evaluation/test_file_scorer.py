"""Files are scored on clips; a precision that is not shown to be faster than FP32 is rejected."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

from skd_bench.benchmark.latency import LatencyResult
from skd_bench.errors import UserError
from skd_bench.integrity.checked_files import write_checked
from skd_bench.video.types import WHOLE_FILE, ClipError
from skd_edge.evaluation.file_scorer import FileScorer, _why_not_faster
from skd_edge.schedule.candidates import Deployment

FP32, INT8 = Deployment("fp32", "ort", "fp32"), Deployment("int8", "ort", "int8")
PROCESSES = np.array([1.0, 1.3, 1.1, 1.02, 1.2])  # processes differ more than queries of one process


def latency(ms: np.ndarray) -> LatencyResult:
    samples = [list(m * np.linspace(0.99, 1.01, 40)) for m in ms]
    return LatencyResult("x", samples, None, None, None, 40 * len(samples), 1.0, 1.0, True, None)


def find_reason(int8: np.ndarray, fp32: np.ndarray = PROCESSES) -> str | None:
    return _why_not_faster(INT8, {FP32: latency(fp32), INT8: latency(int8)})


def test_a_file_that_is_faster_in_every_process_is_accepted():
    assert find_reason(0.9 * PROCESSES) is None


def test_a_file_that_is_or_may_be_slower_is_rejected_with_the_ratio():
    reason = find_reason(1.1 * PROCESSES)
    assert reason is not None
    assert "INT8 is rejected: 1.10 times FP32's milliseconds [1.10, 1.10]" in reason
    reason = find_reason(PROCESSES * [0.9, 1.05, 0.97, 1.02, 1.04])
    assert reason is not None
    assert "not shown to be faster" in reason


def test_there_is_no_reason_for_fp32_or_without_an_interval():
    assert _why_not_faster(FP32, {FP32: latency(PROCESSES)}) is None
    assert find_reason(np.array([1.2]), np.array([1.0])) is None


# ---------------------------------------------------------------------------------------------- scoring
@pytest.fixture
def fp32(exporter, network):
    return exporter.export_untrained(network, "small", ("fp32",))["fp32"]


def test_a_network_and_its_file_have_the_same_accuracy(scorer, network, fp32, tiny_clips, compute_network_logits):
    clips = tiny_clips.val
    result = scorer.evaluate_network(network, {FP32: fp32}, {FP32: latency(PROCESSES)}, clips)[FP32]
    expected = compute_network_logits(network, clips).argmax(1)
    assert (result.predictions == expected).all()
    assert result.accuracy.top1.value == (expected == clips.labels).mean()
    assert result.parity["agreement"] == 1
    assert (result.rejection_reason, result.not_faster_reason, result.runtime) == (None, None, "ort")
    accuracy, predictions = scorer.score_file(fp32, clips, "ort")
    assert (predictions == expected).all()
    assert accuracy.top1 == result.accuracy.top1


def test_logits_are_computed_once_for_each_file_and_set_of_clips(scorer, fp32, tiny_clips):
    first = scorer.compute_logits(fp32, tiny_clips.val, "ort")
    (stored,) = (scorer.folder / "logits").iterdir()
    buffer = io.BytesIO()
    np.save(buffer, first + 1)
    write_checked(stored, buffer.getvalue())
    assert (scorer.compute_logits(fp32, tiny_clips.val, "ort") == first + 1).all()
    for damaged in (b"", b"incomplete", stored.read_bytes().replace(b"NUMPY", b"NUMBY")):
        stored.write_bytes(damaged)
        assert (scorer.compute_logits(fp32, tiny_clips.val, "ort") == first).all()
    assert scorer.compute_logits(fp32, tiny_clips.train, "ort").shape == (48, 4)
    assert len(list((scorer.folder / "logits").iterdir())) == 2


def test_the_first_clips_are_those_of_the_split(scorer, tiny_clips):
    first = np.concatenate(list(scorer.iter_first_clips(tiny_clips.val, 7)))
    assert first.dtype == np.uint8
    assert (first == tiny_clips.val.clips[:7]).all()
    assert np.concatenate(list(scorer.iter_first_clips(tiny_clips.val, 1000))).shape == (20, 4, 16, 16, 3)


def test_files_of_camera_frames_get_clips_of_the_camera_size(make_recipe, tiny_clips, tmp_path, film):
    """The store has 16x16 clips; frames of 24x20 are decoded from the videos again."""
    videos = tuple(film(tmp_path / f"{i}.mp4", frames=8, size=32, seed=i) for i in range(20))
    clips = replace(tiny_clips.val, files=videos, spans=(WHOLE_FILE,) * 20)
    recipe = make_recipe(export={"contract": "frames", "frame_size": [24, 20]})
    scorer = FileScorer(recipe, tiny_clips.classes, tmp_path)
    batches = list(scorer.iter_first_clips(clips, 10))
    assert [b.shape for b in batches] == [(8, 4, 24, 20, 3), (2, 4, 24, 20, 3)]


def test_clips_for_a_device_are_written_whole_or_again(make_recipe, tiny_clips, tmp_path, film):
    """A clip that cannot be decoded ends the writing; the rows that are missing are never scored as zeros."""
    videos = [film(tmp_path / f"{i}.mp4", frames=8, size=32, seed=i) for i in range(20)]
    whole = videos[15].read_bytes()
    videos[15].write_bytes(b"no video")
    clips = replace(tiny_clips.val, files=tuple(videos), spans=(WHOLE_FILE,) * 20)
    scorer = FileScorer(
        make_recipe(export={"contract": "frames", "frame_size": [24, 20]}), tiny_clips.classes, tmp_path
    )
    for _ in range(2):  # the second try must not use what the first has left
        with pytest.raises(ClipError, match=r"15\.mp4"):
            scorer.make_scoring_clips(clips)
    videos[15].write_bytes(whole)
    written = np.load(scorer.make_scoring_clips(clips).file)
    assert (written == np.concatenate(list(scorer.iter_first_clips(clips, 20)))).all()
    assert written[15].any()


def test_a_runtime_that_cannot_load_a_file_gives_the_reason(scorer, tiny_clips, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    reason = scorer.why_unrunnable(tmp_path / "broken.onnx", "openvino")
    assert reason.startswith("openvino cannot run it: ")
    assert scorer.why_unrunnable(tmp_path / "broken.onnx", "ort") is None  # not tested: the export has run the file
    with pytest.raises(UserError, match=r"broken\.onnx"):
        scorer.compute_logits(tmp_path / "broken.onnx", tiny_clips.val, "ort")
