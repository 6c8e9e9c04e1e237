"""The command line as a user meets it: words in, text and an exit code out; no traceback, no torch for --help."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from skd_edge.cli.main import cli, run

RECIPE = "name: small\ndata: {kind: generated}\nstudents: [{name: s}]\n"


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    return "r.yaml"


@pytest.fixture
def command():
    """Adds a command of the test's own to the program for as long as the test lasts."""
    added: list[str] = []

    def _add(name: str, function: object) -> None:
        cli.add_command(click.command(name)(function))
        added.append(name)

    yield _add
    for name in added:
        del cli.commands[name]


def program(code: str, *args: str, **options: object) -> subprocess.CompletedProcess[str]:
    """The program in a fresh interpreter, after some code of the test's."""
    script = f"import sys\n{code}\nfrom skd_edge.cli.main import main\nmain()"
    words = [sys.executable, "-c", script, *args]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, **options)


def commands(group: click.Group, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = [(c, (*prefix, name)) for name, c in group.commands.items()]
    return [prefix, *(w for c, words in inner for w in (commands(c, words) if isinstance(c, click.Group) else [words]))]


@pytest.mark.parametrize("words", commands(cli), ids=" ".join)
def test_every_help_reads(words, capsys):
    assert run([*words, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: {' '.join(['skd-edge', *words])}")


def test_help_imports_nothing_heavy():
    heavy = ["torch", "onnx", "onnxruntime", "pydantic", "numpy", "rich", "av", "yaml", "plotly"]
    code = f"import atexit\natexit.register(lambda: print([m for m in {heavy} if m in sys.modules], file=sys.stderr))"
    done = program(code, "--help")
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"
    assert "Exit codes" in done.stdout


def test_validate(recipe, capsys):
    assert run(["validate", recipe, "--set", "seed=4"]) == 0
    assert "ok (small" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["validate", "plan", "compress"])
def test_a_wrong_recipe_is_exit_code_2(recipe, capsys, name):
    assert run([name, recipe, "--set", "sede=4"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("skd-edge: error: --set sede=4: sede: no such setting; did you mean 'seed'")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["compress"],
        ["compress", "r.yaml", "--sett", "a=1"],
        ["validate", "absent.yaml"],
        ["bench", "absent"],
        ["bench", ".", "--queries", "x"],
        ["verify", "absent"],
        ["predict", "."],
        ["report", "absent"],
        ["data", "generate"],
        ["data", "generate", "--out", "d", "--train", "1"],
        ["init", "absent"],
    ],
    ids=" ".join,
)
def test_wrong_command_lines_are_exit_code_2(recipe, capsys, words):
    assert run(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("skd-edge: error: ")
    assert captured.out == ""


def test_schema(capsys):
    assert run(["schema"]) == 0
    assert "extends" in json.loads(capsys.readouterr().out)["properties"]


def test_doctor_json(capsys):
    assert run(["doctor", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["can"]) == {"train", "export", "run"}


def test_version(capsys):
    done = program("", "--version")
    assert done.returncode in (0, 1)  # 1 where the package is only on PYTHONPATH and has no metadata
    assert "Traceback" not in done.stderr


def test_validate_and_schema_work_without_torch(recipe, tmp_path):
    gone = ("torch", "onnx", "onnxruntime", "openvino", "ai_edge_litert", "sklearn", "plotly", "jinja2")
    code = f"for m in {gone}: sys.modules[m] = None"
    assert program(code, "validate", recipe, cwd=tmp_path).stderr == ""
    assert program(code, "schema").returncode == 0
    done = program(code, "doctor", "--json")
    assert json.loads(done.stdout)["can"] == {"train": False, "export": False, "run": False}


def test_a_missing_extra_is_one_line_with_the_pip_line():
    code = """
sys.modules['torch'] = None
from skd_edge.cli.main import cli
@cli.command('needs-torch')
def needs_torch():
    import torch.nn
"""
    done = program(code, "needs-torch")
    assert done.returncode == 1
    assert done.stderr == "skd-edge: error: this command needs torch: pip install 'skd-edge[train]'\n"


def test_an_unexpected_exception_leaves_its_traceback_in_a_file(command, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def boom() -> None:
        raise ZeroDivisionError("what\nnobody expected")

    command("boom", boom)
    assert run(["boom"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "unexpected ZeroDivisionError: what nobody expected" in err
    (file,) = tmp_path.glob("crash-*.txt")
    assert str(file) in err
    assert "Traceback" in file.read_text()
    assert re.search(r"^numpy \d", file.read_text(), flags=re.M)  # the versions that it met


def test_a_crash_of_a_run_is_told_in_its_folder(command, capsys, tmp_path):
    def boom() -> None:
        click.get_current_context().obj["run"] = tmp_path
        raise ZeroDivisionError

    (tmp_path / "journal.jsonl").touch()
    command("boom", boom)
    assert run(["boom"]) == 1
    assert len(list(tmp_path.glob("crash-*.txt"))) == 1
    capsys.readouterr()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_interrupted_is_paused(number):
    # Who starts the tests in the background of a shell makes them deaf to SIGINT, and their children too.
    code = f"""
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from skd_edge.cli.main import cli
@cli.command('wait')
@__import__('click').argument('word')
def wait(word):
    os.kill(os.getpid(), {int(number)})
    time.sleep(30)
"""
    done = program(code, "wait", "two words")
    assert done.returncode == 75
    assert "paused; the same command goes on: skd-edge wait 'two words'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_crash(tmp_path):
    script = "from skd_edge.cli.main import main; main()"
    words = [sys.executable, "-c", script, "schema"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


def test_shell_completion():
    environment = {"_SKD_EDGE_COMPLETE": "bash_complete", "COMP_WORDS": "skd-edge comp", "COMP_CWORD": "1"}
    done = program(f"import os\nos.environ.update({environment})")
    assert done.stdout == "plain,compress\n"


def test_init_then_validate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["init", "nowhere"]) == 2
    (tmp_path / "v").mkdir()
    assert run(["init", "v"]) == 2
    assert "no videos" in capsys.readouterr().err


def test_verify_of_a_folder_that_is_no_bundle(tmp_path, capsys):
    assert run(["verify", str(tmp_path)]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_no_command_is_longer_than_15_lines():
    import ast

    import skd_edge.cli.main

    tree = ast.parse(Path(skd_edge.cli.main.__file__).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and any("command" in ast.unparse(d) for d in node.decorator_list):
            body = node.body[1:]  # without its docstring
            assert (body[-1].end_lineno or 0) - body[0].lineno < 15, node.name
