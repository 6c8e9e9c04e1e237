"""The double of TensorRT passes the conformance suite of runtimes, and is named a double wherever it shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest


def test_the_conformance_suite_passes_on_the_double(root):
    """The same tests that run where a GPU is: capture, batches, errors, double close."""
    from bench.suites.tensorrt_double.double import environment

    suite, selection = "tests/skd_bench/runtimes/test_conformance.py", "tensorrt and not ort and not rtx"
    words = ["-q", "-rs", "-p", "no:cacheprovider", suite, "-k", selection]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=root,
        env={**os.environ, **environment(), "PYTEST_ADDOPTS": ""},  # CI's options are for the outer run
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "no GPU runs tensorrt" not in done.stdout  # which would be the reason of a skip
    assert int(done.stdout.rsplit(" passed", 1)[0].rsplit(None, 1)[-1]) > 40


def test_it_names_itself_in_every_process(root):
    from bench.suites.tensorrt_double.double import environment

    code = (
        "import json; from skd_bench.device.info import read_device_info, device_id;"
        "from skd_bench.runtimes.cuda import find_gpu;"
        "info = read_device_info(); print(json.dumps([info['runtimes']['tensorrt'], str(find_gpu()), device_id(info)]))"
    )
    here = {**os.environ, "PYTHONPATH": str(root / "bench")}
    shown = []
    for env in (here | environment(), here):
        path = os.pathsep.join([env["PYTHONPATH"], str(root / "bench")])
        done = subprocess.run(
            [sys.executable, "-c", code], env=env | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        shown.append(json.loads(done.stdout) if done.returncode == 0 else done.stderr)
    version, gpu, identity = shown[0]
    assert version == "10.13.3+double"
    assert gpu == "double of a GPU (SM86, driver for CUDA 13.2)"
    assert identity not in shown[1]  # a measurement of the double never counts as one of this machine


def test_it_leaves_nothing_behind(tensorrt_double):
    import tensorrt

    assert tensorrt.__version__.endswith("+double")
    logits = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    rounded = tensorrt.round_answer(logits)
    assert (rounded != logits).any()
    np.testing.assert_allclose(rounded, logits, rtol=1e-4)
    assert (tensorrt.round_answer(rounded) == rounded).all()


def test_an_unknown_fault_is_an_error():
    from bench.suites.tensorrt_double.double import environment

    with pytest.raises(ValueError, match="unknown faults"):
        environment("no-luck")
