"""glibc keeps freed memory; elsewhere nothing changes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from skd_edge.execution import malloc_settings
from skd_edge.execution.malloc_settings import keep_freed_memory

RESIDENT_AFTER_FREE = """
import sys
from pathlib import Path
import numpy as np
from skd_edge.execution.malloc_settings import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
blocks = [np.ones(1 << 20) for _ in range(32)]  # 8 MiB each
del blocks
(line,) = (l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmRSS"))
print(int(line.split()[1]) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is not on this machine")
def test_freed_blocks_stay_with_the_process():
    resident = {}
    for mode in ("default", "keep"):
        words = [sys.executable, "-c", RESIDENT_AFTER_FREE, mode]
        resident[mode] = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert resident["keep"] > resident["default"] + 200  # MiB, of 256 MiB that were freed


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(malloc_settings.sys, "platform", "darwin")
    assert keep_freed_memory() is False


def test_a_c_library_without_these_options_is_left_alone(monkeypatch):
    monkeypatch.setattr(malloc_settings.sys, "platform", "linux")
    monkeypatch.setattr(malloc_settings.ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False
