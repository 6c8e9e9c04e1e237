"""Gives two thousand broken files to each reader of files from elsewhere.

    python -m bench.suites.robustness.fuzz_readers [--count 2000] [--only NAME]

Every file must be read or be refused with a `UserError`. Each reader runs in a process of its own with a limit of
memory (1 GiB more than it has at its start); a file that takes longer than 10 s counts as a hang, and one that ends the
process as a crash. Equal seeds give equal files. Writes bench/results/fuzz_readers.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import shutil
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.suites.robustness.readers import Reader, make_readers
from skd_bench.device.info import read_device_info
from skd_bench.errors import UserError
from skd_bench.files import write_json

RESULTS = Path(__file__).resolve().parents[2] / "results/fuzz_readers.json"
LIMIT_S, LIMIT_BYTES = 10.0, 1 << 30


def read_one(reader: Reader, number: int, folder: Path) -> str:
    """Break one file and read it.

    Returns:
        "read", "refused", or "unexpected" with the exception and the last line of our code that it passed.
    """
    rng = random.Random(f"{reader.name} {number}")
    name = rng.choice(sorted(reader.files))
    home = folder / "input"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    (home / name).write_bytes(reader.damage(reader.files[name], rng))
    try:
        reader.read(home / name)
    except UserError as error:
        return "refused" if "weights_only=False" not in str(error) else "unexpected advice to allow any code"
    except Exception as error:
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "/skd_" in f.filename]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
        return f"unexpected {type(error).__name__} at {where}: {str(error)[:120]}"
    return "read"


def _read_many(reader: Reader, numbers: range, folder: Path, pipe: Connection) -> None:
    status = Path("/proc/self/status").read_text()
    used = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize:")) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, used + LIMIT_BYTES))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what runtimes log
    for number in numbers:
        pipe.send(read_one(reader, number, folder))


def fuzz_reader(reader: Reader, count: int, folder: Path) -> dict[str, Any]:
    """Give a reader broken files, in a process that is started again where it hangs or crashes.

    Returns:
        Counts of files read, refused, hung and crashed, the unexpected exceptions with their files' numbers, and the
        longest time in seconds.
    """
    outcomes: list[str] = []
    longest, context = 0.0, multiprocessing.get_context("fork")
    while len(outcomes) < count:
        mine, theirs = context.Pipe()
        process = context.Process(target=_read_many, args=(reader, range(len(outcomes), count), folder, theirs))
        process.start()
        theirs.close()
        try:
            while len(outcomes) < count:
                began = time.monotonic()
                if not mine.poll(LIMIT_S):
                    outcomes.append("hung")
                    break
                outcomes.append(mine.recv())
                longest = max(longest, time.monotonic() - began)
        except EOFError:
            outcomes.append("crashed")
        process.kill()
        process.join()
        mine.close()
    unexpected: dict[str, int] = {}
    for number, outcome in enumerate(outcomes):
        if outcome not in ("read", "refused"):
            unexpected.setdefault(outcome, number)
    found = Counter(outcome.split()[0] for outcome in outcomes)
    counts = {kind: found[kind] for kind in ("read", "refused", "unexpected", "hung", "crashed")}
    return {"files": count, **counts, "first": unexpected, "longest_s": round(longest, 2)}


def run(folder: Path, count: int, only: str = "") -> dict[str, dict[str, Any]]:
    """Fuzz every reader.

    Args:
        folder: An empty folder.
        count: Broken files for each reader.
        only: The name of the only reader; empty: all.

    Returns:
        The result of `fuzz_reader` by the reader's name.
    """
    readers = [r for r in make_readers(folder / "intact") if only in ("", r.name)]
    return {reader.name: fuzz_reader(reader, count, folder) for reader in readers}


def main() -> None:
    """Fuzz every reader and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--only", default="", help="name of the only reader; nothing is written then")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), options.count, options.only)
    for name, result in found.items():
        print(name, {k: v for k, v in result.items() if k != "first"})
        for outcome, number in result["first"].items():
            print(f"    {number}: {outcome}")
    if not options.only:
        write_json(
            RESULTS,
            {"device": read_device_info(), "limit_s": LIMIT_S, "limit_mib": LIMIT_BYTES >> 20, "readers": found},
        )


if __name__ == "__main__":
    main()
