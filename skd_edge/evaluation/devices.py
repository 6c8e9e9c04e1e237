"""Where candidates are measured: on this machine, on one that ssh reaches, or on one that files are carried to.

Whatever the way, one choice compares the milliseconds of one device only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from skd_bench.benchmark import latency
from skd_bench.benchmark.latency import Latency, Target
from skd_bench.benchmark.measurements import Measurements, refuse_other_device
from skd_bench.device.info import device_card, device_id
from skd_bench.errors import UserError
from skd_bench.files import sha256_file, write_atomic
from skd_bench.remote import runner as remote
from skd_bench.remote.pack import Settings, pack_files
from skd_bench.remote.ssh import check_host
from skd_edge.evaluation.measurement_cache import Sittings
from skd_edge.recipe.schema import Bench

Progress = Callable[[int, int], None]
Latencies = dict[str, Latency]

PAUSED = 75


class Device:
    """This machine.

    Attributes:
        name: As messages call it.
        here: Whether it is the machine that this process runs on.
        frozen: Whether nothing may be measured that a sitting does not hold.

    Args:
        bench: The recipe's section.
        kept: The folder of sittings that serve again (`Sittings`); None: everything is measured.
        energy: Whether joules are measured as well.
    """

    name, here, frozen = "this machine", True, False

    def __init__(self, bench: Bench, kept: Path | None = None, *, energy: bool = False) -> None:
        self.bench, self.energy = bench, energy
        self.sittings = Sittings(kept, self._settings) if kept else None
        self._card: dict[str, Any] | None = None

    @property
    def card(self) -> dict[str, Any]:
        """The card of the device (`skd_bench.device.info`); of this machine before a measurement."""
        return self._card or device_card()

    @property
    def saturates(self) -> bool:
        """Whether 8-bit weights are known to be wrong there: x86 without VNNI (`skd_export.quantization`)."""
        card = self._card or {}
        x86 = str(card.get("machine", "")).lower() in {"x86_64", "amd64", "i386", "i686"}
        return x86 and not {"avx_vnni", "avx512_vnni"} & set(card.get("isa", ()))

    def measure(self, targets: Sequence[Target], progress: Progress | None = None) -> Latencies:
        """Latency of each target by its name, all of them side by side: measured, or from a sitting that had them all.

        Raises:
            UserError: It cannot be measured, or the device is another one than before.
        """
        known = self.sittings.find(targets, device_id(device_card()) if self.here else None) if self.sittings else None
        if known is None and self.frozen:
            what = "joules" if self.energy else "measurement"
            raise UserError(
                f"the run holds no {what} of all {len(targets)} files side by side on {self.name}; run skd-edge "
                "compress once more (it trains nothing that is finished), then choose"
            )
        found, card = known or self._measure(targets, progress)
        if self.sittings and known is None:
            self.sittings.keep(targets, found, card)
        refuse_other_device(self._card or card, card, "these files were measured")
        self._card = self._card or card
        return found

    def _measure(self, targets: Sequence[Target], progress: Progress | None) -> tuple[Latencies, dict[str, Any]]:
        card = device_card()
        # No report of a run shows peak memory: it costs a process for each target, and `skd-edge bench` measures it.
        return latency.measure_latency(targets, memory=False, progress=progress, **vars(self._settings)), card

    @property
    def _settings(self) -> Settings:
        return Settings(self.bench.threads, self.bench.processes, self.bench.queries, self.energy)


class Linked(Device):
    """A machine that ssh reaches: `bench.host` of the recipe."""

    here = False

    def __init__(self, bench: Bench, host: str, python: str, kept: Path | None = None, *, energy: bool = False) -> None:
        super().__init__(bench, kept, energy=energy)
        self.name, self.python = check_host(host), python

    def _measure(self, targets: Sequence[Target], progress: Progress | None) -> tuple[Latencies, dict[str, Any]]:
        how: dict[str, Any] = {"host": self.name, "python": self.python, "progress": progress}
        return remote.measure_latency(targets, **how, **vars(self._settings))


class Carried(Device):
    """A machine without a link: what packs measured there is read from their results, file by file.

    Args:
        bench: The recipe's section.
        results: What packs wrote on the device; one that is not there yet counts as empty.
        folder: The run folder: the pack with what is still to be measured goes there.
        energy: Whether results without joules are no results.
    """

    name, here = "the device of --measurements", False

    def __init__(self, bench: Bench, results: Sequence[Path], folder: Path, *, energy: bool = False) -> None:
        super().__init__(bench, energy=energy)
        self.results, self.folder = results, folder
        self.there = [(path, Measurements.load(path)) for path in results if path.exists()]
        for path, one in self.there:
            refuse_other_device(self.there[0][1].device, one.device, f"{path} was measured")
            if one.threads != bench.threads:
                raise UserError(
                    f"{path} was measured with {one.threads} threads and the recipe says bench.threads: "
                    f"{bench.threads}; make the recipe say what was measured, or measure again"
                )

    def _measure(self, targets: Sequence[Target], progress: Progress | None) -> tuple[Latencies, dict[str, Any]]:
        measured = (m for _, one in self.there for m in one.measured if m.latency.joules or not self.energy)
        known = {(m.sha256, m.runtime): m.latency for m in measured}
        found = {t.name: known.get((sha256_file(t.path), t.runtime)) for t in targets}
        got = {name: replace(one, name=name) for name, one in found.items() if one is not None}
        if len(got) < len(found):
            raise UserError(self._carry(targets, set(known), len(found) - len(got)), exit_code=PAUSED)
        return got, self.there[0][1].device if self.there else device_card()

    def _carry(self, targets: Sequence[Target], known: set[tuple[str, str]], missing: int) -> str:
        """Pack every file of the run that was not measured yet, so that one way there is enough; what to do with it."""
        asked = {Path(t.path): t for t in targets}
        others = [p for p in sorted(self.folder.glob("artefacts/**/*")) if {f.suffix for f in asked} >= {p.suffix}]
        others = [p for p in others if p.is_file() and p not in asked]
        names = {r: f" on {r}" if len(self.bench.runtime) > 1 else "" for r in self.bench.runtime}
        more = (Target(f"{p.relative_to(self.folder)}{said}", p, r) for p in others for r, said in names.items())
        wanted = [*targets, *more]
        left = [t for t in wanted if (sha256_file(t.path), t.runtime) not in known]
        pack = write_atomic(self.folder / "carry.pyz", pack_files(left, self._settings))
        absent = "".join(f" ({path} is not there yet)" for path in self.results if not path.exists())
        return (
            f"{missing} of {len(targets)} files have no measurement from the device{absent}. Carry {pack} there, run "
            f"`python3 {pack.name} --json RESULT.json`, bring RESULT.json back, and give it with --measurements "
            "RESULT.json (beside those of earlier ways): the same command goes on from here, and trains nothing twice"
        )


def device_of(
    bench: Bench, folder: Path, *, measurements: Sequence[Path] = (), python: str = "python3", energy: bool = False
) -> Device:
    """Where a recipe's candidates are measured.

    Args:
        bench: The recipe's section; its `host` is not asked where there are measurements.
        folder: The run folder.
        measurements: Results that packs wrote on the device.
        python: The Python of `bench.host`.
        energy: Whether joules are measured as well.

    Raises:
        UsageError: The host can be no host.
        UserError: A result cannot be read, or they come from different devices.
    """
    if measurements:
        return Carried(bench, measurements, folder, energy=energy)
    kept = folder / "measurements"
    if bench.host:
        return Linked(bench, bench.host, python, kept / re.sub(r"[^\w.-]", "_", bench.host), energy=energy)
    return Device(bench, kept / "here", energy=energy)
