"""Runs the tests of ``ray_executor_cases.py`` in a process of their own.

A failed check inside Ray ends the whole process. Ray 2.60 did so when tasks were cancelled: "Tried to complete task
that was not pending ... You have likely discovered a bug in Ray".
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("ray_executor_cases.py")


def test_the_cases_pass_in_a_process_of_their_own():
    for _ in range(2):  # a second time if Ray ended the process: then pytest printed no summary
        words = [sys.executable, "-m", "pytest", "-rs", "--import-mode=importlib", "-p", "no:cacheprovider", str(CASES)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=CASES.parents[3])
        if counted := re.search(r"=+ (.*\b(?:passed|failed|skipped|error)\b.*) in .*=+$", done.stdout.strip()):
            break
    assert counted, done.stdout + done.stderr
    assert done.returncode == 0, done.stdout
    if reason := re.search(r"SKIPPED \[\d+\] \S+ (.*)", done.stdout):
        pytest.skip(reason[1])
