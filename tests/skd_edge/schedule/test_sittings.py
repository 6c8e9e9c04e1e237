"""A sitting serves again as a whole, on the same device, with the same settings, or not at all."""

from __future__ import annotations

from skd_bench.device import device_card, device_id
from skd_bench.latency import Latency, Target
from skd_bench.pack import Settings
from skd_bench.stats import Interval
from skd_edge.schedule.sittings import Sittings


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
