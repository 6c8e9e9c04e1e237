"""What was measured in a run, kept so that it is not measured twice: one file for each sitting.

A sitting is files that were measured side by side. It serves again only as a whole, for files that were all in it:
milliseconds of two sittings are not mixed, because the machine may have been busier in one of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from skd_bench.benchmark.latency import LatencyResult, LatencyTarget
from skd_bench.benchmark.measurements import SCHEMA, DeviceMeasurements, MeasuredFile
from skd_bench.device.info import device_id
from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.remote.pack import MeasurementSettings


class MeasurementCache:
    """The sittings of a run on one device. Delete the folder to have everything measured anew.

    Args:
        folder: where they lie.
        settings: threads, processes, queries; other ones are another measurement. With energy, one without is none.
    """

    def __init__(self, folder: Path, settings: MeasurementSettings) -> None:
        self.folder, self.settings = folder, settings

    def find_session(
        self, targets: Sequence[LatencyTarget], device: str | None
    ) -> tuple[dict[str, LatencyResult], dict[str, Any]] | None:
        """Latencies of all targets from one sitting, and its device's card; None where no sitting has all of them.

        Args:
            targets: what is wanted.
            device: the id of the device it must have been; None: whichever it was.
        """
        keys = {t.name: (sha256_file(t.path), t.runtime) for t in targets}
        for path in sorted(self.folder.glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True):
            try:
                session = DeviceMeasurements.load(path)
            except UserError:  # cut off, or of another version: it is measured again
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
        self, targets: Sequence[LatencyTarget], latencies: dict[str, LatencyResult], info: dict[str, Any]
    ) -> None:
        """Keep a sitting."""
        measured = [MeasuredFile(sha256_file(t.path), t.runtime, latencies[t.name]) for t in targets]
        what = [device_id(info), self.settings.energy, sorted({(m.sha256, m.runtime) for m in measured})]
        name = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
        session = DeviceMeasurements(SCHEMA, "", info, measured=measured, session_count=1, **vars(self.settings))
        session.save(self.folder / f"{name}.json")
