"""Damages files of a cache and of a run folder: the next run must notice it, or have the same result.

    python -m bench.suites.robustness.damage --damages 200

A small run is executed once. Then, again and again, its cache and its run folder are restored, one of their files is
damaged (a byte is flipped, the file is cut, or emptied), and a command follows: the same ``compress``, a ``compress``
into a new run folder, ``choose`` or ``report``. Kinds of files take turns, so that the many clips and the one journal
are damaged equally often.

A command must succeed with the same choice and bit-equal weights, or fail with one clear message. Anything else is a
silent use of damaged content. With ``--folder``, an interrupted study is continued. Writes bench/results/damage.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.suites.robustness.kill_and_resume import read_outcome
from skd_bench.device.info import read_device_info
from skd_bench.files import write_json

RESULTS = Path(__file__).resolve().parents[3] / "bench/results/damage.json"
RECIPE = """
name: damage
data: {kind: generated, train: 80, val: 80, test: 10, frames: 4, size: 16, difficulty: 0.0}
clip: {frames: 4, size: 16}
augment: {shift: 1, views: 2}
labels: {noise: {kind: symmetric, rate: 0.2}}
teacher: {family: resnet, width: 8, depths: [1]}
students:
  - {name: small, width: 4, depths: [1]}
  - {name: large, family: resnet, width: 8, depths: [1]}
training: {teacher_epochs: 6, epochs: 8, batch: 8, rounds: 1}
schedule: {controls: []}
export: {precisions: [fp32]}
bench: {processes: 1, queries: 20}
choice: {exchange: 0}   # choose by accuracy only, because latency differs between measurements
"""
WAYS = ("flip", "cut", "empty")
COMMANDS = {"cache": ("compress", "new run", "choose"), "run": ("compress", "choose", "report")}
_HASH = re.compile(r"[0-9a-f]{16,}")
_SECONDS = 300  # after this time a command hangs


@dataclass(frozen=True)
class Damage:
    """One damage and what followed.

    Attributes:
        number: which damage of the study it is, from 0; it decides everything else.
        kind: the kind of the file.
        file: the file, relative to the folder of the study.
        way: how it was damaged.
        command: what was run next.
        outcome: ``same`` (equal choice and weights), ``message`` (an error in one line), or ``silent`` or ``crash``.
        noticed: whether the damage was named on stderr.
        text: the last line of stderr.
    """

    number: int
    kind: str
    file: str
    way: str
    command: str
    outcome: str
    noticed: bool
    text: str


@dataclass(frozen=True)
class Study:
    """A finished run in ``work``, and a copy in ``intact``. Paths are part of cache keys, so ``work`` is restored.

    Attributes:
        folder: where everything is.
    """

    folder: Path

    @property
    def run(self) -> Path:
        """The run folder that is damaged."""
        return self.folder / "work" / "run"

    def start(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command of skd-edge with the cache of this study."""
        cache = self.folder / "work" / "cache"
        places = {"SKD_EDGE_CACHE": str(cache), "SKD_EDGE_LEDGER": str(cache.parent / "looks.jsonl")}
        return subprocess.run(
            [sys.executable, "-m", "skd_edge.cli", *words],
            env={**os.environ, **places},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )

    def compress(self, out: Path) -> subprocess.CompletedProcess[str]:
        """Run the recipe into a folder."""
        return self.start("compress", str(self.folder / "recipe.yaml"), "--out", str(out), "--threads", "1")

    def prepare(self) -> None:
        """Run the recipe once, unless an earlier start of the study did, and copy the result."""
        if (self.folder / "intact").exists():
            return
        (self.folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
        done = self.compress(self.run)
        if done.returncode:
            raise SystemExit(f"the undamaged run failed: {done.stderr[-2000:]}")
        subprocess.run(["cp", "-a", self.folder / "work", self.folder / "copying"], check=True)
        (self.folder / "copying").rename(self.folder / "intact")

    def restore(self) -> None:
        """Make ``work`` the finished run again, with its times and hard links."""
        shutil.rmtree(self.folder / "work", ignore_errors=True)
        subprocess.run(["cp", "-a", self.folder / "intact", self.folder / "work"], check=True)

    def list_files_by_kind(self) -> dict[str, list[Path]]:
        """The files of the finished run, relative to ``intact``. A kind is a path with every hash replaced."""
        kinds: dict[str, list[Path]] = {}
        for file in sorted((self.folder / "intact").rglob("*")):
            if file.is_file() and file.stat().st_size and file.name not in ("lock", ".lock", "looks.jsonl"):
                place = file.relative_to(self.folder / "intact")
                kind = re.sub(r"clips/.*\.mp4|\d+(?=\.npy|/)", "*", _HASH.sub("*", str(place)))
                kinds.setdefault(kind, []).append(place)
        return kinds

    def try_damage(self, number: int, seed: int) -> Damage:
        """Restore the run, damage one file, and run one command."""
        draw, kinds = random.Random(f"{seed} {number}"), self.list_files_by_kind()
        kind = list(kinds)[number % len(kinds)]
        file, way = draw.choice(kinds[kind]), WAYS[(number // len(kinds) + number) % len(WAYS)]
        command = draw.choice(COMMANDS[file.parts[0]])
        self.restore()
        expected = read_outcome(self.run)
        damage_file(self.folder / "work" / file, way, draw)
        done, out = self._run_command(command)
        problem = done.stderr.strip().splitlines()[-1:] or [""]
        return Damage(
            number,
            kind,
            str(file),
            way,
            command,
            self._judge(done, command, out, expected),
            "is damaged" in done.stderr or "is not what the run wrote" in done.stderr,
            problem[0][:300].replace(str(self.folder), ""),
        )

    def _run_command(self, command: str) -> tuple[subprocess.CompletedProcess[str], Path]:
        if command == "compress":
            return self.compress(self.run), self.run
        if command == "new run":
            return self.compress(self.folder / "work" / "new"), self.folder / "work" / "new"
        return self.start(command, str(self.run)), self.run

    def _judge(self, done: subprocess.CompletedProcess[str], command: str, out: Path, expected: dict[str, Any]) -> str:
        if done.returncode:
            message = done.stderr.strip().splitlines()[-1:]
            is_clear = bool(message) and "error: " in message[0] and "unexpected" not in done.stderr
            return "message" if is_clear and done.returncode in (1, 2) else "crash"
        if command == "choose":  # it prints the candidate, and writes nothing
            path, precision = expected["chosen"]
            return "same" if done.stdout.startswith(f"{'>'.join(path)} {precision}: ") else "silent"
        if command == "report":  # it writes the pages again
            intact = self.folder / "intact" / "run" / "report.md"
            return "same" if (out / "report.md").read_bytes() == intact.read_bytes() else "silent"
        return "same" if read_outcome(out) == expected else "silent"


def damage_file(file: Path, way: str, draw: random.Random) -> None:
    """Flip one byte of a file, cut it at a random place, or empty it."""
    content = bytearray(file.read_bytes())
    place = draw.randrange(len(content))
    content[place] ^= draw.randrange(1, 256)
    file.write_bytes({"flip": bytes(content), "cut": bytes(content[:place]), "empty": b""}[way])


def iter_damages(folder: Path, damages: int, seed: int, journal: Path) -> Iterator[Damage]:
    """All damages of a study; those that an earlier start finished are read from its journal."""
    study = Study(folder)
    study.prepare()
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
    known = {damage.number: damage for damage in (Damage(**json.loads(line)) for line in lines)}
    for number in range(damages):
        if number in known:
            yield known[number]
            continue
        damage = study.try_damage(number, seed)
        with journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(damage)) + "\n")
        yield damage


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--damages", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="work here, and continue here after an interruption")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="skd-damage-"))
    folder.mkdir(parents=True, exist_ok=True)
    done: list[Damage] = []
    for damage in iter_damages(folder, options.damages, options.seed, folder / "damage.jsonl"):
        done.append(damage)
        text = f"{damage.outcome}, {'noticed' if damage.noticed else 'not noticed'}"
        print(f"{len(done)}/{options.damages} {damage.kind} {damage.way}, {damage.command}: {text}", flush=True)
    outcomes = Counter(damage.outcome for damage in done)
    wrong = [asdict(damage) for damage in done if damage.outcome not in ("same", "message")]
    result = {
        "damages": len(done),
        "seed": options.seed,
        "kinds": len({damage.kind for damage in done}),
        "outcomes": dict(outcomes),
        "noticed": sum(damage.noticed for damage in done),
        "wrong": wrong,
    }
    write_json(RESULTS, {"device": read_device_info(), **result, "by_kind": _count_by_kind(done)})
    print(json.dumps(result, indent=2))
    if not options.folder:
        shutil.rmtree(folder)
    if wrong:
        sys.exit("damaged content was used silently, or a command crashed; see the results above")


def _count_by_kind(done: list[Damage]) -> dict[str, dict[str, int]]:
    kinds = sorted({damage.kind for damage in done})
    return {kind: dict(Counter(damage.outcome for damage in done if damage.kind == kind)) for kind in kinds}


if __name__ == "__main__":
    main()
