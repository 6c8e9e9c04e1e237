"""What is known about an engine file, and when it must not be loaded.

An engine is good for the GPU generations and the very version it was built for. Beside `NAME.engine` lies
`NAME.engine.json`: an engine without it, or one that does not fit this machine, is refused with the command that
builds it anew. Parity belongs to a file's hash, and builds of one network need not give the same bytes (docs/engines.md
counts them): an engine that was built again is to be compared again.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

from skd_bench.errors import UserError
from skd_bench.files import sha256_file, write_json
from skd_bench.typed_json import parse_typed_json

SCHEMA = 1
STATE_BUILT = "built, not run"


@dataclass(frozen=True)
class EngineMetadata:
    """What was built, from what, with what.

    Attributes:
        schema: The version of this layout.
        state: "built, not run": building proves that a network parses and compiles, and nothing about its answers.
        runtime: "tensorrt" or "tensorrt-rtx".
        version: Of that library; an engine is refused by any other.
        sms: Compute capabilities times ten, e.g. 86 for 8.6.
        sha256: Of the engine's bytes.
        bytes: Its size.
        source: The name of the ONNX file.
        source_sha256: Its hash.
        input: Name of the clip's tensor.
        shape: (3, T, H, W) of one clip.
        dtype: Of the clip, a numpy name.
        output: Name of the logits' tensor.
        classes: Logits of one clip.
        batches: Smallest, best and largest batch it takes.
        layers: Layers of the parsed network, before fusing.
        flags: Builder flags that were on.
        workspace_bytes: Scratch memory that the builder was allowed.
        version_compatible: It embeds host code, which runs when it is loaded.
        build_seconds: Wall clock of the builder alone.
        gpu: GPU and driver of the machine that built it; None where there was none.
        ampere_plus: It runs on every GPU from Ampere (80) on, not on `sms` alone.
        driver: The newest CUDA that the driver spoke there (13020: 13.2); None where there was none.
    """

    schema: int
    state: str
    runtime: str
    version: str
    sms: list[int]
    sha256: str
    bytes: int
    source: str
    source_sha256: str
    input: str
    shape: list[int]
    dtype: str
    output: str
    classes: int
    batches: list[int]
    layers: int
    flags: list[str]
    workspace_bytes: int
    version_compatible: bool
    build_seconds: float
    gpu: str | None
    ampere_plus: bool = False
    driver: int | None = None

    def save(self, engine: Path) -> Path:
        """Write it beside the engine."""
        return write_json(metadata_path(engine), asdict(self))


@dataclass(frozen=True)
class TargetMachine:
    """What an engine would meet: the runtime's version, the GPU's compute capability times ten, the driver's CUDA.

    A driver of 0 is one that nobody asked.
    """

    runtime: str
    version: str
    sm: int
    driver: int = 0


def metadata_path(engine: Path) -> Path:
    """`NAME.engine.json`."""
    return engine.with_name(engine.name + ".json")


def read_engine_metadata(engine: Path) -> EngineMetadata:
    """The note beside an engine whose bytes are those it was built with.

    Raises:
        UserError: There is no note, it is malformed or of a newer version, or the engine's bytes are others.
    """
    path = metadata_path(engine)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{engine} has no note {path.name} beside it, which says for which GPU and version it was built; "
            "build it with: skd-edge build FILE.onnx"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"the note {path} cannot be read ({error}); build {engine.name} again") from error
    try:
        if isinstance(raw, dict) and isinstance(raw.get("schema"), int) and raw["schema"] > SCHEMA:
            raise ValueError(f"it is of schema {raw['schema']} and this skd-edge reads up to {SCHEMA}")
        metadata: EngineMetadata = parse_typed_json(EngineMetadata, raw, "")
    except ValueError as error:
        raise UserError(f"the note {path} is no note about an engine: {error}; build {engine.name} again") from error
    if sha256_file(engine) != metadata.sha256:
        raise UserError(
            f"{engine} has other bytes than were built (changed, or half copied); copy it again, or: "
            f"{format_rebuild_command(metadata)}"
        )
    return metadata


def why_incompatible(
    metadata: EngineMetadata, engine: Path, machine: TargetMachine, *, allow_host_code: bool = False
) -> str | None:
    """Why this engine must not be loaded there, with the command that builds a fitting one; None when it fits."""
    rebuild_hint = (
        f"; build it for this machine: {format_rebuild_command(metadata, runtime=machine.runtime, sm=machine.sm)}"
    )
    if metadata.runtime != machine.runtime:
        return f"{engine} is an engine of {metadata.runtime}, not of {machine.runtime}{rebuild_hint}"
    if metadata.version_compatible and not allow_host_code:
        return (
            f"{engine} is version-compatible: it embeds host code that would run here when it is loaded; allow it "
            f"explicitly if you built it{rebuild_hint}"
        )
    if metadata.version != machine.version and not metadata.version_compatible:
        return f"{engine} was built by {metadata.runtime} {metadata.version} and this machine has {machine.version}{rebuild_hint}"
    if machine.driver and metadata.driver and machine.driver // 1000 < metadata.driver // 1000:
        return (
            f"{engine} was built under a driver for CUDA {metadata.driver // 1000} and the driver here speaks CUDA "
            f"{machine.driver // 1000}: update the driver{rebuild_hint}"
        )
    if machine.sm not in metadata.sms and not (metadata.ampere_plus and machine.sm >= 80):
        built = ", ".join(f"SM{sm}" for sm in metadata.sms)
        return f"{engine} was built for {built} and this GPU is SM{machine.sm}{rebuild_hint}"
    return None


def format_rebuild_command(metadata: EngineMetadata, *, runtime: str | None = None, sm: int | None = None) -> str:
    """The command line that makes the engine anew from its ONNX file."""
    sms = [sm] if sm is not None else metadata.sms
    options = ["--runtime", runtime or metadata.runtime, *(word for s in sms for word in ("--sm", str(s)))]
    return shlex.join(["skd-edge", "build", metadata.source, *options])
