"""Hosts that are accepted, and arguments on their way to a shell of another machine."""

import os
import subprocess

import pytest

from skd_bench.benchmark.request import BenchmarkRequest
from skd_bench.errors import UsageError, UserError
from skd_bench.remote import runner as remote
from skd_bench.remote import ssh as ssh_module
from skd_bench.remote.ssh import SshLink, check_host

HOSTILE = [
    "",
    "-oProxyCommand=touch x",
    "--",
    "me@-oProxyCommand=x",
    "@device",
    "me@",
    "a b",
    "a;b",
    "a\nb",
    "a\n",
    "$(id)",
    "`id`",
    "a'b",
    'a"b',
    "a|b",
    "ssh://device",
    "device:22",
    "a/b",
    "%h",
    "ünï",
    "a\\b",
    "~",
]


@pytest.mark.parametrize("host", HOSTILE)
def test_a_text_that_is_not_only_a_host_is_refused(host, monkeypatch, bundle):
    monkeypatch.setattr(subprocess, "Popen", None)  # no process may be started
    with pytest.raises(UsageError, match=r"the host is|give one of them"):
        remote.run_benchmark(BenchmarkRequest(bundle), ssh=remote.SshTarget(host))


@pytest.mark.parametrize("host", ["device", "me@device", "10.0.0.7", "me.x@d-1.example.org", "fe80::1%eth0", "u@::1"])
def test_hosts_that_ssh_accepts_are_accepted(host):
    assert check_host(host) == host


def test_arguments_arrive_unchanged(ssh_device):
    arguments = ["a b", "$(touch x)", "'; exit 3; '", "*", "\\", "-n", "ü", ""]
    assert SshLink("device").run('printf "%s|" "$@"', *arguments) == "|".join([*arguments, ""])


# ------------------------------------------------------------------------------------------ what a machine sends
@pytest.fixture
def answering_ssh(tmp_path, monkeypatch):
    """Puts a program in the place of ssh that answers as this shell script does."""

    def put(script: str) -> None:
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / "ssh").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    return put


@pytest.mark.parametrize("script", ["cat /dev/zero", "while :; do echo x; done", "exec cat /dev/zero >&2"])
def test_a_machine_that_sends_without_end_is_left(answering_ssh, monkeypatch, script):
    monkeypatch.setattr(ssh_module, "_MAX_LINE_BYTES", 1 << 20)
    monkeypatch.setattr(ssh_module, "_MAX_OUTPUT_BYTES", 1 << 21)
    answering_ssh(script)
    with pytest.raises(UserError, match="device sent more than 1 MiB, which no benchmark does"):
        SshLink("device").run("true")


def test_only_the_end_of_a_long_error_is_read(answering_ssh, monkeypatch):
    monkeypatch.setattr(ssh_module, "_MAX_ERROR_BYTES", 100)
    answering_ssh("head -c 100000 /dev/zero >&2; echo >&2; echo 'error: the reason' >&2; exit 3")
    with pytest.raises(UserError, match="device: the reason"):
        SshLink("device").run("true")


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ("NaN", "not valid JSON: NaN is not a JSON number"),
        ("[" * 500 + "]" * 500, "not valid JSON: it is nested"),
        ("[]", "does not contain the measurements of a pack"),
        ('{"schema": 9}', "has schema 9"),
        ('{"schema": 1, "pack": "", "device": [], "threads": 1}', "does not contain the measurements of a pack"),
    ],
)
def test_a_result_of_another_form_is_refused_and_not_asked_for_again(answering_ssh, bundle, result, words):
    answering_ssh(
        'case "$*" in *--tether*) echo "skd-bench result $RESULT";; *mktemp*) echo "skd-bench python python3";'
        'hash=$(echo "$*" | grep -o "sh [0-9a-f]\\{12\\}" | cut -c4-15);'
        'echo "skd-bench folder /tmp/skd-bench-$hash.abc";;'
        "*) cat > /dev/null;; esac"
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RESULT", result)
        with pytest.raises(UserError, match=words):
            remote.run_benchmark(BenchmarkRequest(bundle), ssh=remote.SshTarget("device"))


def test_a_shell_that_names_no_python_is_refused(answering_ssh, bundle):
    answering_ssh(
        'echo "skd-bench folder /tmp/skd-bench-$(echo "$*" | grep -o "sh [0-9a-f]\\{12\\}" | cut -c4-15).abc"'
    )
    with pytest.raises(UserError, match="device did not report a temporary folder; its shell must be a POSIX shell"):
        remote.run_benchmark(BenchmarkRequest(bundle), ssh=remote.SshTarget("device"))


@pytest.mark.parametrize("bench", [{}, {"artefacts": 3}, {"artefacts": [], "device": {}, "name": None}, []])
def test_a_benchmark_of_another_form_is_refused(bench):
    with pytest.raises(UserError, match="the result from device is not that of a benchmark"):
        remote.check_benchmark(bench, "device")
