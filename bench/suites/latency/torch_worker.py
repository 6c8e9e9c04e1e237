"""A benchmark process with PyTorch's runtimes registered. The package that goes to a device does not contain them."""

from __future__ import annotations

import sys

from bench.suites.latency.torch_runtime import register_torch_runtimes
from skd_bench.benchmark import worker

if __name__ == "__main__":
    register_torch_runtimes()
    sys.exit(worker.main(sys.argv[1:]))
