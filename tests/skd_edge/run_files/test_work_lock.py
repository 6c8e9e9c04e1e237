"""One process at a time has the lock on some work; the lock of a killed process is released."""

from __future__ import annotations

import subprocess
import sys

from skd_edge.run_files.work_lock import lock_work

HOLDER = """
import sys, time
from pathlib import Path
from skd_edge.run_files.work_lock import lock_work
with lock_work(Path(sys.argv[1]), wait=True):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_work_is_locked_once(tmp_path):
    file = tmp_path / "new folder" / "lock"
    with lock_work(file, wait=False) as first, lock_work(file, wait=False) as second:
        assert first
        assert not second
    with lock_work(file, wait=False) as again:
        assert again


def test_the_lock_of_a_killed_process_is_released(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "lock"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        with lock_work(tmp_path / "lock", wait=False) as locked:
            assert not locked
    finally:
        process.kill()
        process.communicate()
    with lock_work(tmp_path / "lock", wait=True) as locked:
        assert locked
