"""A measuring process that also knows PyTorch's runtimes; what travels to a device knows nothing of them."""

from __future__ import annotations

import sys

from bench.suites.latency.torch_runtime import register_torch_runtimes
from skd_bench.benchmark import worker

if __name__ == "__main__":
    register_torch_runtimes()
    sys.exit(worker.main(sys.argv[1:]))
