"""What the quickstart costs: seconds from the command to the report, and the peak memory of all its processes together.

    python bench/suites/quickstart_cost.py

Runs `skd-edge compress quickstart` with an empty cache and samples the summed proportional set size (PSS, Linux) of its
process tree once a second. Writes bench/results/quickstart_cost.json; docs/measuring.md quotes it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from skd_bench.device import device_card
from skd_bench.files import write_json

RESULTS = Path(__file__).resolve().parents[2] / "bench/results/quickstart_cost.json"


def tree(root: int) -> list[int]:
    """A process and all that come from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def pss_kb(pid: int) -> int:
    """Memory of one process, shared pages divided among those that share them; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    """Run, sample, write."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = {"SKD_EDGE_CACHE": f"{folder}/cache", "SKD_EDGE_LEDGER": f"{folder}/looks.jsonl"}
        command = [sys.executable, "-m", "skd_edge.cli", "compress", "quickstart", "--out", f"{folder}/run"]
        began, peak = time.monotonic(), 0
        with subprocess.Popen(command, env={**os.environ, **fresh}) as process:
            while process.poll() is None:
                peak = max(peak, sum(map(pss_kb, tree(process.pid))))
                time.sleep(1.0)
        if process.returncode:
            sys.exit(process.returncode)
        seconds = time.monotonic() - began
    write_json(RESULTS, {"device": device_card(), "seconds": round(seconds, 1), "peak_pss_mib": round(peak / 1024)})
    print(f"{seconds:.0f} s, {peak / 1024:.0f} MiB at most")


if __name__ == "__main__":
    main()
