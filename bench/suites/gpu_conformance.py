"""Runs the conformance suite of runtimes on those that use this machine's GPU: `make test-gpu`.

    python -m bench.suites.gpu_conformance [RUNTIME ...]

Without RUNTIME, all that can be used here. Without a GPU it says so in one line. Exit code 1: a test failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from skd_bench.errors import UserError
from skd_bench.runtimes import registered_runtimes, uses_gpu, why_runtime_unavailable
from skd_bench.runtimes.cuda import Gpu, find_gpu
from skd_bench.runtimes.tensorrt.builder import SUPPORTED_SMS

ROOT = Path(__file__).resolve().parents[2]
SUITE = "tests/skd_bench/runtimes/test_conformance.py"


def why_not_on_gpu(name: str, gpu: Gpu) -> str | None:
    """Why a runtime cannot use this GPU; None when it can, as far as that is known before."""
    if "double" in gpu.name and name.removesuffix("-nograph") != "tensorrt":
        return "the double stands for TensorRT only"
    if "rtx" in name and gpu.sm not in SUPPORTED_SMS:
        return f"TensorRT-RTX does not support {gpu}"
    return why_runtime_unavailable(name)


def main(wanted: Sequence[str]) -> int:
    try:
        gpu = find_gpu()
    except UserError as error:
        print(f"no GPU to test: {error}")
        return 0
    reasons = {name: why_not_on_gpu(name, gpu) for name in wanted or filter(uses_gpu, registered_runtimes())}
    usable = [name for name, why in reasons.items() if why is None]
    for name, why in reasons.items():
        if why:
            print(f"{name} is not tested: {why}")
    if not usable:
        return 0
    print(f"testing {', '.join(usable)} on {gpu}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", SUITE]
    environment = {**os.environ, "SKD_EDGE_CONFORMANCE": ",".join(usable)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
