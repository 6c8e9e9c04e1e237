"""A stored session is used as a whole, on the same device and with the same settings, or not at all."""

from __future__ import annotations

from dataclasses import replace

from skd_bench.benchmark.latency import LatencyResult, LatencyTarget, MeasurementSettings
from skd_bench.device.info import device_id, read_device_info
from skd_bench.stats import Interval
from skd_edge.evaluation.measurement_cache import MeasuredSession, MeasurementCache


def make_targets(tmp_path, *names):
    targets = []
    for name in names:
        (tmp_path / name).write_text(name)
        targets.append(LatencyTarget(name, tmp_path / name))
    found = {n: LatencyResult(n, [[1.0, 2.0]], Interval(1.5, 1, 2), None, None, 2, 0.1, 0.2, True, None) for n in names}
    return targets, found


def test_a_session_is_found_by_its_files_and_only_as_a_whole(tmp_path):
    cache, info = MeasurementCache(tmp_path / "sessions", MeasurementSettings(1, 2, 30)), read_device_info()
    targets, found = make_targets(tmp_path, "a", "b")
    assert cache.find_session(targets, device_id(info)) is None
    cache.save_session(targets, MeasuredSession(found, info))
    session = cache.find_session([LatencyTarget("other name", tmp_path / "a")], device_id(info))
    again, there = session.latency, session.info
    assert again["other name"].samples_ms == [[1.0, 2.0]]
    assert again["other name"].name == "other name"
    assert device_id(there) == device_id(info)
    more, _ = make_targets(tmp_path, "a", "c")
    assert cache.find_session(more, device_id(info)) is None
    assert cache.find_session(targets, "another device") is None
    assert cache.find_session(targets, None) is not None
    assert (
        MeasurementCache(tmp_path / "sessions", MeasurementSettings(1, 2, 31)).find_session(targets, device_id(info))
        is None
    )
    (tmp_path / "a").write_text("other bytes")
    assert cache.find_session(targets[:1], device_id(info)) is None


def test_a_damaged_session_is_named_and_deleted(tmp_path, caplog):
    """A changed sample would be a wrong latency; it is measured again."""
    cache, info = MeasurementCache(tmp_path / "sessions", MeasurementSettings(1, 2, 30)), read_device_info()
    targets, found = make_targets(tmp_path, "a")
    cache.save_session(targets, MeasuredSession(found, info))
    (file,) = (tmp_path / "sessions").iterdir()
    file.write_text(file.read_text().replace("2.0", "0.2"))
    assert cache.find_session(targets, None) is None
    assert f"{file} is damaged: expected SHA-256 " in caplog.text
    assert not file.exists()


def test_other_files_stay_and_a_file_that_vanishes_is_no_crash(tmp_path):
    """Another process may use the folder; a link without its target is listed, but cannot be read."""
    cache, info = MeasurementCache(tmp_path / "sessions", MeasurementSettings(1, 2, 30)), read_device_info()
    targets, found = make_targets(tmp_path, "a")
    cache.save_session(targets, MeasuredSession(found, info))
    (tmp_path / "sessions" / "notes.json").write_text("mine")
    (tmp_path / "sessions" / "0123456789abcdef.json").symlink_to(tmp_path / "gone")
    assert cache.find_session(targets, None) is not None
    assert cache.find_session(make_targets(tmp_path, "b")[0], None) is None
    assert (tmp_path / "sessions" / "notes.json").read_text() == "mine"


def test_an_incomplete_session_is_ignored(tmp_path):
    cache, info = MeasurementCache(tmp_path / "sessions", MeasurementSettings(1, 2, 30)), read_device_info()
    targets, found = make_targets(tmp_path, "a")
    cache.save_session(targets, MeasuredSession(found, info))
    (file,) = (tmp_path / "sessions").iterdir()
    file.write_text(file.read_text()[:100])
    assert cache.find_session(targets, None) is None


def test_one_file_on_two_runtimes_is_two_measurements(tmp_path):
    cache, info = MeasurementCache(tmp_path / "sessions", MeasurementSettings(1, 2, 30)), read_device_info()
    (on_ort,), found = make_targets(tmp_path, "a")
    on_openvino = LatencyTarget("a", on_ort.path, "openvino")
    cache.save_session([on_ort], MeasuredSession(found, info))
    assert cache.find_session([on_openvino], None) is None
    slow = LatencyResult("a", [[9.0]], *[None] * 3, 1, 0.1, 0.2, True, None)
    cache.save_session([on_openvino], MeasuredSession({"a": slow}, info))
    assert cache.find_session([on_openvino], None).latency["a"].samples_ms == [[9.0]]
    assert cache.find_session([on_ort], None).latency["a"].samples_ms == [[1.0, 2.0]]


def test_a_session_with_energy_can_replace_one_without_but_not_the_reverse(tmp_path):
    info, (targets, found) = read_device_info(), make_targets(tmp_path, "a")
    without_energy, with_energy = (
        MeasurementCache(tmp_path / "sessions", MeasurementSettings(1, 2, 30, energy)) for energy in (False, True)
    )
    without_energy.save_session(targets, MeasuredSession(found, info))
    assert with_energy.find_session(targets, None) is None
    joules = Interval(0.02, 0.01, 0.03)
    with_energy.save_session(targets, MeasuredSession({"a": replace(found["a"], joules=joules)}, info))
    assert with_energy.find_session(targets, None).latency["a"].joules == joules
    assert without_energy.find_session(targets, None) is not None
