"""``data scan --verify`` decodes a user's own files both ways and names those that differ."""

from __future__ import annotations

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
    entry = verify.list_clips(loaded.data, seed=0, cache=own_places, external_labels=False).entries[0]
    found = VerifyResult(23, tuple([(entry, "1 of 2 frames differ")] * 12))
    monkeypatch.setattr(verify, "verify_decoding", lambda *_, **__: found)
    assert run(["data", "scan", str(recipe), "--out", str(tmp_path / "q.csv"), "--processes", "1", "--verify"]) == 1
    output = capsys.readouterr().out
    assert "23 of 35 clips are equal" in output
    assert f"{entry.name}: 1 of 2 frames differ" in output
    assert "and 2 more" in output
    assert "please report it" in output
