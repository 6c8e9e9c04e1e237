"""``data scan --verify`` decodes a user's own files both ways and names those that differ."""

from __future__ import annotations

import os
import signal

import pytest

from skd_bench.video.types import WHOLE_FILE, Preprocessing, Sampling
from skd_edge.cli.main import run
from skd_edge.data import verify
from skd_edge.data.verify import VerifyResult, make_clip_verifier, verify_decoding
from skd_edge.recipe.loader import load_recipe

SIZE = Preprocessing(16, 16, "crop", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def test_the_command_counts_equal_clips(recipe, tmp_path, capsys, own_places):
    (tmp_path / "videos/a/3.mp4").write_text("not a video")
    words = ["data", "scan", str(recipe), "--out", str(tmp_path / "q.csv"), "--processes", "1", "--verify"]
    assert run(words) == 0
    output = capsys.readouterr().out
    assert "24 of 24 clips are equal to a decoding of every frame" in output
    assert "23 of 24 clips can be read" in output


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda clip: clip[::-1], "2 of 2 frames differ"),
        (None, "can be read only straight: it is damaged"),
    ],
)
def test_a_clip_that_differs_is_named(film, tmp_path, monkeypatch, wrong, reason):
    path = film(tmp_path / "one.mp4", frames=6, size=16)
    task = make_clip_verifier(Sampling(2), SIZE)
    assert task(0, (str(path), WHOLE_FILE)) is None
    real = verify.decode_clip

    def faulty(*arguments):
        if wrong is None:
            raise verify.ClipError(path, "it is damaged")
        return wrong(real(*arguments))

    monkeypatch.setattr(verify, "decode_clip", faulty)
    assert make_clip_verifier(Sampling(2), SIZE)(0, (str(path), WHOLE_FILE)) == reason


def test_the_exit_code_is_1_if_a_clip_differs(recipe, tmp_path, monkeypatch, capsys, own_places):
    loaded = load_recipe(str(recipe), ())
    assert verify_decoding(loaded, own_places, processes=1).different == ()
    entry = verify.list_recipe_clips(loaded, own_places).entries[0]
    found = VerifyResult(23, tuple([(entry, "1 of 2 frames differ")] * 12))
    monkeypatch.setattr(verify, "verify_decoding", lambda *_, **__: found)
    assert run(["data", "scan", str(recipe), "--out", str(tmp_path / "q.csv"), "--processes", "1", "--verify"]) == 1
    output = capsys.readouterr().out
    assert "23 of 35 clips are equal" in output
    assert f"{entry.name}: 1 of 2 frames differ" in output
    assert "and 2 more" in output
    assert "please report it" in output


def make_crashing_verifier(*arguments):
    compare = make_clip_verifier(*arguments)  # in the worker process nothing is patched

    def compare_or_crash(number, source):
        if number == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        return "1 of 2 frames differ" if number == 2 else compare(number, source)

    return compare_or_crash


def test_a_clip_whose_decoder_crashes_is_not_compared(recipe, own_places, monkeypatch):
    """It is not a difference, so nobody is asked to report one."""
    monkeypatch.setattr(verify, "make_clip_verifier", make_crashing_verifier)
    found = verify_decoding(load_recipe(str(recipe), ()), own_places, processes=1)
    assert (found.equal, len(found.different), len(found.not_compared)) == (22, 1, 1)
    assert "SIGSEGV" in found.not_compared[0][1]
    text = VerifyResult(found.equal, (), found.not_compared).to_text()
    assert "22 of 23 clips are equal" in text
    assert "1 could not be compared" in text
    assert "please report it" not in text


def test_a_large_file_gets_more_time(recipe, own_places, tmp_path, monkeypatch):
    limits = []

    class Pool(verify.WorkerPool):
        def __init__(self, *arguments, task_timeout, **options):
            limits.append(task_timeout)
            super().__init__(*arguments, task_timeout=task_timeout, **options)

    monkeypatch.setattr(verify, "WorkerPool", Pool)
    verify_decoding(load_recipe(str(recipe), ()), own_places, processes=1, timeout=60)
    large = tmp_path / "large.mp4"
    large.touch()
    os.truncate(large, 400 << 20)  # as for the store: a second for every 4 MiB
    assert limits[0]((str(large), WHOLE_FILE)) == (60 + 100) * 11


def test_names_of_clips_cannot_forge_lines(tmp_path):
    entry = verify.ClipEntry(tmp_path / "x", "a\nskd-edge: ok", "a", "train", "g")
    lines = VerifyResult(0, ((entry, "differs"),), ((entry, "crashed"),)).to_text().splitlines()
    assert "skd-edge: ok" not in lines
    assert sum("a\\u000askd-edge: ok" in line for line in lines) == 2
