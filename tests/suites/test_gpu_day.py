"""The script for the day a GPU is at hand, run on the double: it names the double, and writes none of its times."""

from __future__ import annotations

import json

import pytest

from bench.suites import gpu_conformance, gpu_day
from skd_bench.runtimes.cuda import why_cuda_unavailable

no_gpu = pytest.mark.skipif(why_cuda_unavailable() is None, reason="a GPU is here to build for")


def list_keys(value):
    """All keys of nested objects."""
    if isinstance(value, dict):
        return set(value) | {key for item in value.values() for key in list_keys(item)}
    return {key for item in value for key in list_keys(item)} if isinstance(value, list) else set()


def test_steps_run_on_the_double_and_no_time_is_written(tmp_path, capsys):
    out = tmp_path / "day.json"
    assert gpu_day.main(["--double", "--out", str(out), "--only", "facts,copies,gradients"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    written = json.loads(out.read_text())
    assert written == {"double": True, "steps": lines}
    facts, copies, gradients = lines
    assert "double of a GPU" in facts["found"]["gpu"]
    assert facts["found"]["runtimes"]["tensorrt"] == "10.13.3+double"
    assert "the double stands for TensorRT only" in facts["found"]["runtimes"].values()
    through_bindings = copies["found"]["cuda-bindings"]
    assert through_bindings["equal_without_graph"] is through_bindings["equal_with_graph"] is True
    assert through_bindings["leaked_bytes"] == 0
    assert gradients["ok"] is False  # this step needs a GPU; the others went on
    assert not [key for key in list_keys(written) if key.endswith(("_ms", "mhz", "seconds", "_mb", "interval"))]


def test_times_are_removed_at_every_depth():
    found = {"a": [{"p50_ms": 1, "n": 2, "p50_interval": [1, 2]}], "joules_per_clip": 3, "b": {"mhz": 4, "ok": True}}
    assert gpu_day.without_times(found) == {"a": [{"n": 2}], "b": {"ok": True}}


def test_a_step_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.setitem(gpu_day.STEPS, "facts", (gpu_day.find_facts, 0))
    result = gpu_day.run_step("facts", {})
    assert (result.ok, result.found) == (False, {"problem": "not finished after 0 s"})


@no_gpu
def test_without_a_gpu_both_say_so_in_one_line(capsys):
    assert gpu_day.main(["--only", "facts"]) == 1
    assert capsys.readouterr().err.startswith("no GPU here: there is no NVIDIA driver")
    assert gpu_conformance.main([]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("no GPU to test: there is no NVIDIA driver")


def test_the_result_of_a_double_is_none_of_the_published(capsys):
    with pytest.raises(SystemExit):
        gpu_day.main(["--double"])
    assert "--double needs --out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu_day.main(["--only", "nothing"])


def test_the_conformance_suite_passes_on_the_double(tensorrt_double, capfd):
    assert gpu_conformance.main(["tensorrt", "tensorrt-rtx", "ort-cuda"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert "tensorrt-rtx is not tested: the double stands for TensorRT only" in lines
    assert any(line.startswith("testing tensorrt on double of a GPU") for line in lines)
