"""A scan decodes once, goes on where it stopped, and lists what cannot be read; a run then leaves it out."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from skd_edge.cli.main import run
from skd_edge.data.scan import scan_clips
from skd_edge.data.sources.listing import ClipEntry
from skd_edge.data.store import builder as building
from skd_edge.labels.dataset import load_training_data
from skd_edge.recipe.loader import load_recipe




def test_the_command(recipe, tmp_path, capsys, own_places):
    (tmp_path / "videos/a/3.mp4").write_bytes(b"")
    (tmp_path / "videos/b/=x.mp4").write_text("no video")
    out = tmp_path / "list.csv"
    assert run(["data", "scan", str(recipe), "--out", str(out), "--processes", "1"]) == 0
    said = capsys.readouterr().out
    assert "23 of 25 clips can be read" in said
    assert "compress leaves them out" in said
    rows = list(csv.DictReader(out.open()))
    assert [r["path"] for r in rows] == ["a/3.mp4", "b/=x.mp4"]
    assert "empty" in rows[0]["reason"]
    loaded = load_recipe(str(recipe), ())
    # The run decodes nothing again, and leaves out what the scan could not read.
    clips = load_training_data(loaded, own_places, decode_progress=lambda *_: pytest.fail("decoded again")).clips
    assert [q["path"] for q in clips.quarantined] == ["a/3.mp4", "b/=x.mp4"]
    assert len(clips.train) + len(clips.val) + len(clips.test) == 23
    (tmp_path / "videos/a/4.mp4").write_bytes(b"")
    (tmp_path / "videos/a/5.mp4").write_bytes(b"")
    text = scan_clips(loaded, own_places, out, processes=1).to_text()
    assert "compress will refuse to start: min_clips asks for 90%" in text


def test_killed_and_started_again_it_goes_on(recipe, own_places, tmp_path, monkeypatch):
    (tmp_path / "videos/a/0.mp4").write_bytes(b"")
    loaded = load_recipe(str(recipe), ())

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 10:
            raise Stop

    with pytest.raises(Stop):
        scan_clips(loaded, own_places, tmp_path / "q.csv", processes=1, progress=lambda _: stop)
    decoded: list[int] = []
    result = scan_clips(
        loaded, own_places, tmp_path / "q.csv", processes=1, progress=lambda _: lambda done, total: decoded.append(done)
    )
    assert decoded == list(range(11, 25))  # ten were kept
    assert len(result.bad) == 1
    whole = shutil.copytree(own_places, tmp_path / "kept")
    shutil.rmtree(own_places)
    scan_clips(loaded, own_places, tmp_path / "q.csv", processes=1)
    for file in ("clips.npy", "store.json"):
        [one], [two] = whole.rglob(file), own_places.rglob(file)
        assert one.read_bytes() == two.read_bytes()






def test_a_killed_scan_leaves_no_process(recipe, own_places, tmp_path):
    """SIGKILL of the parent: its workers end too, and the next scan is whole."""
    words = [sys.executable, "-m", "skd_edge.cli", "data", "scan", str(recipe), "--out", str(tmp_path / "q.csv")]
    process = subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(own_places.rglob("state.part")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert scan_clips(load_recipe(str(recipe), ()), own_places, tmp_path / "q.csv", processes=1).bad == ()
    deadline = time.monotonic() + 60  # a worker notices when it next looks up from its task
    while (left := alive(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def alive(session: int) -> list[str]:
    """Processes of a session that run or wait; one that has ended may stay listed until somebody asks for it."""
    asked = ["pgrep", "-r", "R,S,D", "-s", str(session)]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
