"""One ssh connection after another to one machine, through the system's own ssh: config, keys and jump hosts apply."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import IO

from skd_bench.errors import UsageError, UserError
from skd_bench.remote.device_lock import EXIT_BUSY

# BatchMode: a question that nobody sees would wait for ever. The rest of the user's config is left as it is.
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
_SSH_FAILURE_CODE = 255  # how ssh ends when the link, not the program, failed
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_IP6 = rf"[0-9A-Fa-f:.]+:[0-9A-Fa-f:.]*(?:%{_NAME})?"
_HOST = re.compile(rf"(?:[A-Za-z0-9_][A-Za-z0-9_.+@-]*@)?(?:{_NAME}|{_IP6})")
_HINTS = (
    ("could not resolve", "check the name, or give it a Host entry in ~/.ssh/config"),
    ("host key verification failed", "connect once by hand (ssh {host}) to check and accept the device's key"),
    ("identification has changed", "if the device was set up anew: ssh-keygen -R {host}, then ssh {host} by hand"),
    ("permission denied", "the device takes none of your keys: ssh-copy-id {host}, or load the key with ssh-add"),
    ("refused", "is it on, and does sshd listen there? a port of its own goes into ~/.ssh/config"),
    ("timed out", "is it on, and reachable from here? a jump host goes into ~/.ssh/config"),
)


class LinkLost(Exception):
    """The link could not be made, or failed; the message is ssh's."""


def check_host(host: str) -> str:
    """The host, if it can be nothing but one: ``name``, ``user@name``, ``user@fe80::1``.

    Raises:
        UsageError: It could be read as an option, a command or something else.
    """
    if not _HOST.fullmatch(host) or host.count(":") == 1:
        raise UsageError(
            f"the host is {host!r}; it must be a name or an address, perhaps with user@ before it: letters, digits, "
            "'.', '_' and '-' only, not beginning with '-'; ports and other options go into ~/.ssh/config"
        )
    return host


class SshLink:
    """Runs shell scripts on another machine.

    Args:
        host: As `check_host` lets it through.
    """

    def __init__(self, host: str) -> None:
        self.host = check_host(host)

    def run(self, script: str, *arguments: str, data: bytes = b"") -> str:
        """Run a POSIX shell script there.

        Args:
            script: Its text; the words are its $1, $2, ...
            arguments: Quoted, so that they stay words.
            data: Its input.

        Returns:
            What it printed.

        Raises:
            LinkLost: The link failed.
            UserError: The script did; with the last line it complained of.
        """
        lines: list[str] = []
        self.stream_output(lines.append, script, *arguments, data=data)
        return "".join(lines)

    def stream_output(
        self, on_line: Callable[[str], object], script: str, *arguments: str, data: bytes | None = None
    ) -> None:
        """Run a POSIX shell script there, and hand on each line as it comes: see `say`.

        Args:
            on_line: Called with every line.
            script: Its text; the words are its $1, $2, ...
            arguments: Quoted, so that they stay words.
            data: Its input; None: none, and it stays open until the script has ended or we have.
        """
        with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as content:
            content.write(data or b"")
            content.seek(0)
            with self._start_ssh((script, *arguments), subprocess.PIPE if data is None else content, errors) as process:
                for text in process.stdout or ():
                    on_line(text.decode(errors="replace"))
                code = process.wait()
            self._check_exit_code(code, errors)

    def explain_failure(self, lost: LinkLost) -> str:
        """What to try when the machine cannot be reached."""
        hint = next((h for sign, h in _HINTS if sign in str(lost).lower()), "`ssh {host} true` must work silently")
        return f"cannot reach {self.host}: {lost}; {hint.format(host=self.host)}"

    def _start_ssh(
        self, command_line: Sequence[str], data: IO[bytes] | int, errors: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        script, *rest = command_line
        options = [word for key, value in _OPTIONS.items() for word in ("-o", f"{key}={value}")]
        command = ["ssh", "-T", *options, "--", self.host, shlex.join(["sh", "-c", script, "sh", *rest])]
        try:
            return subprocess.Popen(command, stdin=data, stdout=subprocess.PIPE, stderr=errors)
        except FileNotFoundError:
            raise UserError("there is no ssh on this machine; install it: apt install openssh-client") from None

    def _check_exit_code(self, code: int, errors: IO[bytes]) -> None:
        """Raise what a program there, or ssh itself, complained of."""
        if code == 0:
            return
        errors.seek(0)
        lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
        message = "".join(filter(str.isprintable, (lines or ["it said nothing"])[-1])).removeprefix("error: ")
        if code == _SSH_FAILURE_CODE:
            raise LinkLost(message)
        if "no space left" in message.lower():
            message = f"its disk is full ({message}): free some, or set TMPDIR there to a place that has room"
        if code in (128 + 9, 128 + 15):
            message = f"the run there was killed (out of memory?); it last said: {message}"
        raise UserError(f"{self.host}: {message}", exit_code=code if code == EXIT_BUSY else 1)
