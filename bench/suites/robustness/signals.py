"""Sends signals to commands at random moments: each must end cleanly, and the same command must then succeed.

    python -m bench.suites.robustness.signals --moments 20

The commands are ``compress``, ``plan``, ``data scan``, ``labels audit``, ``report`` and ``choose``, on a small run.
SIGINT, SIGTERM and SIGHUP take turns. After a signal the command must exit with 75 (or 0, if it had nothing left to
do), with one line on stderr, no traceback, no temporary file, and no process of it left that holds the pipe open. Then
the same command must succeed, and ``compress`` must have the outcome of an uninterrupted run. Writes
bench/results/signals.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.suites.robustness.damage import RECIPE
from bench.suites.robustness.kill_and_resume import read_outcome
from skd_bench.device.info import read_device_info
from skd_bench.files import write_json

RESULTS = Path(__file__).resolve().parents[3] / "bench/results/signals.json"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LONGEST_END_S = 120.0  # a command that has not ended so long after a signal hangs
_PAUSED = 75


@dataclass(frozen=True)
class Interruption:
    """One signal and what followed.

    Attributes:
        command: the command.
        signal: the signal's name.
        moment: seconds after the start of the process.
        code: exit code.
        seconds_to_end: from the signal until the process and all its helpers had ended.
        problem: what was wrong; empty if nothing was.
    """

    command: str
    signal: str
    moment: float
    code: int
    seconds_to_end: float
    problem: str


@dataclass(frozen=True)
class Workplace:
    """Where the commands run.

    Attributes:
        folder: where the commands write.
        recipe: the recipe.
        done: its run folder, finished.
        cache: the cache of that run.
    """

    folder: Path
    recipe: Path
    done: Path
    cache: Path

    @classmethod
    def make(cls, folder: Path) -> Workplace:
        """Write the recipe into an empty folder and run it once without interruption.

        Raises:
            SystemExit: The run failed.
        """
        place = cls(folder, folder / "recipe.yaml", folder / "done", folder / "cache")
        place.recipe.write_text(RECIPE, encoding="utf-8")
        words = place.list_commands()["compress"]
        words[words.index("--out") + 1] = str(place.done)
        place.finish(words, place.cache)
        return place

    def list_commands(self) -> dict[str, list[str]]:
        """The words of each command."""
        recipe, done = str(self.recipe), str(self.done)
        return {
            "compress": ["compress", recipe, "--out", str(self.folder / "new"), "--threads", "1"],
            "plan": ["plan", recipe, "--out", done],
            "scan": ["data", "scan", recipe, "--out", str(self.folder / "bad.csv")],
            "audit": ["labels", "audit", recipe, "--out", str(self.folder / "audit")],
            "report": ["report", done],
            "choose": ["choose", done],
        }

    def start(self, words: list[str], cache: Path) -> subprocess.Popen[str]:
        """Start a command in its own process group."""
        places = {"SKD_EDGE_CACHE": str(cache), "SKD_EDGE_LEDGER": str(self.folder / "looks.jsonl")}
        return subprocess.Popen(
            [sys.executable, "-c", _START, *words],
            env={**os.environ, **places},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, words: list[str], cache: Path) -> float:
        """Run a command to its end; returns the seconds.

        Raises:
            SystemExit: It failed.
        """
        began = time.monotonic()
        process = self.start(words, cache)
        _, stderr = process.communicate(timeout=1800)
        if process.returncode:
            raise SystemExit(f"{' '.join(words)} failed with {process.returncode}: {stderr[-2000:]}")
        return time.monotonic() - began

    def interrupt(self, command: str, number: signal.Signals, moment: float, cache: Path) -> Interruption:
        """Start a command, send it a signal, and look at its end."""
        process = self.start(self.list_commands()[command], cache)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        began = time.monotonic()
        try:
            # It returns when every process that inherited the pipe has ended, so it also finds orphans.
            stdout, stderr = process.communicate(timeout=_LONGEST_END_S)
            problem = _find_problem(process.returncode, stdout, stderr) or self._find_remains()
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            problem = f"did not end within {_LONGEST_END_S:.0f} s"
        seconds = round(time.monotonic() - began, 2)
        return Interruption(command, number.name, round(moment, 2), process.returncode, seconds, problem)

    def _find_remains(self) -> str:
        """Name a temporary file that an interrupted command left."""
        remains = [file for file in self.folder.rglob("*.part") if file.name != "state.part"]  # an unfinished store
        return f"left {remains[0].relative_to(self.folder)}" if remains else ""


# A shell that starts the study in the background makes it, and its children, ignore SIGINT.
_START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from skd_edge.cli.main import main
main()
"""


def _find_problem(code: int, stdout: str, stderr: str) -> str:
    """What is wrong with the end of a command; empty if nothing is."""
    # Before the command begins (imports) and after its result is printed, a signal ends it as any program.
    outside = bool(stdout) or not stderr or stderr.rstrip().endswith("KeyboardInterrupt")
    if code not in (0, _PAUSED) and not (code in (1, *(-n for n in SIGNALS)) and outside):
        return f"exit code {code}: {stderr[-600:]}"
    return f"a traceback: {stderr[-600:]}" if "Traceback" in stderr and not outside else ""


def interrupt_command(place: Workplace, command: str, moments: int, draw: random.Random) -> list[Interruption]:
    """Interrupt one command at random moments, let it finish after each, and compare the outcome of ``compress``."""
    cache = place.folder / "new-cache" if command == "compress" else place.cache
    words = place.list_commands()[command]
    seconds, found = place.finish(words, cache), list[Interruption]()
    while len(found) < moments:
        if command == "compress" and len(found) % 4 == 0:  # then nothing of it is finished
            shutil.rmtree(cache)
            shutil.rmtree(place.folder / "new")
        one = place.interrupt(command, SIGNALS[len(found) % len(SIGNALS)], draw.uniform(0, seconds), cache)
        found.append(one)
        print(f"{command} {one.signal} after {one.moment:.1f} s: {one.code} {one.problem or 'clean'}", flush=True)
    place.finish(words, cache)
    if command == "compress" and read_outcome(place.folder / "new") != read_outcome(place.done):
        raise SystemExit("the interrupted compress has another outcome than the uninterrupted one")
    return found


def study(folder: Path, commands: list[str], moments: int, seed: int) -> list[Interruption]:
    """Interrupt each command at random moments."""
    place, draw = Workplace.make(folder), random.Random(seed)
    return [one for command in commands for one in interrupt_command(place, command, moments, draw)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    names = list(Workplace(*[Path()] * 4).list_commands())
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = study(Path(folder), options.commands, options.moments, options.seed)
    wrong = [asdict(one) for one in found if one.problem]
    result = {
        "moments": options.moments,
        "seed": options.seed,
        "codes": {c: dict(Counter(str(o.code) for o in found if o.command == c)) for c in options.commands},
        "longest_end_s": max(one.seconds_to_end for one in found),
        "wrong": wrong,
    }
    write_json(RESULTS, {"device": read_device_info(), **result})
    print(json.dumps(result, indent=2))
    if wrong:
        sys.exit("a signal was not a clean end; see the results above")


if __name__ == "__main__":
    main()
