"""A pipe in place of any file is refused at once, by every command: nobody will ever write into it."""

from __future__ import annotations

import os
import signal

import pytest

from skd_edge.cli.main import run


@pytest.fixture
def run_in_time(capfd):
    """Runs a command within a minute: its exit code, and what it printed."""

    def stop(number, frame):
        raise TimeoutError("the command waits")

    def start(words):
        before = signal.signal(signal.SIGALRM, stop)
        signal.alarm(60)
        try:
            code = run(words)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        shown = "".join(capfd.readouterr())
        assert "unexpected" not in shown
        return code, shown

    return start


@pytest.fixture
def pipe(tmp_path):
    """A pipe that nobody writes to, with this ending."""

    def make(ending):
        path = tmp_path / f"pipe{ending}"
        os.mkfifo(path)
        return str(path)

    return make


COMMANDS = {
    "recipe": lambda pipe, bundle: ["validate", pipe(".yaml")],
    "video": lambda pipe, bundle: ["predict", bundle, pipe(".mp4")],
    "long video": lambda pipe, bundle: ["watch", bundle, pipe(".mp4"), "--window", "1"],
    "events": lambda pipe, bundle: ["watch", bundle, "x.mp4", "--window", "1", "--events", pipe(".csv")],
    "labelled videos": lambda pipe, bundle: ["accuracy", bundle, pipe(".csv")],
    "bundle": lambda pipe, bundle: ["verify", pipe(".zip")],
    "signers": lambda pipe, bundle: ["verify", bundle, "--signers", pipe(".txt")],
    "key": lambda pipe, bundle: ["sign", bundle, "--key", pipe("")],
    "measurements": lambda pipe, bundle: ["report", pipe(".json"), pipe(".2.json")],
    "baseline": lambda pipe, bundle: ["report", bundle, "--baseline", pipe(".json")],
    "weights": lambda pipe, bundle: ["export", pipe(".pt"), "--classes", "2", "--out", bundle + "-out"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_pipe_is_refused_at_once(name, pipe, bundle, run_in_time):
    code, shown = run_in_time(COMMANDS[name](pipe, str(bundle)))
    assert code in (1, 2)
    assert "pipe" in shown


@pytest.mark.parametrize("name", ["manifest.json", "measured.json", "the network"])
def test_a_pipe_inside_a_bundle_is_refused_at_once(name, bundle, run_in_time):
    path = next(bundle.rglob("*.onnx")) if name == "the network" else bundle / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert run_in_time(["verify", str(bundle)])[0] == 1
    assert run_in_time(["predict", str(bundle), "x.mp4"])[0] == 1
