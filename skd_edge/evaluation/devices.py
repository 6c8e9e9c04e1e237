"""The device that candidates are measured on: this machine, one behind ssh, or one without a network connection.

A choice only compares latencies that were measured on the same device.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from skd_bench.benchmark import latency
from skd_bench.benchmark.latency import LatencyResult, LatencyTarget, MeasurementSettings
from skd_bench.benchmark.measurement_checks import check_measurements
from skd_bench.benchmark.measurements import DeviceMeasurements, check_same_device
from skd_bench.device.info import DeviceInfo, device_id, read_device_info
from skd_bench.errors import EXIT_PAUSED, UserError
from skd_bench.files import sha256_file, write_atomic
from skd_bench.remote import runner as remote
from skd_bench.remote.pack import pack_files
from skd_bench.remote.ssh import check_host
from skd_edge.evaluation.measurement_cache import MeasurementCache
from skd_edge.recipe.sections import BenchmarkSettings

Progress = Callable[[int, int], None]
Latencies = dict[str, LatencyResult]


class Device:
    """This machine.

    Attributes:
        name: The device's name in messages.
        is_local: Whether it is the machine that this process runs on.

    Args:
        bench: The recipe's section ``bench``.
        cache_folder: Folder of the stored sessions (see `MeasurementCache`); None: everything is measured again.
        energy: Whether energy is measured as well.
        cache_only: Whether only stored sessions may be used; nothing is measured then.
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
        self._device_info: DeviceInfo | None = None

    @property
    def device_info(self) -> DeviceInfo:
        """The device info (see `skd_bench.device.info`); that of this machine as long as nothing was measured."""
        return self._device_info or read_device_info()

    @property
    def int8_saturates(self) -> bool:
        """Whether 8-bit weights saturate on the device: x86 without VNNI. False as long as nothing was measured."""
        info = self._device_info
        if info is None:
            return False
        x86 = str(info.get("machine", "")).lower() in {"x86_64", "amd64", "i386", "i686"}
        return x86 and not {"avx_vnni", "avx512_vnni"} & set(info.get("isa", ()))

    def measure_latency(self, targets: Sequence[LatencyTarget], progress: Progress | None = None) -> Latencies:
        """The latency of each target by its name, all from one session: a new one, or a stored one with all targets.

        Args:
            targets: The files to measure, and the runtime of each.
            progress: Called with the numbers of finished and of all steps.

        Raises:
            UserError: The targets cannot be measured, or the device is not the one of the earlier measurements.
        """
        cached = (
            self.measurement_cache.find_session(targets, device_id(read_device_info()) if self.is_local else None)
            if self.measurement_cache
            else None
        )
        if cached is None and self.cache_only:
            what = "joules" if self.energy else "measurement"
            raise UserError(
                f"the run holds no {what} of all {len(targets)} files in one session on {self.name}; repeat the "
                "skd-edge compress command (finished jobs are not trained again), then choose"
            )
        found, info = cached or self._measure_uncached(targets, progress)
        if self.measurement_cache and cached is None:
            self.measurement_cache.save_session(targets, found, info)
        check_same_device(self._device_info or info, info, "these files were measured")
        self._device_info = self._device_info or info
        return found

    def _measure_uncached(
        self, targets: Sequence[LatencyTarget], progress: Progress | None
    ) -> tuple[Latencies, DeviceInfo]:
        info = read_device_info()
        # Peak memory needs a process for each target, and the report of a run does not show it (`skd-edge bench` does).
        return latency.measure_latency(targets, self._benchmark_settings, memory=False, progress=progress), info

    @property
    def _benchmark_settings(self) -> MeasurementSettings:
        return MeasurementSettings(self.bench.threads, self.bench.processes, self.bench.queries, self.energy)


class SshDevice(Device):
    """A machine that ssh can reach: ``bench.host`` of the recipe.

    Args:
        bench: The recipe's section ``bench``.
        host: The host as ssh accepts it.
        python: The Python to run on the host.
        cache_folder: See `Device`.
        energy: See `Device`.
        cache_only: See `Device`.

    Raises:
        UsageError: ``host`` is not a valid host name.
    """

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
    ) -> tuple[Latencies, DeviceInfo]:
        ssh = remote.SshTarget(self.name, self.python)
        return remote.measure_remote_latency(targets, ssh, self._benchmark_settings, progress=progress)


class OfflineDevice(Device):
    """A machine without a connection: a person copies a pack to it, runs the pack, and brings back its results.

    Args:
        bench: The recipe's section ``bench``.
        results: Result files of packs that ran on the device; a file that does not exist yet counts as empty.
        folder: The run folder; a pack of the files that are not measured yet is written there.
        energy: Whether results without energy are ignored.

    Raises:
        UserError: A result file cannot be read, contains an impossible value, was measured with other threads than the
            recipe's, or on another device.
    """

    name, is_local = "the device of --measurements", False

    def __init__(
        self, bench: BenchmarkSettings, results: Sequence[Path], folder: Path, *, energy: bool = False
    ) -> None:
        super().__init__(bench, energy=energy)
        self.results, self.folder = results, folder
        self.loaded_results = [(path, DeviceMeasurements.load(path)) for path in results if path.exists()]
        for path, one in self.loaded_results:
            check_measurements(one, str(path))
            check_same_device(self.loaded_results[0][1].device, one.device, f"{path} was measured")
            if one.threads != bench.threads:
                raise UserError(
                    f"{path} was measured with {one.threads} threads, but the recipe has bench.threads: "
                    f"{bench.threads}; change bench.threads, or measure again"
                )

    def _measure_uncached(
        self, targets: Sequence[LatencyTarget], progress: Progress | None
    ) -> tuple[Latencies, DeviceInfo]:
        measured = (m for _, one in self.loaded_results for m in one.measured if m.latency.joules or not self.energy)
        known = {(m.sha256, m.runtime): m.latency for m in measured}
        found = {t.name: known.get((sha256_file(t.path), t.runtime)) for t in targets}
        available = {name: replace(one, name=name) for name, one in found.items() if one is not None}
        if len(available) < len(found):
            raise UserError(
                self._write_offline_pack(targets, set(known), len(found) - len(available)), exit_code=EXIT_PAUSED
            )
        return available, self.loaded_results[0][1].device if self.loaded_results else read_device_info()

    def _write_offline_pack(self, targets: Sequence[LatencyTarget], known: set[tuple[str, str]], missing: int) -> str:
        """Pack every file of the run that was not measured yet; returns a message that says what to do with the pack.

        The pack also has files that are not needed yet, so that one trip to the device is enough.
        """
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
            f"`python3 {pack.name} --json RESULT.json`, bring RESULT.json back, and repeat the command with "
            "--measurements RESULT.json (in addition to those of earlier trips); it continues from here, and finished "
            "jobs are not trained again"
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
    """The device that a recipe's candidates are measured on.

    Args:
        bench: The recipe's section ``bench``; its ``host`` is ignored if there are ``measurements``.
        folder: The run folder.
        measurements: Result files of packs that ran on the device.
        python: The Python to run on ``bench.host``.
        energy: Whether energy is measured as well.
        cache_only: Whether only stored sessions may be used.

    Raises:
        UsageError: ``bench.host`` is not a valid host name.
        UserError: A result file cannot be used; see `OfflineDevice`.
    """
    if measurements:
        return OfflineDevice(bench, measurements, folder, energy=energy)
    cache_folder = folder / "measurements"
    if bench.host:
        host_folder = cache_folder / re.sub(r"[^\w.-]", "_", bench.host)
        return SshDevice(bench, bench.host, python, host_folder, energy=energy, cache_only=cache_only)
    return Device(bench, cache_folder / "here", energy=energy, cache_only=cache_only)
