"""The threads of torch and numpy are set together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np  # noqa: F401  # its linear algebra is what threadpoolctl controls
import pytest
import torch

from skd_edge.execution.threads import configure_threads, count_parallel_jobs

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


@pytest.mark.parametrize(("cores", "threads", "jobs"), [(1, 1, 1), (2, 1, 2), (8, 2, 4), (8, 3, 2), (2, 4, 1)])
def test_there_are_as_many_jobs_as_cores_for_their_threads(monkeypatch, cores, threads, jobs):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr(Path, "read_text", lambda path: "max 100000")  # no limit by a control group
    assert count_parallel_jobs(threads) == jobs


def test_a_container_with_less_time_than_cores_trains_fewer_jobs(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(Path, "read_text", lambda path: "250000 100000")
    assert count_parallel_jobs(1) == 3


def test_without_a_number_the_default_is_kept():
    before = torch.get_num_threads()
    assert configure_threads(None) == before == torch.get_num_threads()
