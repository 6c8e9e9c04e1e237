"""The threads of torch and numpy are set together."""

from __future__ import annotations

import subprocess
import sys

import numpy as np  # noqa: F401  # its linear algebra is what threadpoolctl controls
import torch

from skd_edge.execution.threads import configure_threads

THREADS = """
import numpy, torch
from threadpoolctl import threadpool_info
from skd_edge.execution.threads import configure_threads
print(configure_threads({count}), torch.get_num_threads(), *{{pool["num_threads"] for pool in threadpool_info()}})
"""


def test_torch_and_linear_algebra_get_the_same_number_of_threads():
    words = [sys.executable, "-c", THREADS.format(count=1)]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert printed == ["1", "1", "1"]


def test_without_a_number_the_default_is_kept():
    before = torch.get_num_threads()
    assert configure_threads(None) == before == torch.get_num_threads()
