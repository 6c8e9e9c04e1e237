"""The measurements of a pack as JSON, and the comparison of two devices."""

import json

import pytest

from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings, measure_latency
from skd_bench.benchmark.measurements import DeviceMeasurements, check_same_device
from skd_bench.errors import UserError


def test_measurements_survive_json_and_other_json_is_refused(network, tmp_path):
    got = measure_latency(
        [LatencyTarget("a", network(tmp_path / "a.onnx"))], MeasurementSettings(processes=2, queries=20)
    )["a"]
    data = {
        "schema": 1,
        "pack": "0" * 12,
        "device": {"cpu": "x"},
        "threads": 1,
        "processes": 2,
        "queries": 20,
        "session_count": 1,
        "measured": [
            {
                "sha256": "f" * 64,
                "runtime": "ort",
                "latency": vars(got)
                | {k: vars(v) if v else None for k, v in (("p50", got.p50), ("p90", got.p90), ("p99", got.p99))},
            }
        ],
    }
    read = DeviceMeasurements.from_json(json.loads(json.dumps(data)), "here")
    assert read.measured[0].latency == got
    assert DeviceMeasurements.load(read.save(tmp_path / "m.json")) == read
    for wrong in ([], {}, data | {"schema": 2}, data | {"x": 1}, data | {"threads": "1"}, data | {"measured": [3]}):
        with pytest.raises(UserError, match="here"):
            DeviceMeasurements.from_json(wrong, "here")
    for content in ("", "[" * 9999, '{"schema": 1e999}', "{}"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(UserError, match=r"bad\.json"):
            DeviceMeasurements.load(tmp_path / "bad.json")
    with pytest.raises(UserError, match=r"cannot read .*none\.json"):
        DeviceMeasurements.load(tmp_path / "none.json")


def test_latencies_of_two_devices_cannot_be_compared():
    one = {"cpu": "A", "cores_usable": 4, "governor": "performance", "load": [0.1]}
    check_same_device(one, one | {"load": [3.0], "kernel": "6"}, "it was measured")
    with pytest.raises(
        UserError, match=r"it was measured on device .*Differences: governor: performance and powersave"
    ):
        check_same_device(one, one | {"governor": "powersave"}, "it was measured")
