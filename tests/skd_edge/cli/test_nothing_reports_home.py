"""Nothing that runs here reports home: no file is left in the user's home, and no address is connected to."""

import os
import re
import shutil
import subprocess
import sys

import pytest


def run(words, variables):
    done = subprocess.run(
        words, env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_compress_leaves_and_reports_nothing(finished):
    """Export, quantisation and measuring processes run ONNX Runtime, each in its own process."""
    assert finished.watch.list_files() == []
    assert finished.watch.list_connections() == []


def test_predict_and_verify_leave_and_report_nothing(finished, process_watch, tmp_path):
    watch, bundle = process_watch(tmp_path / "watch"), finished.folder / "bundle"
    sample = next((bundle / "samples").iterdir())
    for words in (["predict", str(bundle), str(sample)], ["verify", str(bundle)]):
        assert run([sys.executable, "-m", "skd_edge.cli", *words], watch.variables)
    assert watch.list_files() == []
    assert watch.list_connections() == []


def test_a_pack_leaves_and_reports_nothing(finished, process_watch, tmp_path):
    watch, pack = process_watch(tmp_path / "watch"), tmp_path / "pack.pyz"
    bench = ["bench", str(finished.folder / "bundle"), "--processes", "1", "--queries", "20", "--pack", str(pack)]
    run([sys.executable, "-m", "skd_edge.cli", *bench], {})
    run([sys.executable, str(pack), "--json", str(tmp_path / "out.json")], watch.variables)
    assert watch.list_files() == []
    assert watch.list_connections() == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json", "pack.pyz", "watch"]


def test_no_compiled_library_opens_a_connection(finished, process_watch, tmp_path):
    """The audit hook of Python does not see what ONNX Runtime's own code would connect to; strace does."""
    strace, watch = shutil.which("strace"), process_watch(tmp_path / "watch")
    if not strace or subprocess.run([strace, "-f", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace cannot be used here")
    bundle, log = finished.folder / "bundle", tmp_path / "calls.txt"
    sample = next((bundle / "samples").iterdir())
    trace = [strace, "-f", "-q", "-e", "trace=connect,sendto,sendmsg", "-o", str(log)]
    run([*trace, sys.executable, "-m", "skd_edge.cli", "predict", str(bundle), str(sample)], watch.variables)
    assert [line for line in log.read_text().splitlines() if re.search(r"AF_INET", line)] == []


def test_the_watch_sees_what_would_be_reported(process_watch, tmp_path):
    """The tests above can fail."""
    watch = process_watch(tmp_path / "watch")
    code = (
        "import socket\ntry:\n    socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError: pass\n"
        "open(__import__('os').path.expanduser('~/.left'), 'w')"
    )
    run([sys.executable, "-c", code], watch.variables)
    assert watch.list_files() == [".left"]
    assert any("127.0.0.1" in line for line in watch.list_connections())
