"""Model files run on the sample clips; logits that differ from the recorded ones are a problem."""

import json

import pytest

from skd_bench.bundle.manifest import Manifest
from skd_bench.errors import UserError
from skd_bench.evaluation.replay import ANSWERS_FILE, ReplayResult, compute_sample_logits, replay_samples
from skd_bench.evaluation.verify_bundle import verify_bundle
from skd_bench.files import sha256_file
from skd_bench.runtimes import openvino, registered_runtimes


def test_different_logits_are_a_problem(answered, record_logits):
    recorded = json.loads((answered / ANSWERS_FILE).read_text())
    recorded["artefacts/fp32.onnx"]["samples/0.mp4"].reverse()
    record_logits(answered, recorded)
    [problem] = verify_bundle(answered).problems
    assert "gives other outputs here" in problem
    assert "1 of 2 sample clips" in problem


@pytest.mark.parametrize(
    "content",
    ["[", "[]", '{"artefacts/fp32.onnx": {"samples/0.mp4": "x"}}', '{"artefacts/fp32.onnx": {"samples/0.mp4": [1]}}'],
)
def test_malformed_logits_are_refused(answered, content):
    (answered / ANSWERS_FILE).write_text(content)
    path = answered / "manifest.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"documents": {ANSWERS_FILE: sha256_file(answered / ANSWERS_FILE)}})
    )
    with pytest.raises(UserError, match="cannot be read as logits"):
        verify_bundle(answered)


def test_a_bundle_without_recorded_logits_is_not_run(bundle_with_samples):
    assert replay_samples(bundle_with_samples) == []


def test_a_file_without_recorded_logits_is_skipped_with_a_reason(answered, record_logits):
    record_logits(answered, {})
    [result] = replay_samples(answered)
    assert result.skipped == "its outputs were not recorded when the bundle was made"
    assert result.problem is None
    assert result.to_text() == f"artefacts/fp32.onnx: not run: {result.skipped}"


def test_logits_are_recorded_with_six_digits_for_each_file_and_clip(bundle_with_samples):
    logits = compute_sample_logits(bundle_with_samples, Manifest.load(bundle_with_samples))
    assert logits.keys() == {"artefacts/fp32.onnx"}
    clips = logits["artefacts/fp32.onnx"]
    assert clips.keys() == {"samples/0.mp4", "samples/1.mp4"}
    for row in clips.values():
        assert len(row) == 3
        assert row == [float(f"{value:.6g}") for value in row]
    json.dumps(logits, allow_nan=False)


@pytest.mark.parametrize(("relative", "accepted"), [(0.0, True), (1e-3, True), (1.1e-3, False)])
def test_only_differences_above_the_bound_are_a_problem(relative, accepted):
    result = ReplayResult("a.onnx", clips=2, relative=relative, flips=1, bound=1e-3)
    assert (result.problem is None) == accepted


def test_a_precision_that_this_machine_does_not_have_is_skipped(answered, monkeypatch):
    """Else `verify` would fail on a bundle that is whole."""
    if reason := registered_runtimes()["openvino"].why_unavailable():
        pytest.skip(f"not installed is openvino: {reason}")
    path = answered / "manifest.json"
    data = json.loads(path.read_text())
    data["artefacts"][0] |= {"precision": "bf16", "runtime": "openvino"}
    path.write_text(json.dumps(data))
    monkeypatch.setattr(openvino, "_has_bfloat16", lambda core: False)
    [result] = replay_samples(answered)
    assert "this CPU has no bfloat16 arithmetic" in result.skipped
    assert compute_sample_logits(answered, Manifest.load(answered)) == {}
    monkeypatch.setattr(openvino, "_has_bfloat16", lambda core: True)
    assert replay_samples(answered)[0].clips == 2
