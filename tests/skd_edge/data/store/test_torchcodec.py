"""torchcodec yields the same frames as PyAV; files that it cannot decode go to PyAV.

The tests run torchcodec in a separate process with the FFmpeg libraries of PyAV's wheel, which have other names there.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from skd_bench.errors import UserError
from skd_edge.data.store import torchcodec
from skd_edge.recipe.sections import ClipSettings

HERE = Path(__file__).parent
BY_PYAV = {"no timestamps", "in a tar", "a span"}


@pytest.fixture(scope="module")
def ffmpeg(tmp_path_factory) -> str:
    """Folders for the loader: PyAV's libraries under their usual names (libavcodec.so.62), and their dependencies."""
    if importlib.util.find_spec("torchcodec") is None:
        pytest.skip("torchcodec is not installed")
    import av

    theirs = Path(av.__file__).parent.with_name("av.libs")
    if not theirs.is_dir():
        pytest.skip("this PyAV brings no FFmpeg of its own")
    if not list(theirs.glob("libavutil-*.so.60.*")):  # that of FFmpeg 8, the newest that torchcodec 0.12 loads
        pytest.skip("this PyAV's FFmpeg is newer than torchcodec takes")
    names = tmp_path_factory.mktemp("ffmpeg")
    for library in theirs.iterdir():
        if found := re.fullmatch(r"(lib(?:av|sw)\w+)-\w+\.so\.(\d+)\..*", library.name):
            (names / f"{found[1]}.so.{found[2]}").symlink_to(library)
    return f"{names}:{theirs}"


def test_frames_equal_those_of_pyav(ffmpeg, tmp_path):
    cases = subprocess.run(
        [sys.executable, str(HERE / "torchcodec_cases.py"), str(tmp_path)],
        text=True,
        env=os.environ | {"LD_LIBRARY_PATH": ffmpeg},
        capture_output=True,
        check=False,
    )
    assert cases.returncode == 0, cases.stderr
    rows = [line.split("\t") for line in cases.stdout.splitlines()]
    assert len(rows) == 17
    for name, who, _, mean in rows:
        assert who == ("PyAV" if name in BY_PYAV else "torchcodec"), name
        assert float(mean) < 3, name  # neighbouring frames differ by 8; the colour planes are scaled twice


def test_a_missing_ffmpeg_is_reported_in_one_line(ffmpeg, tmp_path):
    for version in range(56, 61):
        (tmp_path / f"libavutil.so.{version}").touch()  # found first, but not a library
    code = "from skd_edge.data.store.torchcodec import require_torchcodec as r; r()"
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
        text=True,
        capture_output=True,
        check=False,
    )
    last = process.stderr.strip().splitlines()[-1]
    assert "UserError: clip.decoder: torchcodec cannot be loaded" in last
    assert len(last) < 400


def test_a_missing_torchcodec_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(UserError, match=r"skd-edge\[torchcodec\]"):
        torchcodec.require_torchcodec()


def test_the_default_decoder_does_not_change_the_recipes_hash():
    assert "decoder" not in ClipSettings().model_dump()
    assert ClipSettings(decoder="torchcodec").model_dump()["decoder"] == "torchcodec"
