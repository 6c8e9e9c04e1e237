"""A scan decodes once, continues after an interruption, and lists unreadable clips; a run then leaves them out."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from skd_bench.errors import UserError
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
    assert re.search("compress will refuse to start: 4 of 25 .* min_clips requires 90%", text)
    assert run(["data", "scan", str(recipe), "--out", str(out)]) == 1


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
    assert decoded == [*range(11, 25), 24]  # ten were decoded before; the last call is about the comparison
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


def test_copies_across_splits_are_refused_and_listed(film, tmp_path, capsys, own_places):
    """A test clip that is a training clip under another name: exit code 1, a list, and a key that allows it."""
    rows = ["path,label,split"]
    for label, motion in (("a", "move_left"), ("b", "grow")):
        for i, split in enumerate(["train", "train", "val", "test"]):
            film(tmp_path / f"{label}{i}.mp4", motion, seed=i, size=32)
            rows.append(f"{label}{i}.mp4,{label},{split}")
    shutil.copy(tmp_path / "a0.mp4", tmp_path / "copy.mp4")
    rows.append("copy.mp4,a,test")
    (tmp_path / "index.csv").write_text("\n".join(rows))
    split_rules = "train: {split: [train]}, val: {split: [val]}, test: {split: [test]}"
    recipe = tmp_path / "recipe.yaml"
    rest = "clip: {frames: 4, size: 32}\nstudents: [{name: s}]\n"
    recipe.write_text(f"name: r\ndata: {{kind: csv, root: ., {split_rules}}}\n{rest}")
    out = tmp_path / "list.csv"
    assert run(["data", "scan", str(recipe), "--out", str(out)]) == 1
    output = capsys.readouterr().out
    assert "1 test clips have the same pixels as train clips (first: copy.mp4 and a0.mp4)" in output
    assert "compress will refuse to start: 1 test clips are copies" in output
    (row,) = csv.DictReader((tmp_path / "list.copies.csv").open())
    assert row == {
        "path": "copy.mp4",
        "split": "test",
        "original": "a0.mp4",
        "original_split": "train",
        "kind": "equal",
    }
    with pytest.raises(UserError, match="set allow_test_copies: true"):
        load_training_data(load_recipe(str(recipe), ()), own_places)
    assert run(["data", "scan", str(recipe), "--out", str(out), "--set", "allow_test_copies=true"]) == 0
    assert "1 test clips have the same pixels" in capsys.readouterr().out
    allowed = load_training_data(load_recipe(str(recipe), ("allow_test_copies=true",)), own_places)
    assert [c.clip for c in allowed.clips.copies] == ["copy.mp4"]
