"""A disk that fills up twice during a run: no finished job is lost, no file is incomplete, and the run finishes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from skd_edge.run_folder import read_journal

# Mounts a small file system that only this process sees, and starts the run once for each size of it.
SCRIPT = """
set -u
disk=$1; shift
mount -t tmpfs -o size=1m none "$disk" || { echo unmountable; exit 0; }
for size in 2800k 4500k 200m; do
  mount -o "remount,size=$size" "$disk"
  "$@" 2>"$disk.err"; echo "$size $?"; tail -n 1 "$disk.err"
done
cp -r "$disk/run" "$disk.run"
"""


def test_a_full_disk_pauses_the_run_and_more_space_finishes_it(finished, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    compress = [
        sys.executable,
        "-m",
        "skd_edge.cli",
        "compress",
        str(finished.recipe),
        "--out",
        str(disk / "run"),
        "--set",
        "students=[{name: small, width: 4}]",
    ]
    places = {"SKD_EDGE_CACHE": str(disk / "cache"), "SKD_EDGE_LEDGER": str(disk / "looks.jsonl")}
    words = ["unshare", "-rm", "bash", "-c", SCRIPT, "bash", str(disk), *compress]
    if shutil.which("unshare") is None:
        pytest.skip("this user may not mount a file system: there is no unshare")
    done = subprocess.run(
        words, text=True, capture_output=True, env={**finished.environment, **places}, timeout=500, check=False
    )
    if done.returncode or "unmountable" in done.stdout:
        pytest.skip("this user may not mount a file system")
    printed = [line for line in done.stdout.splitlines() if line.startswith(("2800k", "4500k", "200m", "skd-edge:"))]
    assert [line for line in printed if not line.startswith("skd-edge:")] == ["2800k 75", "4500k 75", "200m 0"], (
        done.stdout
    )
    assert [line for line in printed if "No space left on device" in line] == printed[1:4:2]
    run = tmp_path / "disk.run"
    report = json.loads((run / "report.json").read_text())
    jobs = {job["job"]: job["accuracy"] for job in report["jobs"] if job["state"] != "pruned"}
    assert jobs == {job["job"]: job["accuracy"] for job in finished.report["jobs"] if job["job"] in jobs}
    trained = [e["job"] for e in read_journal(run) if e["event"] == "job_finished"]
    assert len(trained) == len(set(trained)) == len(jobs)
    assert not list(run.rglob("*.part"))
