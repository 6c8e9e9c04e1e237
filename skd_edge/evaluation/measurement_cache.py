"""Stores the benchmark sessions of a run, one file for each, so that nothing is measured twice.

The files of one session were measured at the same time, in turns. Latencies of different sessions are never combined,
because the machine may have been busier in one of them. A stored session is therefore used only if it has all files
that are needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from skd_bench.benchmark.latency import LatencyResult, LatencyTarget, MeasurementSettings
from skd_bench.benchmark.measurements import SCHEMA, DeviceMeasurements, MeasuredFile
from skd_bench.device.info import DeviceInfo, device_id
from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.integrity.checked_files import DamagedFileError, read_checked_json, report_damage, write_checked_json


class MeasurementCache:
    """The stored sessions of a run on one device. Delete the folder to measure everything again.

    Args:
        folder: the folder of the sessions.
        settings: threads, processes and queries; sessions with other settings are ignored. If they include energy,
            sessions without energy are ignored too.
    """

    def __init__(self, folder: Path, settings: MeasurementSettings) -> None:
        self.folder, self.settings = folder, settings

    def find_session(
        self, targets: Sequence[LatencyTarget], device: str | None
    ) -> tuple[dict[str, LatencyResult], DeviceInfo] | None:
        """The newest stored session that has all targets.

        Args:
            targets: the files and the runtime of each; a file is recognised by its hash, whatever its name.
            device: id of the device that the session must come from; None: any device.

        Returns:
            The latency of each target by its name, and the device info; None if no session has all targets.
        """
        keys = {t.name: (sha256_file(t.path), t.runtime) for t in targets}
        for path in sorted(self.folder.glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True):
            try:
                session = DeviceMeasurements.from_json(read_checked_json(path), str(path))
            except DamagedFileError as error:
                report_damage(error, "these files are measured again")
                path.unlink()
                continue
            except UserError:  # of another version: measured again
                continue
            known = {(m.sha256, m.runtime): m.latency for m in session.measured}
            same_settings = replace(self.settings, energy=False) == MeasurementSettings(
                session.threads, session.processes, session.queries
            )
            same_settings &= session.energy or not self.settings.energy
            if same_settings and set(keys.values()) <= set(known) and device in (None, session.device_id):
                return {name: replace(known[key], name=name) for name, key in keys.items()}, session.device
        return None

    def save_session(
        self, targets: Sequence[LatencyTarget], latencies: dict[str, LatencyResult], info: DeviceInfo
    ) -> None:
        """Store a session; a stored session of the same files on the same device is replaced.

        Args:
            targets: the measured files.
            latencies: the latency of each target by its name.
            info: the device info.
        """
        measured = [MeasuredFile(sha256_file(t.path), t.runtime, latencies[t.name]) for t in targets]
        what = [device_id(info), self.settings.energy, sorted({(m.sha256, m.runtime) for m in measured})]
        name = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
        session = DeviceMeasurements(SCHEMA, "", info, measured=measured, session_count=1, **vars(self.settings))
        write_checked_json(self.folder / f"{name}.json", session.to_json())
