"""Hosts that are accepted, and arguments on their way to a shell of another machine."""

import subprocess

import pytest

from skd_bench.benchmark.request import BenchmarkRequest
from skd_bench.errors import UsageError
from skd_bench.remote import runner as remote
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
