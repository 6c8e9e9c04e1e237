"""Groups by a regular expression, within a time limit."""

import gc
import multiprocessing
import subprocess

import pytest

from skd_bench.errors import UsageError
from skd_edge.cli.main import run
from skd_edge.data.sources import group_pattern
from skd_edge.data.sources.group_pattern import make_group_finder


def test_group_patterns():
    assert make_group_finder(None)("a/b.mp4") == "a/b.mp4"
    assert make_group_finder(r"_g(\d+)_")("x/v_x_g08_c01.avi") == "08"
    assert make_group_finder(r"g\d+")("x/v_g08.avi") == "g08"
    assert make_group_finder("zzz")("a.mp4") == "a.mp4"
    assert make_group_finder("x|(y)")("x.mp4") == "x.mp4"


def test_names_of_any_characters_have_a_group():
    find = make_group_finder(r"^(.)")
    assert [find(name) for name in ("ä", "\n1", "\udcff.mp4", '"', "日本")] == ["ä", "\n1", "\udcff", '"', "日"]


def test_a_pattern_that_goes_back_for_ever_ends_with_a_message(monkeypatch):
    monkeypatch.setattr(group_pattern, "LIMIT_S", 0.3)
    find = make_group_finder("(a+)+b")
    with pytest.raises(UsageError, match=r"data\.group: '\(a\+\)\+b' takes more than 0\.3 s on the name 'aaa"):
        find("a" * 40 + ".mp4")


def test_the_process_ends_with_its_function():
    started = []
    original = subprocess.Popen

    class Counted(original):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(subprocess, "Popen", Counted)
        find = make_group_finder("a")
        find("b")
        del find
        gc.collect()
    assert [process.returncode is not None for process in started] == [True]
    assert not multiprocessing.active_children()


def test_a_recipe_with_such_a_pattern_is_a_usage_error(tmp_path, film, capsys, monkeypatch):
    monkeypatch.setattr(group_pattern, "LIMIT_S", 0.3)
    for label in ("a", "b"):
        (tmp_path / "videos" / label).mkdir(parents=True)
        film(tmp_path / "videos" / label / f"{'a' * 40}.mp4")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: x\ndata: {{kind: folder, root: {tmp_path / 'videos'}, group: (a+)+b}}\n"
        "clip: {frames: 4, size: 16}\nstudents: [{name: small, width: 4}]\n"
    )
    assert run(["data", "scan", str(recipe), "--out", str(tmp_path / "bad.csv")]) == 2
    assert "takes more than 0.3 s on the name" in capsys.readouterr().err
