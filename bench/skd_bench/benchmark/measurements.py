"""What a pack brings home from a device: the latency of each file, known by its bytes, and the device's card."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skd_bench.benchmark.latency import LatencyResult
from skd_bench.device.info import device_id
from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_bench.typed_json import parse_typed_json

SCHEMA = 1
_MAX_BYTES = 1 << 28

# As `latency.measure_latency` is called: (targets, threads=, processes=, queries=, progress=) to latencies by name.
MeasureFunction = Callable[..., dict[str, LatencyResult]]


@dataclass(frozen=True)
class MeasuredFile:
    """The latency of one file.

    Attributes:
        sha256: Of the file.
        runtime: The name of the runtime that ran it.
        latency: With every sample.
    """

    sha256: str
    runtime: str
    latency: LatencyResult


@dataclass(frozen=True)
class DeviceMeasurements:
    """Files measured side by side on one device.

    Attributes:
        schema: The version of this layout.
        pack: The first digits of the pack's sha256.
        device: The card (`device.device_card`).
        threads: Threads a query may use.
        processes: Fresh processes.
        queries: Timed queries for each file in each process.
        session_count: How often the run was begun; above 1 where it broke off and went on.
        measured: Every file.
        bench: The result of `measure.bench_bundle` where a bundle was packed, or None.
        energy: Whether joules were asked for: `latency` has them.
    """

    schema: int
    pack: str
    device: dict[str, Any]
    threads: int
    processes: int
    queries: int
    session_count: int
    measured: list[MeasuredFile]
    bench: dict[str, Any] | None = None
    energy: bool = False

    @property
    def device_id(self) -> str:
        """What must be equal for two latencies to be compared (`device.device_id`)."""
        return device_id(self.device)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; `from_json` reads them back to equal measurements."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any, source: str) -> DeviceMeasurements:
        """Read what `to_json` gave.

        Args:
            data: What ``json.loads`` gave.
            source: Where it comes from, for messages.

        Raises:
            UserError: It is something else, or of a newer version.
        """
        if isinstance(data, dict) and isinstance(data.get("schema"), int) and data["schema"] > SCHEMA:
            raise UserError(f"{source} has schema {data['schema']} and this skd-edge reads up to {SCHEMA}; upgrade it")
        try:
            read: DeviceMeasurements = parse_typed_json(cls, data, "")
        except ValueError as error:
            raise UserError(
                f"{source} holds no measurements of a pack: {error}; give the JSON file that `python PACK` wrote"
            ) from error
        return read

    def save(self, path: Path | str) -> Path:
        """Write one JSON file, atomically; no indentation, because most of it is samples.

        Raises:
            UserError: The file cannot be written.
        """
        return write_atomic(path, json.dumps(self.to_json(), ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> DeviceMeasurements:
        """Read what `save` wrote.

        Raises:
            UserError: There is no such file, or it holds something else.
        """
        try:
            if Path(path).stat().st_size > _MAX_BYTES:
                raise UserError(f"{path} is larger than {_MAX_BYTES >> 20} MiB; no measurements are")
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is no JSON: {error}; bring the file from the device again, whole") from error
        return cls.from_json(data, str(path))


def check_same_device(reference: dict[str, Any], other: dict[str, Any], added: str) -> None:
    """Latencies of two devices are not compared.

    Args:
        reference: The card that counts.
        other: The card of what is added.
        added: What is added, for the message.

    Raises:
        UserError: The cards differ in what latency depends on; says in what.
    """
    if device_id(reference) == device_id(other):
        return
    keys = ("cpu", "cores_usable", "cpu_quota", "isa", "governor", "machine", "runtimes", "gpus")
    differ = [f"{k}: {reference.get(k)} and {other.get(k)}" for k in keys if reference.get(k) != other.get(k)]
    raise UserError(
        f"{added} on device {device_id(other)}, and the others on device {device_id(reference)}: milliseconds of different "
        f"devices are not compared. What differs: {'; '.join(differ)}. Measure all of them on one device"
    )
