"""A benchmark process with PyTorch's runtimes registered. The package that goes to a device does not contain them."""

from __future__ import annotations

import sys

from bench.suites.latency.torch_runtime import register_torch_runtimes
from skd_bench.benchmark.worker import run_job
from skd_bench.benchmark.worker_program import run_worker_program
from skd_bench.device.child_process import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    register_torch_runtimes()
    sys.exit(run_worker_program(run_job, sys.argv[1:]))
