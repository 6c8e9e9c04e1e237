"""The command line as a whole: help, wrong command lines, completion; nothing heavy is imported for --help."""

from __future__ import annotations

import ast
from pathlib import Path

import click
import pytest

from skd_edge.cli import data_commands, device_commands, export_commands, run_commands
from skd_edge.cli.main import cli, run


def commands(group: click.Group, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = [(c, (*prefix, name)) for name, c in group.commands.items()]
    return [prefix, *(w for c, words in inner for w in (commands(c, words) if isinstance(c, click.Group) else [words]))]


@pytest.mark.parametrize("words", commands(cli), ids=" ".join)
def test_every_help_reads(words, capsys):
    assert run([*words, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: {' '.join(['skd-edge', *words])}")


def test_help_imports_nothing_heavy(program):
    heavy = ["torch", "onnx", "onnxruntime", "pydantic", "numpy", "rich", "av", "yaml", "plotly"]
    code = f"import atexit\natexit.register(lambda: print([m for m in {heavy} if m in sys.modules], file=sys.stderr))"
    done = program(code, "--help")
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"
    assert "Exit codes" in done.stdout


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


def test_version(program):
    done = program("", "--version")
    assert done.returncode in (0, 1)  # 1 where the package is only on PYTHONPATH and has no metadata
    assert "Traceback" not in done.stderr


def test_shell_completion(program):
    environment = {"_SKD_EDGE_COMPLETE": "bash_complete", "COMP_WORDS": "skd-edge comp", "COMP_CWORD": "1"}
    done = program(f"import os\nos.environ.update({environment})")
    assert done.stdout == "plain,compress\n"


@pytest.mark.parametrize("module", [data_commands, device_commands, export_commands, run_commands])
def test_no_command_is_longer_than_15_lines(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    commands = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any("command" in ast.unparse(d) for d in node.decorator_list)
    ]
    assert commands
    for node in commands:
        body = [statement for statement in node.body[1:] if not isinstance(statement, ast.ImportFrom)]
        assert sum((statement.end_lineno or 0) - statement.lineno + 1 for statement in body) <= 15, node.name
