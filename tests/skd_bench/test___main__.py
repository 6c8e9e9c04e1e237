"""The command `python -m skd_bench`."""

import json
import os
import subprocess
import sys

import pytest

import skd_bench
from skd_bench.__main__ import main

HOME = os.path.dirname(os.path.dirname(skd_bench.__file__))


def command(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "skd_bench", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": HOME},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_prints_a_table_or_json(bundle):
    done = command(bundle, "--processes", 1, "--queries", 12)
    assert (done.returncode, done.stderr) == (0, "")
    assert "artefacts/other.onnx" in done.stdout
    done = command(bundle, "--json", "--processes", 1, "--queries", 12, "--threads", 2)
    result = json.loads(done.stdout)
    assert result["threads"] == 2
    assert [a["file"] for a in result["artefacts"]] == ["artefacts/fp32.onnx", "artefacts/other.onnx"]
    assert result["clips"] is None


@pytest.mark.parametrize(
    "arguments", [[], ["x", "--processes", "0"], ["x", "--queries", "many"], ["x", "--batches", "1,a"], ["x", "--what"]]
)
def test_a_wrong_command_line_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_a_folder_that_is_not_a_bundle_is_exit_code_1(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        done = command(path)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
