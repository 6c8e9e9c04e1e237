"""The metadata of an engine file, and the checks before an engine is loaded.

An engine runs only on the GPU generations and with the exact version that it was built for. `NAME.engine.json` beside
`NAME.engine` contains this metadata. An engine without metadata, or one that does not fit the machine, is refused; the
message contains the command that builds it again. Two builds of one network may have different bytes (see
docs/engines.md), so the logits of an engine that was built again must be compared again.
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
    """The metadata of an engine: its source, its target, its tensors and the build.

    Attributes:
        schema: The version of this layout.
        state: "built, not run": the network could be parsed and compiled; its logits were not checked.
        runtime: "tensorrt" or "tensorrt-rtx".
        version: The library's version; other versions cannot load the engine.
        sms: The compute capabilities (times ten) it was built for, such as 86 for 8.6.
        sha256: The sha256 of the engine file.
        bytes: The size of the engine file.
        source: The name of the ONNX file.
        source_sha256: The sha256 of the ONNX file.
        input: The name of the clip's tensor.
        shape: (3, T, H, W) of one clip.
        dtype: The numpy name of the clip's type.
        output: The name of the logits' tensor.
        classes: The number of logits of one clip.
        batches: The smallest, best and largest batch size.
        layers: The number of layers of the parsed network, before fusion.
        flags: The builder flags that were on.
        workspace_bytes: Scratch memory on the GPU that a layer may use.
        version_compatible: Whether it contains host code, which runs when the engine is loaded.
        build_seconds: Seconds of the builder, without parsing.
        gpu: GPU and driver of the machine that built it; None on a machine without a GPU.
        ampere_plus: Whether it runs on every GPU from Ampere (80) on, and not only on `sms`.
        driver: The newest CUDA version that the driver of that machine supported (13020: 13.2); None without a GPU.
        precision: The narrowest type that its layers compute in: "fp32", "fp16", "bf16", "int8" or "fp8"; None in
            metadata of older versions.
        level: How long the builder searched, 0 to 5; None: its default.
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
    precision: str | None = None
    level: int | None = None

    def save(self, engine: Path) -> Path:
        """Write the metadata beside the engine, and return the path of the JSON file."""
        return write_json(metadata_path(engine), asdict(self))


@dataclass(frozen=True)
class TargetMachine:
    """A machine that is to load an engine.

    Attributes:
        runtime: "tensorrt" or "tensorrt-rtx".
        version: The installed version of that library.
        sm: The GPU's compute capability times ten.
        driver: The newest CUDA version that the driver supports (13020: 13.2); 0 where it is unknown.
    """

    runtime: str
    version: str
    sm: int
    driver: int = 0


def metadata_path(engine: Path) -> Path:
    """The path of an engine's metadata: `NAME.engine.json`."""
    return engine.with_name(engine.name + ".json")


def read_engine_metadata(engine: Path) -> EngineMetadata:
    """Read the metadata beside an engine, and check that the engine file was not changed since it was built.

    Raises:
        UserError: There is no metadata, it is malformed or has a newer schema, or the engine file has another sha256.
    """
    path = metadata_path(engine)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{engine} has no metadata file {path.name} beside it, which lists its GPUs and its version; "
            "build the engine with: skd-edge build FILE.onnx"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"the engine's metadata {path} cannot be read ({error}); build {engine.name} again") from error
    try:
        if isinstance(raw, dict) and isinstance(raw.get("schema"), int) and raw["schema"] > SCHEMA:
            raise ValueError(f"it has schema {raw['schema']}, and this skd-edge reads schemas up to {SCHEMA}")
        metadata: EngineMetadata = parse_typed_json(EngineMetadata, raw, "")
    except ValueError as error:
        raise UserError(f"{path} is not an engine's metadata: {error}; build {engine.name} again") from error
    if sha256_file(engine) != metadata.sha256:
        raise UserError(
            f"{engine} was changed or only partly copied after it was built; copy it again, or build it again: "
            f"{format_rebuild_command(metadata)}"
        )
    return metadata


def why_incompatible(
    metadata: EngineMetadata, engine: Path, machine: TargetMachine, *, allow_host_code: bool = False
) -> str | None:
    """Why a machine must not load an engine, with the command that builds one for it; None when the engine fits.

    Args:
        metadata: The engine's metadata.
        engine: The engine file, for the message.
        machine: The machine.
        allow_host_code: Whether engines that contain host code may be loaded.
    """
    rebuild_hint = (
        f"; build it for this machine: {format_rebuild_command(metadata, runtime=machine.runtime, sm=machine.sm)}"
    )
    if metadata.runtime != machine.runtime:
        return f"{engine} was built for {metadata.runtime}, not for {machine.runtime}{rebuild_hint}"
    if metadata.version_compatible and not allow_host_code:
        return (
            f"{engine} is version-compatible: it contains host code, which would run here when the engine is loaded; "
            f"allow it explicitly if you built the engine yourself{rebuild_hint}"
        )
    if metadata.version != machine.version and not metadata.version_compatible:
        versions = f"{metadata.runtime} {metadata.version}, and this machine has {machine.version}"
        return f"{engine} was built by {versions}{rebuild_hint}"
    if machine.driver and metadata.driver and machine.driver // 1000 < metadata.driver // 1000:
        return (
            f"{engine} was built with a driver for CUDA {metadata.driver // 1000}, and the driver here supports CUDA "
            f"{machine.driver // 1000}: update the driver{rebuild_hint}"
        )
    if machine.sm not in metadata.sms and not (metadata.ampere_plus and machine.sm >= 80):
        built = ", ".join(f"SM{sm}" for sm in metadata.sms)
        return f"{engine} was built for {built}, and this GPU is SM{machine.sm}{rebuild_hint}"
    return None


def format_rebuild_command(metadata: EngineMetadata, *, runtime: str | None = None, sm: int | None = None) -> str:
    """The command that builds the engine again from its ONNX file.

    Args:
        metadata: The engine's metadata.
        runtime: Another runtime to build for; None: the engine's own.
        sm: Another compute capability (times ten) to build for; None: those of the engine.
    """
    sms = [sm] if sm is not None else metadata.sms
    options = ["--runtime", runtime or metadata.runtime, *(word for s in sms for word in ("--sm", str(s)))]
    return shlex.join(["skd-edge", "build", metadata.source, *options])
