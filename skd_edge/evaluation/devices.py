"""The device that candidates are measured on: this machine, one behind ssh, or one without a network connection.

A choice only compares latencies that were measured on the same device.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.benchmark.engines.device_job import (
    PreparedTargets,
    ScoringClips,
)
from skd_bench.benchmark.latency import LatencyTarget
from skd_bench.benchmark.measurements import DeviceMeasurements, FileNote, check_same_device
from skd_bench.device.info import read_device_info
from skd_bench.errors import EXIT_PAUSED, UserError
from skd_bench.files import sha256_file, write_atomic
from skd_bench.remote import runner as remote
from skd_bench.remote.pack import pack_files
from skd_bench.remote.ssh import check_host
from skd_bench.runtimes import uses_gpu
from skd_edge.evaluation.local_device import Device, DeviceFile, Latencies, Progress
from skd_edge.evaluation.measurement_cache import MeasuredSession
from skd_edge.evaluation.measurement_checks import check_measurements, check_settings
from skd_edge.recipe.sections import BenchmarkSettings
from skd_edge.schedule.candidates import why_file_unrunnable


class _DeviceElsewhere(Device, ABC):
    """A device that gets files in packs: there they are compiled, measured and scored by the same functions as here."""

    is_local = False

    def prepare_file(self, path: Path, runtime: str) -> dict[str, Any]:
        """The facts of a file that was measured there; others are compiled when they are scored."""
        return self.find_facts(path, runtime)

    def compute_logits(self, path: Path, runtime: str, clips: ScoringClips) -> NDArray[np.float32]:
        """A file's logits ``(N, C)`` as the device answers: see `Device.compute_logits`."""
        if reason := self.score_files([(path, runtime)], clips).get((path, runtime)):
            raise UserError(f"{path} on {runtime} cannot be scored on {self.name}: {reason}")
        return self._logits[path, runtime, clips.key]

    def score_files(self, files: Sequence[DeviceFile], clips: ScoringClips) -> dict[DeviceFile, str]:
        """Score several files in one pack; files whose logits are known are left out.

        Returns:
            Why files cannot be scored.

        Raises:
            UserError: The device cannot be reached, waits for a person, or does not send logits.
        """
        missing = [(path, runtime) for path, runtime in files if (path, runtime, clips.key) not in self._logits]
        if not missing:
            return {}
        targets = [self._choose_launch(LatencyTarget(f"{p} on {r}", p, r)) for p, r in missing]
        reasons = self._read_notes(targets, self._score_elsewhere(targets, clips))
        refused = {
            file: reasons[target.name] for file, target in zip(missing, targets, strict=True) if target.name in reasons
        }
        for path, runtime in missing:
            if (path, runtime, clips.key) not in self._logits and (path, runtime) not in refused:
                raise UserError(f"{self.name} sent no logits of {path.name} on {runtime}; measure again")
        return refused

    def _prepare(
        self, targets: Sequence[LatencyTarget], progress: Progress | None, *, may_compile: bool
    ) -> PreparedTargets:
        return PreparedTargets({t.name: self._choose_launch(t) for t in targets}, {}, {})

    @abstractmethod
    def _score_elsewhere(self, targets: Sequence[LatencyTarget], clips: ScoringClips) -> Sequence[FileNote]:
        """Have the targets scored there; their logits go to `_logits`, and the notes are returned."""


class SshDevice(_DeviceElsewhere):
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
        self, targets: Sequence[LatencyTarget], progress: Progress | None, clips: ScoringClips | None
    ) -> MeasuredSession:
        found, measured = self._run_there(targets, clips, progress)
        return MeasuredSession(found, measured.device, tuple(measured.notes))

    def _score_elsewhere(self, targets: Sequence[LatencyTarget], clips: ScoringClips) -> Sequence[FileNote]:
        _, measured = self._run_there(targets, clips, latency=False)
        check_same_device(self._device_info or measured.device, measured.device, "these files were scored")
        return measured.notes

    def _run_there(
        self,
        targets: Sequence[LatencyTarget],
        clips: ScoringClips | None,
        progress: Progress | None = None,
        *,
        latency: bool = True,
    ) -> tuple[Latencies, DeviceMeasurements]:
        """See `measure_remote_latency`; what the device reports is checked like a file that a person carried.

        Raises:
            UserError: The device cannot be reached or used, or reports something that cannot be.
        """
        found, measured = remote.measure_remote_latency(
            targets,
            remote.SshTarget(self.name, self.python),
            self._benchmark_settings,
            build=self.compile_options,
            clips=clips,
            latency=latency,
            progress=progress,
        )
        source = f"the result from {self.name}"
        check_measurements(measured, source)
        check_settings(measured, self._benchmark_settings, self.compile_options, source)
        return found, measured


class OfflineDevice(_DeviceElsewhere):
    """A machine without a connection: a person copies a pack to it, runs the pack, and brings back its results.

    Args:
        bench: The recipe's section ``bench``.
        results: Result files of packs that ran on the device; a file that does not exist yet counts as empty.
        folder: The run folder; a pack of the files that are not measured yet is written there.
        energy: Whether results without energy are ignored.

    Raises:
        UserError: A result file cannot be read, contains an impossible value, was measured with other threads than the
            recipe's, or on another device, or its engines are of another GPU or of other build options.
    """

    name = "the device of --measurements"

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
            self._check_engines(one, path)

    def _check_engines(self, one: DeviceMeasurements, path: Path) -> None:
        """Check that a result's engines, if it has any, are of the recipe's GPU and build options.

        Raises:
            UserError: They are not.
        """
        runtimes = {file.runtime for file in one.measured} | {note.runtime for note in one.notes}
        if not any(map(uses_gpu, runtimes)):
            return
        if one.gpu != self.bench.device:
            raise UserError(
                f"{path} was measured on the GPU {one.gpu or '(not given)'!r}, but the recipe has bench.device: "
                f"{self.bench.device}; change bench.device, or measure again"
            )
        if (one.build, one.builds) != (self.compile_options.key, self.bench.build.builds):
            raise UserError(
                f"{path} has engines that were compiled with other options than the recipe's bench.build; change "
                "bench.build, or measure again"
            )

    def _measure_uncached(
        self, targets: Sequence[LatencyTarget], progress: Progress | None, clips: ScoringClips | None
    ) -> MeasuredSession:
        measured = (m for _, one in self.loaded_results for m in one.measured if m.latency.joules or not self.energy)
        known = {(m.sha256, m.runtime): m.latency for m in measured}
        notes = [note for _, one in self.loaded_results for note in one.notes]
        refused = {(note.sha256, note.runtime) for note in notes if note.refused}
        keys = {t.name: (sha256_file(t.path), t.runtime) for t in targets}
        available = {name: replace(known[key], name=name) for name, key in keys.items() if key in known}
        if missing := [name for name, key in keys.items() if key not in known and key not in refused]:
            raise UserError(
                self._write_offline_pack(targets, {*known, *refused}, len(missing), clips), exit_code=EXIT_PAUSED
            )
        info = self.loaded_results[0][1].device if self.loaded_results else read_device_info()
        return MeasuredSession(available, info, tuple(notes))

    def _score_elsewhere(self, targets: Sequence[LatencyTarget], clips: ScoringClips) -> Sequence[FileNote]:
        scored = [
            note
            for _, one in self.loaded_results
            for note in one.notes
            if note.refused or (note.logits is not None and note.logits.clips == clips.key)
        ]
        known = {(note.sha256, note.runtime) for note in scored}
        missing = [t for t in targets if (sha256_file(t.path), t.runtime) not in known]
        if not missing:
            return scored
        settings = self._benchmark_settings
        data = pack_files(missing, settings, build=self.compile_options, clips=clips, latency=False)
        pack = write_atomic(self.folder / "carry.pyz", data)
        raise UserError(
            f"{len(missing)} files on a GPU have no logits from the device for these clips. {_format_trip(pack)}",
            exit_code=EXIT_PAUSED,
        )

    def _write_offline_pack(
        self,
        targets: Sequence[LatencyTarget],
        known: set[tuple[str, str]],
        missing: int,
        clips: ScoringClips | None = None,
    ) -> str:
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
            self._choose_launch(LatencyTarget(f"{p.relative_to(self.folder)}{runtime_suffix}", p, r))
            for p in others
            for r, runtime_suffix in suffix_by_runtime.items()
            if why_file_unrunnable(p.name, r) is None
        )
        wanted = [*targets, *more]
        unmeasured = [t for t in wanted if (sha256_file(t.path), t.runtime) not in known]
        data = pack_files(unmeasured, self._benchmark_settings, build=self.compile_options, clips=clips)
        pack = write_atomic(self.folder / "carry.pyz", data)
        absent = "".join(f" ({path} is not there yet)" for path in self.results if not path.exists())
        return f"{missing} of {len(targets)} files have no measurement from the device{absent}. {_format_trip(pack)}"


def _format_trip(pack: Path) -> str:
    return (
        f"Carry {pack} there, run `python3 {pack.name} --json RESULT.json`, bring RESULT.json back, and repeat the "
        "command with --measurements RESULT.json (in addition to those of earlier trips); it continues from here, and "
        "finished jobs are not trained again"
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
