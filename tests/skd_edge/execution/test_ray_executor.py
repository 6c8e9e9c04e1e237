"""Jobs over Ray: the tests of ``ray_executor_cases.py``, in a process of their own.

A check that fails inside Ray ends the process that it is in, whatever that does besides. Seen with Ray 2.60 when
tasks were cancelled: "Tried to complete task that was not pending ... You have likely discovered a bug in Ray".
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("ray_executor_cases.py")


def test_jobs_over_ray():
    for _ in range(2):  # once more where Ray ended the process: then pytest has not counted its tests
        words = [sys.executable, "-m", "pytest", "-rs", "--import-mode=importlib", "-p", "no:cacheprovider", str(CASES)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=CASES.parents[3])
        if counted := re.search(r"=+ (.*\b(?:passed|failed|skipped|error)\b.*) in .*=+$", done.stdout.strip()):
            break
    assert counted, done.stdout + done.stderr
    assert done.returncode == 0, done.stdout
    if reason := re.search(r"SKIPPED \[\d+\] \S+ (.*)", done.stdout):
        pytest.skip(reason[1])
