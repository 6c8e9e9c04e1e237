"""A sitting serves again as a whole, on the same device, with the same settings, or not at all."""

from __future__ import annotations

from dataclasses import replace

from skd_bench.benchmark.latency import Latency, Target
from skd_bench.device.info import device_card, device_id
from skd_bench.remote.pack import Settings
from skd_bench.stats import Interval
from skd_edge.evaluation.measurement_cache import Sittings


def some(tmp_path, *names):
    targets = []
    for name in names:
        (tmp_path / name).write_text(name)
        targets.append(Target(name, tmp_path / name))
    found = {n: Latency(n, [[1.0, 2.0]], Interval(1.5, 1, 2), None, None, 2, 0.1, 0.2, True, None) for n in names}
    return targets, found


def test_found_again_under_other_names_and_never_in_part(tmp_path):
    sittings, card = Sittings(tmp_path / "kept", Settings(1, 2, 30)), device_card()
    targets, found = some(tmp_path, "a", "b")
    assert sittings.find(targets, device_id(card)) is None
    sittings.keep(targets, found, card)
    again, there = sittings.find([Target("other name", tmp_path / "a")], device_id(card))
    assert again["other name"].samples_ms == [[1.0, 2.0]]
    assert again["other name"].name == "other name"
    assert device_id(there) == device_id(card)
    more, _ = some(tmp_path, "a", "c")
    assert sittings.find(more, device_id(card)) is None
    assert sittings.find(targets, "another device") is None
    assert sittings.find(targets, None) is not None
    assert Sittings(tmp_path / "kept", Settings(1, 2, 31)).find(targets, device_id(card)) is None
    (tmp_path / "a").write_text("other bytes")
    assert sittings.find(targets[:1], device_id(card)) is None


def test_a_file_that_was_cut_off_is_measured_again(tmp_path):
    sittings, card = Sittings(tmp_path / "kept", Settings(1, 2, 30)), device_card()
    targets, found = some(tmp_path, "a")
    sittings.keep(targets, found, card)
    (file,) = (tmp_path / "kept").iterdir()
    file.write_text(file.read_text()[:100])
    assert sittings.find(targets, None) is None


def test_one_file_on_two_runtimes_is_two_measurements(tmp_path):
    sittings, card = Sittings(tmp_path / "kept", Settings(1, 2, 30)), device_card()
    (on_ort,), found = some(tmp_path, "a")
    on_openvino = Target("a", on_ort.path, "openvino")
    sittings.keep([on_ort], found, card)
    assert sittings.find([on_openvino], None) is None
    sittings.keep([on_openvino], {"a": Latency("a", [[9.0]], *[None] * 3, 1, 0.1, 0.2, True, None)}, card)
    assert sittings.find([on_openvino], None)[0]["a"].samples_ms == [[9.0]]
    assert sittings.find([on_ort], None)[0]["a"].samples_ms == [[1.0, 2.0]]


def test_joules_serve_without_and_nothing_without_serves_for_joules(tmp_path):
    card, (targets, found) = device_card(), some(tmp_path, "a")
    plain, frugal = (Sittings(tmp_path / "kept", Settings(1, 2, 30, energy)) for energy in (False, True))
    plain.keep(targets, found, card)
    assert frugal.find(targets, None) is None
    joules = Interval(0.02, 0.01, 0.03)
    frugal.keep(targets, {"a": replace(found["a"], joules=joules)}, card)
    assert frugal.find(targets, None)[0]["a"].joules == joules
    assert plain.find(targets, None) is not None
