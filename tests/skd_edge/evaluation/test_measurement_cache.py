"""A sitting serves again as a whole, on the same device, with the same settings, or not at all."""

from __future__ import annotations

from dataclasses import replace

from skd_bench.benchmark.latency import LatencyResult, LatencyTarget, MeasurementSettings
from skd_bench.device.info import device_id, read_device_info
from skd_bench.stats import Interval
from skd_edge.evaluation.measurement_cache import MeasurementCache


def some(tmp_path, *names):
    targets = []
    for name in names:
        (tmp_path / name).write_text(name)
        targets.append(LatencyTarget(name, tmp_path / name))
    found = {n: LatencyResult(n, [[1.0, 2.0]], Interval(1.5, 1, 2), None, None, 2, 0.1, 0.2, True, None) for n in names}
    return targets, found


def test_found_again_under_other_names_and_never_in_part(tmp_path):
    sittings, card = MeasurementCache(tmp_path / "kept", MeasurementSettings(1, 2, 30)), read_device_info()
    targets, found = some(tmp_path, "a", "b")
    assert sittings.find_session(targets, device_id(card)) is None
    sittings.save_session(targets, found, card)
    again, there = sittings.find_session([LatencyTarget("other name", tmp_path / "a")], device_id(card))
    assert again["other name"].samples_ms == [[1.0, 2.0]]
    assert again["other name"].name == "other name"
    assert device_id(there) == device_id(card)
    more, _ = some(tmp_path, "a", "c")
    assert sittings.find_session(more, device_id(card)) is None
    assert sittings.find_session(targets, "another device") is None
    assert sittings.find_session(targets, None) is not None
    assert (
        MeasurementCache(tmp_path / "kept", MeasurementSettings(1, 2, 31)).find_session(targets, device_id(card))
        is None
    )
    (tmp_path / "a").write_text("other bytes")
    assert sittings.find_session(targets[:1], device_id(card)) is None


def test_a_file_that_was_cut_off_is_measured_again(tmp_path):
    sittings, card = MeasurementCache(tmp_path / "kept", MeasurementSettings(1, 2, 30)), read_device_info()
    targets, found = some(tmp_path, "a")
    sittings.save_session(targets, found, card)
    (file,) = (tmp_path / "kept").iterdir()
    file.write_text(file.read_text()[:100])
    assert sittings.find_session(targets, None) is None


def test_one_file_on_two_runtimes_is_two_measurements(tmp_path):
    sittings, card = MeasurementCache(tmp_path / "kept", MeasurementSettings(1, 2, 30)), read_device_info()
    (on_ort,), found = some(tmp_path, "a")
    on_openvino = LatencyTarget("a", on_ort.path, "openvino")
    sittings.save_session([on_ort], found, card)
    assert sittings.find_session([on_openvino], None) is None
    sittings.save_session([on_openvino], {"a": LatencyResult("a", [[9.0]], *[None] * 3, 1, 0.1, 0.2, True, None)}, card)
    assert sittings.find_session([on_openvino], None)[0]["a"].samples_ms == [[9.0]]
    assert sittings.find_session([on_ort], None)[0]["a"].samples_ms == [[1.0, 2.0]]


def test_joules_serve_without_and_nothing_without_serves_for_joules(tmp_path):
    card, (targets, found) = read_device_info(), some(tmp_path, "a")
    plain, frugal = (
        MeasurementCache(tmp_path / "kept", MeasurementSettings(1, 2, 30, energy)) for energy in (False, True)
    )
    plain.save_session(targets, found, card)
    assert frugal.find_session(targets, None) is None
    joules = Interval(0.02, 0.01, 0.03)
    frugal.save_session(targets, {"a": replace(found["a"], joules=joules)}, card)
    assert frugal.find_session(targets, None)[0]["a"].joules == joules
    assert plain.find_session(targets, None) is not None
