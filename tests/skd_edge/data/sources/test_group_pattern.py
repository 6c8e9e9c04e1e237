"""Groups by a regular expression, within a time limit."""

import gc
import multiprocessing
import os
import select
import signal
import subprocess
import sys

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


def test_a_pattern_that_is_slow_on_many_names_ends_with_a_message(monkeypatch):
    monkeypatch.setattr(group_pattern, "TOTAL_LIMIT_S", 0.2)
    find = make_group_finder("(a+)+b")
    names = ["a" * 19 + f"{i}.mp4" for i in range(1000)]  # tens of milliseconds each
    with pytest.raises(UsageError, match=r"'\(a\+\)\+b' has taken more than 0\.2 s for the names up to 'aaa"):
        list(map(find, names))
    group_of = make_group_finder("(a+)b")
    assert {group_of(f"aab{i}") for i in range(1000)} == {"aa"}


def test_the_process_ends_by_itself_when_its_parent_is_killed():
    """Inside a match it does not notice that its input has ended; its standard error is that of the parent."""
    program = (
        "import time\n"
        "from skd_edge.data.sources import group_pattern\n"
        "group_pattern.LIMIT_S = 0.5\n"
        "finder = group_pattern.make_group_finder('(a+)+b').__self__\n"
        "finder._send('a' * 60)\n"
        "print(finder._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        matcher = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        ended = bool(select.select([parent.stderr], [], [], 10)[0])
        if not ended:
            os.kill(matcher, signal.SIGKILL)
        assert ended
        assert parent.stderr.read() == b""


def test_the_process_leaves_ctrl_c_to_its_parent():
    find = make_group_finder("a")
    assert find("ba") == "a"
    os.kill(find.__self__._process.pid, signal.SIGINT)
    assert find("bba") == "a"


def test_the_end_of_the_process_is_one_line():
    find = make_group_finder("a")
    assert find("ba") == "a"
    find.__self__._process.kill()
    with pytest.raises(UsageError, match=r"data\.group: 'a' cannot be matched"):
        list(map(find, ["a", "b"]))


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
