"""Commands on a finished run end cleanly at a signal; bench/suites/robustness/signals.py sends twenty to each."""

from __future__ import annotations

import shutil
import signal

import pytest

from bench.suites.robustness.signals import Workplace


@pytest.mark.parametrize(
    ("command", "number", "moment"),
    [("choose", signal.SIGHUP, 2.0), ("plan", signal.SIGTERM, 1.5)],
)
def test_a_signal_is_a_clean_end(finished, tmp_path, command, number, moment):
    place = Workplace(tmp_path, finished.recipe, shutil.copytree(finished.folder, tmp_path / "run"), finished.cache)
    ended = place.interrupt(command, number, moment, finished.cache)
    assert ended.problem == ""
    assert place.finish(place.list_commands()[command], finished.cache) > 0
