"""Stores the benchmark sessions of a run, one file for each, so that nothing is measured twice.

The files of one session were measured at the same time, in turns. Latencies of different sessions are never combined,
because the machine may have been busier in one of them. A stored session is therefore used only if it has all files
that are needed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from skd_bench.benchmark.latency import LatencyResult, LatencyTarget, MeasurementSettings
from skd_bench.benchmark.measurements import SCHEMA, DeviceMeasurements, FileNote, MeasuredFile
from skd_bench.device.info import DeviceInfo, device_id
from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.integrity.checked_files import DamagedFileError, read_checked_json, report_damage, write_checked_json
from skd_bench.runtimes import uses_gpu
from skd_bench.runtimes.base import CompileOptions

_SESSION_FILE = re.compile(r"[0-9a-f]{16}\.json")


@dataclass(frozen=True)
class MeasuredSession:
    """What was measured on a device in one session.

    Attributes:
        latency: by the target's name; targets that cannot run are missing.
        info: the device info.
        notes: of the files on a GPU.
    """

    latency: Mapping[str, LatencyResult]
    info: DeviceInfo
    notes: tuple[FileNote, ...] = ()


class MeasurementCache:
    """The stored sessions of a run on one device. Delete the folder to measure everything again.

    Args:
        folder: the folder of the sessions.
        settings: threads, processes and queries; sessions with other settings are ignored. If they include energy,
            sessions without energy are ignored too.
        build: how engines are compiled; sessions of engines that were compiled otherwise are ignored.
    """

    def __init__(self, folder: Path, settings: MeasurementSettings, build: CompileOptions | None = None) -> None:
        self.folder, self.settings, self.build = folder, settings, build or CompileOptions()

    def find_session(
        self, targets: Sequence[LatencyTarget], device: str | None, *, refusals: bool = False
    ) -> MeasuredSession | None:
        """The newest stored session that has all targets.

        Args:
            targets: the files and the runtime of each; a file is recognised by its hash, whatever its name.
            device: id of the device that the session must come from; None: any device.
            refusals: whether a target that could not run counts as measured; else it is tried again.

        Returns:
            The session; None if no session has all targets.
        """
        keys = {t.name: (sha256_file(t.path), t.runtime) for t in targets}
        for path in self._list_newest_first():
            try:
                session = DeviceMeasurements.from_json(read_checked_json(path), str(path))
            except DamagedFileError as error:
                report_damage(error, "these files are measured again")
                path.unlink(missing_ok=True)
                continue
            except (FileNotFoundError, UserError):  # replaced by another process, or of another version
                continue
            known = {(m.sha256, m.runtime): m.latency for m in session.measured}
            same_settings = replace(self.settings, energy=False, builds=1) == MeasurementSettings(
                session.threads,
                session.processes,
                session.queries,
                gpu=session.gpu,
                seconds=session.seconds,
                warm_seconds=session.warm_seconds,
            )
            if any(uses_gpu(t.runtime) for t in targets):
                same_settings &= (session.build, session.builds) == (self.build.key, self.settings.builds)
            same_settings &= session.energy or not self.settings.energy
            refused = {(note.sha256, note.runtime) for note in session.notes if note.refused}
            usable = set(known) | refused if refusals else set(known) - refused
            if same_settings and set(keys.values()) <= usable and device in (None, session.device_id):
                found = {name: replace(known[key], name=name) for name, key in keys.items() if key in known}
                return MeasuredSession(found, session.device, tuple(session.notes))
        return None

    def _list_newest_first(self) -> list[Path]:
        """The files of sessions; others in the folder are left alone."""
        times: dict[Path, int] = {}
        for path in self.folder.glob("*.json"):
            with suppress(FileNotFoundError):  # another process has removed it in the meantime
                if _SESSION_FILE.fullmatch(path.name):
                    times[path] = path.stat().st_mtime_ns
        return sorted(times, key=times.__getitem__, reverse=True)

    def save_session(self, targets: Sequence[LatencyTarget], session: MeasuredSession) -> None:
        """Store a session; a stored session of the same files on the same device is replaced.

        Args:
            targets: the files.
            session: what was measured; logits are not stored here, nor that an engine was new.
        """
        measured = [
            MeasuredFile(sha256_file(t.path), t.runtime, session.latency[t.name])
            for t in targets
            if t.name in session.latency
        ]
        info, notes = session.info, [replace(note, logits=None, built=False) for note in session.notes]
        what = [device_id(info), self.settings.energy, sorted({(m.sha256, m.runtime) for m in measured})]
        name = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
        stored = DeviceMeasurements(
            SCHEMA,
            "",
            info,
            measured=measured,
            session_count=1,
            notes=notes,
            build=self.build.key,
            **vars(self.settings),
        )
        write_checked_json(self.folder / f"{name}.json", stored.to_json())
