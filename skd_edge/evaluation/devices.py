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
from skd_bench.benchmark.latency import LatencyResult, LatencyTarget
from skd_bench.benchmark.measurements import DeviceMeasurements, check_same_device
from skd_bench.device.info import device_id, read_device_info
from skd_bench.errors import UserError
from skd_bench.files import sha256_file, write_atomic
from skd_bench.remote import runner as remote
from skd_bench.remote.pack import MeasurementSettings, pack_files
from skd_bench.remote.ssh import check_host
from skd_edge.evaluation.measurement_cache import MeasurementCache
from skd_edge.recipe.sections import BenchmarkSettings

Progress = Callable[[int, int], None]
Latencies = dict[str, LatencyResult]

PAUSED = 75


class Device:
    """This machine.

    Attributes:
        name: As messages call it.
        is_local: Whether it is the machine that this process runs on.

    Args:
        bench: The recipe's section.
        cache_folder: The folder of sessions that are read again (`MeasurementCache`); None: everything is measured.
        energy: Whether joules are measured as well.
        cache_only: Whether nothing may be measured: only what a stored session holds is known.
    """

    name, is_local = "this machine", True

    def __init__(
        self,
        bench: BenchmarkSettings,
        cache_folder: Path | None = None,
        *,
        energy: bool = False,
        cache_only: bool = False,
    ) -> None:
        self.bench, self.energy, self.cache_only = bench, energy, cache_only
        self.measurement_cache = MeasurementCache(cache_folder, self._benchmark_settings) if cache_folder else None
        self._device_info: dict[str, Any] | None = None

    @property
    def device_info(self) -> dict[str, Any]:
        """The card of the device (`skd_bench.device.info`); of this machine before a measurement."""
        return self._device_info or read_device_info()

    @property
    def int8_saturates(self) -> bool:
        """Whether 8-bit weights are known to be wrong there: x86 without VNNI (`skd_export.quantization`)."""
        card = self._device_info or {}
        x86 = str(card.get("machine", "")).lower() in {"x86_64", "amd64", "i386", "i686"}
        return x86 and not {"avx_vnni", "avx512_vnni"} & set(card.get("isa", ()))

    def measure_latency(self, targets: Sequence[LatencyTarget], progress: Progress | None = None) -> Latencies:
        """Latency of each target by its name, all of them side by side: measured, or from a sitting that had them all.

        Raises:
            UserError: It cannot be measured, or the device is another one than before.
        """
        cached = (
            self.measurement_cache.find_session(targets, device_id(read_device_info()) if self.is_local else None)
            if self.measurement_cache
            else None
        )
        if cached is None and self.cache_only:
            what = "joules" if self.energy else "measurement"
            raise UserError(
                f"the run holds no {what} of all {len(targets)} files side by side on {self.name}; run skd-edge "
                "compress once more (it trains nothing that is finished), then choose"
            )
        found, info = cached or self._measure_uncached(targets, progress)
        if self.measurement_cache and cached is None:
            self.measurement_cache.save_session(targets, found, info)
        check_same_device(self._device_info or info, info, "these files were measured")
        self._device_info = self._device_info or info
        return found

    def _measure_uncached(
        self, targets: Sequence[LatencyTarget], progress: Progress | None
    ) -> tuple[Latencies, dict[str, Any]]:
        info = read_device_info()
        # No report of a run shows peak memory: it costs a process for each target, and `skd-edge bench` measures it.
        return latency.measure_latency(targets, memory=False, progress=progress, **vars(self._benchmark_settings)), info

    @property
    def _benchmark_settings(self) -> MeasurementSettings:
        return MeasurementSettings(self.bench.threads, self.bench.processes, self.bench.queries, self.energy)


class SshDevice(Device):
    """A machine that ssh reaches: `bench.host` of the recipe."""

    is_local = False

    def __init__(
        self,
        bench: BenchmarkSettings,
        host: str,
        python: str,
        cache_folder: Path | None = None,
        *,
        energy: bool = False,
        cache_only: bool = False,
    ) -> None:
        super().__init__(bench, cache_folder, energy=energy, cache_only=cache_only)
        self.name, self.python = check_host(host), python

    def _measure_uncached(
        self, targets: Sequence[LatencyTarget], progress: Progress | None
    ) -> tuple[Latencies, dict[str, Any]]:
        connection: dict[str, Any] = {"host": self.name, "python": self.python, "progress": progress}
        return remote.measure_remote_latency(targets, **connection, **vars(self._benchmark_settings))


class OfflineDevice(Device):
    """A machine without a link: what packs measured there is read from their results, file by file.

    Args:
        bench: The recipe's section.
        results: What packs wrote on the device; one that is not there yet counts as empty.
        folder: The run folder: the pack with what is still to be measured goes there.
        energy: Whether results without joules are no results.
    """

    name, is_local = "the device of --measurements", False

    def __init__(
        self, bench: BenchmarkSettings, results: Sequence[Path], folder: Path, *, energy: bool = False
    ) -> None:
        super().__init__(bench, energy=energy)
        self.results, self.folder = results, folder
        self.loaded_results = [(path, DeviceMeasurements.load(path)) for path in results if path.exists()]
        for path, one in self.loaded_results:
            check_same_device(self.loaded_results[0][1].device, one.device, f"{path} was measured")
            if one.threads != bench.threads:
                raise UserError(
                    f"{path} was measured with {one.threads} threads and the recipe says bench.threads: "
                    f"{bench.threads}; make the recipe say what was measured, or measure again"
                )

    def _measure_uncached(
        self, targets: Sequence[LatencyTarget], progress: Progress | None
    ) -> tuple[Latencies, dict[str, Any]]:
        measured = (m for _, one in self.loaded_results for m in one.measured if m.latency.joules or not self.energy)
        known = {(m.sha256, m.runtime): m.latency for m in measured}
        found = {t.name: known.get((sha256_file(t.path), t.runtime)) for t in targets}
        available = {name: replace(one, name=name) for name, one in found.items() if one is not None}
        if len(available) < len(found):
            raise UserError(
                self._write_offline_pack(targets, set(known), len(found) - len(available)), exit_code=PAUSED
            )
        return available, self.loaded_results[0][1].device if self.loaded_results else read_device_info()

    def _write_offline_pack(self, targets: Sequence[LatencyTarget], known: set[tuple[str, str]], missing: int) -> str:
        """Pack every file of the run that was not measured yet, so that one way there is enough; what to do with it."""
        targets_by_path = {Path(t.path): t for t in targets}
        others = [
            p for p in sorted(self.folder.glob("artefacts/**/*")) if {f.suffix for f in targets_by_path} >= {p.suffix}
        ]
        others = [p for p in others if p.is_file() and p not in targets_by_path]
        suffix_by_runtime = {r: f" on {r}" if len(self.bench.runtime) > 1 else "" for r in self.bench.runtime}
        more = (
            LatencyTarget(f"{p.relative_to(self.folder)}{runtime_suffix}", p, r)
            for p in others
            for r, runtime_suffix in suffix_by_runtime.items()
        )
        wanted = [*targets, *more]
        unmeasured = [t for t in wanted if (sha256_file(t.path), t.runtime) not in known]
        pack = write_atomic(self.folder / "carry.pyz", pack_files(unmeasured, self._benchmark_settings))
        absent = "".join(f" ({path} is not there yet)" for path in self.results if not path.exists())
        return (
            f"{missing} of {len(targets)} files have no measurement from the device{absent}. Carry {pack} there, run "
            f"`python3 {pack.name} --json RESULT.json`, bring RESULT.json back, and give it with --measurements "
            "RESULT.json (beside those of earlier ways): the same command goes on from here, and trains nothing twice"
        )


def make_device(
    bench: BenchmarkSettings,
    folder: Path,
    *,
    measurements: Sequence[Path] = (),
    python: str = "python3",
    energy: bool = False,
    cache_only: bool = False,
) -> Device:
    """Where a recipe's candidates are measured.

    Args:
        bench: The recipe's section; its `host` is not asked where there are measurements.
        folder: The run folder.
        measurements: Results that packs wrote on the device.
        python: The Python of `bench.host`.
        energy: Whether joules are measured as well.
        cache_only: Whether nothing may be measured.

    Raises:
        UsageError: The host is not a host's name.
        UserError: A result cannot be read, or they come from different devices.
    """
    if measurements:
        return OfflineDevice(bench, measurements, folder, energy=energy)
    cache_folder = folder / "measurements"
    if bench.host:
        host_folder = cache_folder / re.sub(r"[^\w.-]", "_", bench.host)
        return SshDevice(bench, bench.host, python, host_folder, energy=energy, cache_only=cache_only)
    return Device(bench, cache_folder / "here", energy=energy, cache_only=cache_only)
