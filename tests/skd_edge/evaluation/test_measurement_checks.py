"""Measurements with one impossible value are refused in one line that names it; real ones are accepted."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from skd_bench.benchmark.latency import LatencyResult, LatencyTarget, MeasurementSettings, measure_latency
from skd_bench.benchmark.measurements import DeviceMeasurements, MeasuredFile
from skd_bench.device.info import read_device_info
from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.stats import Interval
from skd_edge.evaluation.measurement_checks import check_measurements

NAN, ENDLESS = float("nan"), float("inf")


@pytest.fixture
def sound() -> dict[str, Any]:
    """The measurements of two files, as JSON."""
    samples = [[1.0 + 0.001 * i for i in range(40)], [1.2 + 0.001 * i for i in range(40)]]
    latency = LatencyResult("a", samples, Interval(1.1, 1.0, 1.2), None, None, 80, 5.0, 2.0, True, 31.5)
    measured = [MeasuredFile(digit * 64, "ort", latency) for digit in "ab"]
    whole = DeviceMeasurements(1, "0" * 12, read_device_info(), 1, 2, 40, session_count=1, measured=measured)
    return json.loads(json.dumps(whole.to_json()))


def check(data: dict[str, Any]) -> None:
    """Read and check as ``compress --measurements`` does, with the numbers that Python's JSON accepts."""
    check_measurements(DeviceMeasurements.from_json(json.loads(json.dumps(data)), "RESULT.json"), "RESULT.json")


def test_real_measurements_are_accepted(exporter, network, sound):
    target = LatencyTarget("a", exporter.export_untrained(network, "small", ("fp32",))["fp32"])
    latency = measure_latency([target], MeasurementSettings(processes=2, queries=40))["a"]
    measured = [MeasuredFile(sha256_file(target.path), "ort", latency)]
    check(DeviceMeasurements(1, "0" * 12, read_device_info(), 1, 2, 40, session_count=1, measured=measured).to_json())
    check(sound)
    check(sound | {"device": {"cpu": "x", "gpus": None, "runtimes": None}})  # of another version


SAMPLES = ("measured", 0, "latency", "samples_ms", 0, 0)
P50 = ("measured", 1, "latency", "p50")


@pytest.mark.parametrize("value", [NAN, ENDLESS, -ENDLESS, 0, 0.0, -1.5, 1e12, 1e300, "1.5", None, True, [], {}])
@pytest.mark.parametrize("where", [SAMPLES, (*P50, "value")])
def test_an_impossible_number_is_refused(sound, where, value):
    with pytest.raises(UserError, match=r"RESULT\.json") as caught:
        check(changed(sound, where, value))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ((*P50, "low"), 1.15, "outside its own interval"),
        ((*P50, "high"), ENDLESS, "must be float"),
        (("measured", 0, "latency", "load_ms"), -1, "negative time"),
        (("measured", 0, "latency", "load_ms"), NAN, "must be float"),
        (("measured", 0, "latency", "peak_mb"), 0, "negative time or size"),
        (("measured", 0, "latency", "n"), 7, "but 'n' is 7"),
        (("measured", 0, "latency", "samples_ms"), [], "has no samples"),
        (("measured", 0, "latency", "samples_ms"), [[], []], "has no samples"),
        (("measured", 0, "latency", "samples_ms"), {}, "samples_ms"),
        (("measured", 0, "latency", "finite"), 1, "must be bool"),
        (("measured", 0, "sha256"), "0" * 63, "no sha256"),
        (("measured", 0, "sha256"), "Z" * 64, "no sha256"),
        (("measured", 0, "sha256"), 5, "must be str"),
        (("measured", 0, "runtime"), None, "must be str"),
        (("measured",), {}, "'measured'"),
        (("measured",), [None], "measured"),
        (("threads",), 0, "'threads' is 0"),
        (("threads",), 1.0, "must be int"),
        (("queries",), -40, "'queries' is -40"),
        (("session_count",), 0, "'session_count' is 0"),
        (("schema",), 0, "'schema' is 0"),
        (("schema",), 99, "schema 99"),
        (("energy",), "yes", "must be bool"),
        (("device",), [], "must be an object"),
        (("device", "cpu"), None, "name of a processor"),
        (("device", "isa"), 5, "not a list of names"),
        (("device", "isa"), [[]], "not a list of names"),
        (("device", "runtimes"), [1], "does not describe a device"),
        (("device", "gpus"), ["A100"], "does not describe a device"),
        (("device", "load"), [NAN], "not finite"),
        (("device", "notes"), "x" * (1 << 21), "more than any device info"),
        (("more",), 1, "not a known key"),
    ],
)
def test_another_impossible_value_is_refused(sound, where, value, words):
    with pytest.raises(UserError, match=words) as caught:
        check(changed(sound, where, value))
    assert "RESULT.json" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_two_measurements_of_a_file_are_refused(sound):
    with pytest.raises(UserError, match=r"'measured\[2\]' is a second measurement of the file aaaa"):
        check(sound | {"measured": [*sound["measured"], sound["measured"][0]]})


LAYER = {"op": "Convolution", "ran": "FP16", "format": "NCHW", "nodes": 3}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"layers": [1]}, "not a list of objects"),
        ({"layers": "Convolution"}, "not a list of objects"),
        ({"layers": [{"op": "a"}]}, "not a list of objects"),
        ({"layers": [LAYER | {"nodes": "x"}]}, "not a list of objects"),
        ({"layers": [LAYER | {"nodes": -1}]}, "not a list of objects"),
        ({"layers": [LAYER | {"nodes": 1e9}]}, "not a list of objects"),
        ({"layers": [LAYER | {"nodes": 99_999}] * 2}, "more than 100000 layers"),
        ({"layers": [LAYER], "engine_sha256": ["a"]}, "not 64 hexadecimal digits"),
        ({"gpu_mb": NAN}, "not finite"),
        ({"gpu": "x" * (1 << 21)}, "more than any engine"),
    ],
)
def test_facts_of_another_form_are_refused(sound, facts, words):
    note = {"sha256": "a" * 64, "runtime": "tensorrt", "facts": {"layers": [LAYER], "gpu": "A", "sm": "87"}}
    check(sound | {"notes": [note]})
    with pytest.raises(UserError, match=words) as caught:
        check(sound | {"notes": [note, note | {"facts": facts}]})
    assert "RESULT.json: 'notes[1]'" in str(caught.value)


@pytest.mark.parametrize("shape", [[], [4], [2, 2, 1], [-1, 4], [0, 4], [10**30, 4]])
def test_logits_of_another_shape_are_refused(sound, shape):
    logits = {"clips": "a", "shape": shape, "data": "AAAAAA=="}
    note = {"sha256": "a" * 64, "runtime": "tensorrt", "logits": logits}
    with pytest.raises(UserError, match="not a table of clips and classes"):
        check(sound | {"notes": [note]})


def changed(data, where, value):
    """A copy with another value at a place."""
    copied = copy.deepcopy(data)
    parent = copied
    for key in where[:-1]:
        parent = parent[key]
    parent[where[-1]] = value
    return copied
