"""Exit codes and messages: every error is one line on stderr, and a traceback goes into a file."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import click
import pytest

from skd_bench.errors import UsageError, UserError
from skd_edge.cli.exit_codes import EXIT_DONE, EXIT_FAILED, EXIT_PAUSED, EXIT_USAGE, MODULES_BY_EXTRA
from skd_edge.cli.main import run


def test_a_missing_extra_is_one_line_with_the_pip_command(program):
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


def test_values_of_environment_variables_are_not_in_the_report_of_a_crash(capsys, tmp_path, monkeypatch):
    """Neither on stderr nor in the file; the recipe's own command, with a run that fails unexpectedly."""
    data = tmp_path / "private" / "clips"
    monkeypatch.setenv("PLACE", str(data.parent))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: r\ndata: {kind: folder, root: '${PLACE}/clips'}\nteacher: {width: 8}\nstudents: [{name: s, width: 4}]\n"
    )

    def fail(loaded, out, options):
        out.mkdir()
        (out / "journal.jsonl").touch()
        raise ZeroDivisionError(f"in {loaded.data.root}.")

    monkeypatch.setattr("skd_edge.pipeline.compress.compress", fail)
    assert run(["compress", str(recipe), "--out", str(tmp_path / "run")]) == EXIT_FAILED
    (file,) = (tmp_path / "run").glob("crash-*.txt")
    for text in (capsys.readouterr().err, file.read_text()):
        assert "in ${PLACE}/clips." in text
        assert str(data.parent) not in text


def test_a_crash_of_a_run_is_reported_in_its_folder(command, capsys, tmp_path):
    def boom() -> None:
        click.get_current_context().obj["run"] = tmp_path
        raise ZeroDivisionError

    (tmp_path / "journal.jsonl").touch()
    command("boom", boom)
    assert run(["boom"]) == 1
    assert len(list(tmp_path.glob("crash-*.txt"))) == 1
    capsys.readouterr()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=str)
def test_an_interruption_is_a_pause(program, number):
    # A shell that starts the tests in the background makes them, and their children, ignore SIGINT; nohup, SIGHUP.
    code = f"""
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from skd_edge.cli.main import cli
@cli.command('wait')
@__import__('click').argument('word')
def wait(word):
    os.kill(os.getpid(), {int(number)})
    time.sleep(30)
"""
    done = program(code, "wait", "two words")
    assert done.returncode == 75
    assert "paused; to continue, run the same command: skd-edge wait 'two words'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_under_nohup_ignores_the_end_of_the_terminal(program):
    code = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from skd_edge.cli.main import cli
@cli.command('wait')
def wait():
    os.kill(os.getpid(), signal.SIGHUP)
"""
    assert program(code, "wait").returncode == 0


def test_a_file_that_ends_early_is_no_pause(command, capsys, tmp_path, monkeypatch):
    """Click takes EOFError for Ctrl-D: the same command, repeated for ever, would never succeed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail() -> None:
        raise EOFError("No data left in file")

    command("fail", fail)
    assert run(["fail"]) == EXIT_FAILED
    assert "unexpected EOFError: No data left in file" in capsys.readouterr().err


def test_a_command_stops_when_its_terminal_is_closed():
    """A real terminal: its end is a SIGHUP, and from then on nothing can be printed."""
    code = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
from rich.console import Console
from skd_edge.cli.main import cli, run
from skd_edge.pipeline.console import RunConsole
@cli.command('wait')
def wait():
    with RunConsole(Console(stderr=True)).progress_bar('waiting') as bar:
        bar.update(1, 2)
        time.sleep(30)
code = run(['wait'])
open(sys.argv[1], 'w').write(str(code))
"""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "code")
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(sys.executable, [sys.executable, "-c", code, str(result)])
        with suppress(OSError):
            while b"waiting" not in os.read(terminal, 1000):
                pass
        os.close(terminal)
        os.waitpid(pid, 0)
        assert result.read_text() == "75"


def test_a_closed_pipe_is_not_a_crash(tmp_path):
    script = "from skd_edge.cli.main import main; main()"
    words = [sys.executable, "-c", script, "schema"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


def test_a_full_disk_is_a_pause(tmp_path):
    """Exit code 75 and one line, also where a library writes: here numpy, to /dev/full, which is always full."""
    code = (
        "import sys, numpy as np, skd_edge.cli.main as c\n"
        "def full(*a, **k):\n"
        "    with open('/dev/full', 'wb') as f: np.save(f, np.zeros(100000))\n"
        "c.cli.commands['schema'].callback = full\n"
        "sys.exit(c.run(['schema']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 75, done.stderr
    assert "paused: No space left on device" in done.stderr
    assert "Free disk space, then run: skd-edge schema" in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("no such clip"), EXIT_FAILED),
        (UsageError("no such clip"), EXIT_USAGE),
        (UserError("no such clip", exit_code=EXIT_PAUSED), EXIT_PAUSED),
    ],
)
def test_an_error_with_a_message_is_one_line(command, capsys, error, code):
    def fail() -> None:
        raise error

    command("fail", fail)
    assert run(["fail"]) == code
    assert capsys.readouterr().err == "skd-edge: error: no such clip\n"


def test_a_deleted_working_directory_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in (["compress", "recipe.yaml"], ["predict", "bundle", "a.mp4"], ["doctor"], ["verify", "x"]):
        assert run(words) == EXIT_FAILED
        assert "it was deleted; cd to another" in capsys.readouterr().err


def test_sigterm_is_handled_as_before_after_a_command(command):
    before = signal.getsignal(signal.SIGTERM)
    inside = []
    command("look", lambda: inside.append(signal.getsignal(signal.SIGTERM)))
    assert run(["look"]) == EXIT_DONE
    assert inside[0] is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_missing_module_of_no_extra_is_a_crash(command, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail() -> None:
        raise ModuleNotFoundError("No module named 'surely_absent'", name="surely_absent")

    command("fail", fail)
    assert run(["fail"]) == EXIT_FAILED
    assert "unexpected ModuleNotFoundError" in capsys.readouterr().err
    assert len(list(tmp_path.glob("crash-*.txt"))) == 1


def test_every_extra_with_modules_is_an_extra_of_the_package(root):
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert set(MODULES_BY_EXTRA) <= set(project["optional-dependencies"])
