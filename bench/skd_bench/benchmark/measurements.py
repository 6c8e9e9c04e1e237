"""The measurements of a pack: the latency of each file, identified by its sha256, and the device info."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.benchmark.latency import LatencyResult
from skd_bench.benchmark.results import BenchmarkResult
from skd_bench.device.info import DeviceInfo, device_id
from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_bench.runtimes.base import CompileOptions
from skd_bench.typed_json import parse_typed_json
from skd_bench.untrusted.json_file import read_json

SCHEMA = 1
_MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class MeasuredFile:
    """The latency of one file.

    Attributes:
        sha256: The file's sha256.
        runtime: The name of the runtime that ran it.
        latency: Its latency with all samples.
    """

    sha256: str
    runtime: str
    latency: LatencyResult


@dataclass(frozen=True)
class EncodedLogits:
    """A file's logits for the clips of a pack.

    Attributes:
        clips: Identifies the clips.
        shape: (N, C).
        data: float32, little-endian, as base64.
    """

    clips: str
    shape: list[int]
    data: str

    @classmethod
    def encode(cls, clips: str, logits: npt.NDArray[np.float32]) -> EncodedLogits:
        """The logits ``(N, C)`` of a file for the clips with this key."""
        return cls(clips, list(logits.shape), base64.b64encode(np.asarray(logits, "<f4").tobytes()).decode())

    def decode(self) -> npt.NDArray[np.float32]:
        """The logits ``(N, C)``.

        Raises:
            UserError: The data is damaged.
        """
        try:
            flat = np.frombuffer(base64.b64decode(self.data, validate=True), "<f4")
            return flat.reshape(self.shape).astype(np.float32)
        except ValueError as error:
            raise UserError(f"the logits in a device's result are damaged ({error}); measure again") from error


@dataclass(frozen=True)
class FileNote:
    """What a device found out about a file on a GPU, besides its latency.

    Attributes:
        sha256: The sha256 of the file that was sent.
        runtime: The name of the runtime.
        refused: Why the file cannot run there; None where it can.
        facts: What its session reported after one query: versions, GPU, engine, layers.
        logits: Its logits, where clips were sent.
        built: Whether its engine was compiled for this session, and not by an earlier one.
    """

    sha256: str
    runtime: str
    refused: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    logits: EncodedLogits | None = None
    built: bool = False


@dataclass(frozen=True)
class DeviceMeasurements:
    """Files measured in turns on one device.

    Attributes:
        schema: The version of this layout.
        pack: The first 12 digits of the pack's sha256.
        device: The device info (`skd_bench.device.info.read_device_info`).
        threads: Threads that a query could use.
        processes: Number of fresh processes.
        queries: Timed queries of each file in each process.
        session_count: Number of benchmark sessions; above 1 where the run was interrupted and continued.
        measured: The files and their latencies.
        bench: The result of `skd_bench.benchmark.benchmark.benchmark_bundle` where a bundle was packed, or None.
        energy: Whether energy was requested; the latencies then contain `joules`.
        gpu: The GPU that was requested (`MeasurementSettings.gpu`).
        seconds: The shortest time of a GPU target's queries in each process.
        warm_seconds: The shortest warm-up of a GPU target.
        notes: Of the files on a GPU.
        builds: Engines that were compiled from each file (`MeasurementSettings.builds`).
        build: The options that engines were compiled with (`CompileOptions.key`); old files have the defaults.
    """

    schema: int
    pack: str
    device: DeviceInfo
    threads: int
    processes: int
    queries: int
    session_count: int
    measured: list[MeasuredFile]
    bench: BenchmarkResult | None = None
    energy: bool = False
    gpu: str | None = None
    seconds: float = 1.0
    warm_seconds: float = 0.5
    notes: list[FileNote] = field(default_factory=list)
    builds: int = 1
    build: str = CompileOptions().key

    @property
    def device_id(self) -> str:
        """A hash that is equal where latencies may be compared (see `skd_bench.device.info.device_id`)."""
        return device_id(self.device)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back as equal measurements."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any, source: str) -> DeviceMeasurements:
        """Read an object that `to_json` returned.

        Args:
            data: The decoded JSON value.
            source: Where the value comes from, for error messages.

        Raises:
            UserError: The value is not an object of this layout, or its schema is newer than this version reads.
        """
        if isinstance(data, dict) and isinstance(data.get("schema"), int) and data["schema"] > SCHEMA:
            raise UserError(
                f"{source} has schema {data['schema']}, and this skd-edge reads schemas up to {SCHEMA}; "
                "upgrade skd-edge"
            )
        try:
            read: DeviceMeasurements = parse_typed_json(cls, data, "")
            _check_device_form(read.device)
        except ValueError as error:
            raise UserError(
                f"{source} does not contain the measurements of a pack: {error}; "
                "give the JSON file that `python PACK` wrote"
            ) from error
        return read

    def save(self, path: Path | str) -> Path:
        """Write the measurements as one JSON file, atomically and without indentation: most of it is samples.

        Returns:
            The path.

        Raises:
            UserError: The file cannot be written.
        """
        return write_atomic(path, json.dumps(self.to_json(), ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> DeviceMeasurements:
        """Read a file that `save` wrote.

        Raises:
            UserError: The file cannot be read, is larger than 256 MiB, or does not contain measurements of a pack.
        """
        try:
            data = read_json(path, max_bytes=_MAX_BYTES)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON: {error}; copy the file from the device again") from error
        return cls.from_json(data, str(path))


def check_same_device(reference: Mapping[str, Any], other: Mapping[str, Any], added: str) -> None:
    """Check that two device infos are of the same device, so that their latencies may be compared.

    Args:
        reference: The device info of the measurements that exist; like the other one, it may have been stored as JSON.
        other: The device info of the measurements to add.
        added: The start of the error message, such as "FILE was measured".

    Raises:
        UserError: The two differ in something that latency depends on; the message lists the differences.
    """
    if device_id(reference) == device_id(other):
        return
    keys = ("cpu", "cores_usable", "cpu_quota", "isa", "governor", "machine", "runtimes", "power_mode", "gpus")
    differ = [f"{k}: {reference.get(k)} and {other.get(k)}" for k in keys if reference.get(k) != other.get(k)]
    raise UserError(
        f"{added} on device {device_id(other)}, and the others on device {device_id(reference)}: "
        f"latencies of different devices cannot be compared. Differences: {'; '.join(differ)}. "
        "Measure all of them on one device"
    )


def _check_device_form(device: DeviceInfo) -> None:
    """Raise ValueError where the parts of a device that are compared do not have their form."""
    try:
        device_id(device)
    except (TypeError, AttributeError) as error:
        raise ValueError("'device' does not describe a device") from error
