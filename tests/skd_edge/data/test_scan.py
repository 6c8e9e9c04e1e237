"""A scan decodes once, continues after an interruption, and lists unreadable clips; a run then leaves them out."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from skd_edge.cli.main import run
from skd_edge.data.scan import scan_clips
from skd_edge.labels.dataset import load_training_data
from skd_edge.recipe.loader import load_recipe


def test_the_command_lists_unreadable_clips_and_a_run_leaves_them_out(recipe, tmp_path, capsys, own_places):
    (tmp_path / "videos/a/3.mp4").write_bytes(b"")
    (tmp_path / "videos/b/=x.mp4").write_text("not a video")
    out = tmp_path / "list.csv"
    assert run(["data", "scan", str(recipe), "--out", str(out), "--processes", "1"]) == 0
    output = capsys.readouterr().out
    assert "23 of 25 clips can be read" in output
    assert "compress leaves them out" in output
    rows = list(csv.DictReader(out.open()))
    assert [r["path"] for r in rows] == ["a/3.mp4", "b/=x.mp4"]
    assert "empty" in rows[0]["reason"]
    loaded = load_recipe(str(recipe), ())
    # The run does not decode again, and leaves out the unreadable clips.
    clips = load_training_data(loaded, own_places, decode_progress=lambda *_: pytest.fail("decoded again")).clips
    assert [q["path"] for q in clips.quarantined] == ["a/3.mp4", "b/=x.mp4"]
    assert len(clips.train) + len(clips.val) + len(clips.test) == 23
    (tmp_path / "videos/a/4.mp4").write_bytes(b"")
    (tmp_path / "videos/a/5.mp4").write_bytes(b"")
    text = scan_clips(loaded, own_places, out, processes=1).to_text()
    assert "compress will refuse to start: min_clips requires 90%" in text


def test_an_interrupted_scan_continues(recipe, own_places, tmp_path):
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
    assert decoded == list(range(11, 25))  # ten were decoded before
    assert len(result.bad) == 1
    resumed = shutil.copytree(own_places, tmp_path / "resumed")
    shutil.rmtree(own_places)
    scan_clips(loaded, own_places, tmp_path / "q.csv", processes=1)
    for file in ("clips.npy", "store.json"):
        [one], [two] = resumed.rglob(file), own_places.rglob(file)
        assert one.read_bytes() == two.read_bytes()


def test_a_killed_scan_leaves_no_process(recipe, own_places, tmp_path):
    """After SIGKILL of the parent its workers end too, and the next scan is complete."""
    words = [sys.executable, "-m", "skd_edge.cli", "data", "scan", str(recipe), "--out", str(tmp_path / "q.csv")]
    process = subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(own_places.rglob("state.part")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert scan_clips(load_recipe(str(recipe), ()), own_places, tmp_path / "q.csv", processes=1).bad == ()
    deadline = time.monotonic() + 60  # the workers end with a delay
    while (running := list_processes(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running


def list_processes(session: int) -> list[str]:
    """Running or waiting processes of a session; zombies, which have ended already, are left out."""
    command = ["pgrep", "-r", "R,S,D", "-s", str(session)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()


def test_names_that_are_not_utf8_are_read_and_listed(recipe, tmp_path, capsys, own_places):
    """Files of an old archive: one is a clip, one is broken; both have one name in the terminal, CSV and JSON."""
    folder = os.fsencode(tmp_path / "videos/a")
    shutil.copy(folder + b"/0.mp4", folder + b"/gar\xe7on.mp4")
    with open(folder + b"/caf\xe9.mp4", "wb") as file:
        file.write(b"x" * 99)
    out = tmp_path / "list.csv"
    assert run(["data", "scan", str(recipe), "--out", str(out), "--processes", "1"]) == 0
    assert "25 of 26 clips can be read" in capsys.readouterr().out
    (row,) = csv.DictReader(out.open(encoding="utf-8"))
    assert row["path"] == "a/caf\\xe9.mp4"
    clips = load_training_data(load_recipe(str(recipe), ()), own_places).clips
    assert [q["path"] for q in clips.quarantined] == ["a/caf\\xe9.mp4"]
    assert "a/gar\\xe7on.mp4" in {*clips.train.names, *clips.val.names, *clips.test.names}
