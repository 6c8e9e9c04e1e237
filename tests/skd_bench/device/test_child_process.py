"""No helper process outlives a killed parent, so the pipes that it inherited are closed."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

POOL = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from skd_bench.device.child_process import end_with_parent
if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        pool.submit(print, "ready", flush=True).result()
        time.sleep(600)
"""
RENDERING = """
import sys
from pathlib import Path
from skd_edge.data.sources.synthetic import generate_dataset
from skd_edge.recipe.data import GeneratedData
if __name__ == "__main__":
    many = GeneratedData(kind="generated", train=100000, val=10, test=10, frames=4, size=16)
    generate_dataset(Path(sys.argv[1]), many, 0, progress=lambda done, total: print("ready", flush=True))
"""


@pytest.mark.parametrize("code", [POOL, RENDERING])
def test_helpers_of_a_killed_process_end(tmp_path, code):
    script = tmp_path / "script.py"  # a helper process imports it, which it cannot do from the command line
    script.write_text(code)
    words = [sys.executable, str(script), str(tmp_path / "set")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        first_line = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        assert first_line == "ready\n"
        process.communicate(timeout=60)  # it returns when the last process has closed the pipe
