"""Shell scripts on another machine through the system's ssh, with the user's config, keys and jump hosts."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from skd_bench.errors import UsageError, UserError
from skd_bench.remote.device_lock import EXIT_BUSY

# BatchMode: without it, ssh would wait for ever for a password that cannot be typed. Other options are the user's.
_OPTIONS = {
    "BatchMode": "yes",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "RemoteCommand": "none",
    "ConnectTimeout": "20",
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",
}
_SSH_FAILURE_CODE = 255  # ssh's exit code when the connection, not the program, failed
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_IP6 = rf"[0-9A-Fa-f:.]+:[0-9A-Fa-f:.]*(?:%{_NAME})?"
_HOST = re.compile(rf"(?:[A-Za-z0-9_][A-Za-z0-9_.+@-]*@)?(?:{_NAME}|{_IP6})")
_HINTS = (
    ("could not resolve", "check the name, or give it a Host entry in ~/.ssh/config"),
    ("host key verification failed", "connect once by hand (ssh {host}) to check and accept the device's key"),
    ("identification has changed", "if the device was reinstalled: ssh-keygen -R {host}, then ssh {host} by hand"),
    ("permission denied", "the device accepts none of your keys: run ssh-copy-id {host}, or load a key with ssh-add"),
    ("refused", "check that it is on and that sshd runs there; set another port in ~/.ssh/config"),
    ("timed out", "check that it is on and can be reached from here; set a jump host in ~/.ssh/config"),
)

_MAX_LINE_BYTES = 1 << 28  # as a file of measurements
_MAX_ERROR_BYTES = 1 << 20
_ERROR_WAIT_S = 2.0
_MAX_OUTPUT_BYTES = 2 * _MAX_LINE_BYTES


class LinkLost(Exception):
    """The connection could not be made, or was lost; the message is ssh's."""


def check_host(host: str) -> str:
    """Check that a text is only a host, such as ``name``, ``user@name`` or ``user@fe80::1``, and return it.

    Raises:
        UsageError: It contains other characters, or could be read as an option or a command.
    """
    if not _HOST.fullmatch(host) or host.count(":") == 1:
        raise UsageError(
            f"the host is {host!r}; it must be a name or an address, optionally with user@ before it: only letters, "
            "digits, '.', '_' and '-', and no '-' at the start; set ports and other options in ~/.ssh/config"
        )
    return host


class SshLink:
    """Runs shell scripts on another machine.

    Args:
        host: A host that `check_host` accepts.

    Raises:
        UsageError: See `check_host`.
    """

    def __init__(self, host: str) -> None:
        self.host = check_host(host)

    def run(self, script: str, *arguments: str, data: bytes = b"") -> str:
        """Run a POSIX shell script there.

        Args:
            script: The script's text.
            arguments: Its $1, $2, ... They are quoted, so that each stays one argument.
            data: Its standard input.

        Returns:
            Its standard output.

        Raises:
            LinkLost: The connection failed.
            UserError: The script failed; the message contains the last line of its standard error.
        """
        lines: list[str] = []
        self.stream_output(lines.append, script, *arguments, data=data)
        return "".join(lines)

    def stream_output(
        self, on_line: Callable[[str], object], script: str, *arguments: str, data: bytes | None = None
    ) -> None:
        """Run a POSIX shell script there, and pass on each line of its output when it arrives.

        Args:
            on_line: Called with every line.
            script: See `run`.
            arguments: See `run`.
            data: Its standard input; None: an empty one that stays open until the script or this process ends.

        Raises:
            LinkLost: See `run`.
            UserError: See `run`.
        """
        with tempfile.TemporaryFile() as content:
            content.write(data or b"")
            content.seek(0)
            errors = _ErrorTail()
            with self._start_ssh((script, *arguments), subprocess.PIPE if data is None else content, errors) as process:
                try:
                    errors.follow(process)
                    for line in _iter_bounded_lines(process.stdout, self.host):
                        on_line(line)
                except BaseException:
                    process.kill()
                    raise
                code = process.wait()
            text, flooded = errors.read()
            if flooded:
                raise _flood_error(self.host)
            self._check_exit_code(code, text)

    def explain_failure(self, lost: LinkLost) -> str:
        """The error message for a machine that cannot be reached, with what to try."""
        hint = next(
            (h for sign, h in _HINTS if sign in str(lost).lower()),
            "check that `ssh {host} true` works without a question",
        )
        return f"cannot reach {self.host}: {lost}; {hint.format(host=self.host)}"

    def _start_ssh(
        self, command_line: Sequence[str], data: IO[bytes] | int, errors: _ErrorTail
    ) -> subprocess.Popen[bytes]:
        script, *rest = command_line
        options = [word for key, value in _OPTIONS.items() for word in ("-o", f"{key}={value}")]
        command = ["ssh", "-T", *options, "--", self.host, shlex.join(["sh", "-c", script, "sh", *rest])]
        try:
            return subprocess.Popen(command, stdin=data, stdout=subprocess.PIPE, stderr=errors.input)
        except FileNotFoundError:
            raise UserError(
                "ssh is not installed on this machine; install it with: apt install openssh-client"
            ) from None
        finally:
            os.close(errors.input)  # ssh has its own copy

    def _check_exit_code(self, code: int, text: str) -> None:
        """Raise the error of the program there, or of ssh itself, from the end of its standard error."""
        if code == 0:
            return
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        message = "".join(filter(str.isprintable, (lines or ["no error message"])[-1])).removeprefix("error: ")
        if code == _SSH_FAILURE_CODE:
            raise LinkLost(message)
        if "no space left" in message.lower():
            message = f"its disk is full ({message}): free some space, or set TMPDIR there to a folder with free space"
        if code in (128 + 9, 128 + 15):
            message = f"the run there was killed (out of memory?); its last output: {message}"
        raise UserError(f"{self.host}: {message}", exit_code=code if code == EXIT_BUSY else 1)


class _ErrorTail:
    """Reads the standard error of an ssh, and keeps its end only: a machine cannot fill memory or disk here.

    The pipe is read in a thread. Where the user's config lets ssh leave a shared connection behind (ControlPersist),
    that process holds the pipe open after ssh has ended, so `read` does not wait for the end of the pipe for long.

    Attributes:
        input: The file descriptor that ssh writes to.
    """

    def __init__(self) -> None:
        self._output, self.input = os.pipe()
        self._tail, self._total = b"", 0
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def follow(self, process: subprocess.Popen[bytes]) -> None:
        """End this process if it writes too much."""
        self._process = process

    def read(self) -> tuple[str, bool]:
        """The last bytes as text, and whether the process was ended because there were too many."""
        self._thread.join(_ERROR_WAIT_S)
        return self._tail.decode(errors="replace"), self._total > _MAX_OUTPUT_BYTES

    def _collect(self) -> None:
        with open(self._output, "rb", buffering=0) as output:
            while chunk := output.read(1 << 16):
                self._tail = (self._tail + chunk)[-_MAX_ERROR_BYTES:]
                self._total += len(chunk)
                if self._total > _MAX_OUTPUT_BYTES and self._process is not None:
                    self._process.kill()
                    return


def _flood_error(host: str) -> UserError:
    limit = f"{_MAX_LINE_BYTES >> 20} MiB"
    return UserError(f"{host} sent more than {limit}, which no benchmark does; check its shell")


def _iter_bounded_lines(output: IO[bytes] | None, host: str) -> Iterator[str]:
    """The lines that a machine sends; the memory that they take is bounded."""
    total = 0
    while line := output.readline(_MAX_LINE_BYTES + 1) if output else b"":
        total += len(line)
        if len(line) > _MAX_LINE_BYTES or total > _MAX_OUTPUT_BYTES:
            raise _flood_error(host)
        yield line.decode(errors="replace")
