"""What a bundle says about itself: ``manifest.json`` as frozen plain dataclasses.

The manifest is read on devices, from folders that came over a network: nothing in it is trusted. A key that is
missing, unknown or of another type, a file name that climbs out of the bundle and a newer schema are refused.

The manifest and the files whose hashes it holds are the payload: one run gives the same bytes each time. What was
measured differs from one time to the next, so it lies beside the payload, in ``measured.json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from skd_bench.errors import UserError
from skd_bench.files import write_json
from skd_bench.typed_json import parse_typed_json
from skd_bench.video.types import Preprocessing, Sampling

Precision = Literal["fp32", "fp16", "int8", "int8-trt"]
InputContract = Literal["float_clip", "uint8_frames"]
SCHEMA = 1
MANIFEST_FILE, MEASURED_FILE = "manifest.json", "measured.json"
_MAX_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Artefact:
    """One model file of a bundle.

    Attributes:
        file: Its path inside the bundle, with forward slashes.
        sha256: 64 lower-case hexadecimal digits.
        bytes: Its size.
        precision: What its numbers are.
        runtime: The name of the runtime it is for.
        student: The network it was exported from.
        path: The cascade that trained it: names from the teacher to the student.
        options: What belongs to the file and is not in it, e.g. ``{"optimisation": "all"}``.
        parity: How its answers differ from the trained network's (`skd_export.analysis.parity`).
        measured: Accuracy and interval of this file, latency percentiles in milliseconds, and on which device; read
            from ``measured.json``, where it belongs to this very file (its sha256).
    """

    file: str
    sha256: str
    bytes: int
    precision: Precision
    runtime: Literal["ort", "openvino", "litert"]
    student: str
    path: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleClip:
    """One sample clip of a bundle: a video that may travel, and its class."""

    file: str
    sha256: str
    bytes: int
    label: str


@dataclass(frozen=True)
class StreamFile:
    """The default artefact's student as a per-frame network in FP32: ``frame`` and ``state`` in, logits and state out.

    Attributes:
        file: Its path inside the bundle.
        sha256: 64 lower-case hexadecimal digits.
        bytes: Its size.
        state: Numbers (float32) of one stream's state; zeros begin.
        parity: How far its answers, frame by frame, are from the clip network's.
    """

    file: str
    sha256: str
    bytes: int
    state: int
    parity: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Everything a device needs to know to run a bundle, and where the bundle comes from.

    Attributes:
        schema: The version of this layout; a bundle of a newer one is refused.
        name: The name of the recipe that made it.
        created_by: Program and version.
        classes: Class names, in the order of the logits.
        contract: How a clip enters the file: ``float_clip`` is float32 ``(B, 3, T, H, W)``, normalised;
            ``uint8_frames`` is uint8 ``(B, T, H, W, 3)``, which the file normalises itself.
        sampling: Which frames of a video are taken.
        preprocess: How frames become the input.
        default: The file of the artefact to use.
        artefacts: Every model file.
        licences: Of data and of weights, as the recipe states them.
        provenance: Where it comes from: hashes, versions, seeds.
        samples: Sample clips; empty unless asked for.
        documents: SHA-256 of each further file, by name (the README).
        stream: The per-frame file of a causal student.
    """

    schema: int
    name: str
    created_by: str
    classes: list[str]
    contract: InputContract
    sampling: Sampling
    preprocess: Preprocessing
    default: str
    artefacts: list[Artefact]
    licences: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    samples: list[SampleClip] = field(default_factory=list)
    documents: dict[str, str] = field(default_factory=dict)
    stream: StreamFile | None = None

    @classmethod
    def load(cls, bundle: Path | str) -> Manifest:
        """Read and check the manifest of a bundle; the files it names are `verify`'s business.

        Raises:
            UserError: The folder is no bundle, its manifest is malformed or contradicts itself, was written by a
                newer version, or names a file outside the bundle.
        """
        bundle = Path(bundle)
        data = _read_manifest_json(bundle)
        schema = data.get("schema")
        if type(schema) is not int or schema < 1:
            raise _malformed_error(bundle, f"'schema' is {schema!r}; it must be a whole number from 1")
        if schema > SCHEMA:
            raise UserError(
                f"{bundle} has manifest schema {schema} and this version of skd-edge reads up to {SCHEMA}; "
                "install a newer skd-edge (pip install --upgrade skd-edge)"
            )
        try:
            manifest: Manifest = parse_typed_json(cls, data, "")
            _check_consistency(manifest)
            for file in _iter_named_files(manifest):
                resolve_bundle_path(bundle, file)
        except (ValueError, UserError) as error:
            raise _malformed_error(bundle, str(error)) from error
        measured = _read_measured(bundle)
        rows = [replace(a, measured=measured.get((a.file, a.sha256), a.measured)) for a in manifest.artefacts]
        return replace(manifest, artefacts=rows)

    @property
    def input_dtype(self) -> str:
        """Of what its files take, as a numpy name: see `skd_bench.video.clip.as_input`."""
        return "float32" if self.contract == "float_clip" else "uint8"

    def to_json(self) -> dict[str, Any]:
        """The payload's manifest as plain JSON types: everything but what was measured."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        for artefact in data["artefacts"]:
            del artefact["measured"]
        return data

    def save(self, bundle: Path | str) -> Path:
        """Write ``manifest.json`` into the bundle, atomically; equal manifests give equal bytes.

        What was measured goes beside it, into ``measured.json``, which is written first.

        Raises:
            UserError: The file cannot be written.
            ValueError: The manifest contradicts itself or holds a number JSON does not know.
        """
        _check_consistency(self)
        for file in _iter_named_files(self):
            check_bundle_path(file)
        data = self.to_json()
        measured = {a.file: {"sha256": a.sha256, "measured": a.measured} for a in self.artefacts if a.measured}
        if measured:
            write_json(Path(bundle) / MEASURED_FILE, measured)
        return write_json(Path(bundle) / MANIFEST_FILE, data)

    def find_artefact(self, file: str | None = None) -> Artefact:
        """The artefact of that file, or the default one.

        Raises:
            UserError: There is none; the message lists those there are.
        """
        wanted = file or self.default
        for artefact in self.artefacts:
            if artefact.file == wanted:
                return artefact
        raise UserError(f"this bundle has no artefact {wanted!r}; it has: {', '.join(a.file for a in self.artefacts)}")


def resolve_bundle_path(bundle: Path | str, file: str) -> Path:
    """The path of a bundle's file, which may not exist.

    Raises:
        ValueError: The name, or a link on the way, leads out of the bundle.
    """
    root = Path(bundle).resolve()
    path = root / check_bundle_path(file)
    if not path.resolve().is_relative_to(root):
        raise ValueError(f"{file!r} is a link that leads out of the bundle")
    return path


def check_bundle_path(file: str) -> PurePosixPath:
    """The name as a relative path without a way out, on any operating system.

    Raises:
        ValueError: It is empty, absolute, or climbs.
    """
    path = PurePosixPath(file)
    if (
        not path.parts
        or file != str(path)
        or path.is_absolute()
        or ".." in path.parts
        or any(c in file for c in "\\:\0")
    ):
        raise ValueError(f"{file!r} is no plain path inside the bundle")
    return path


def list_payload_files(manifest: Manifest) -> dict[str, tuple[str, int | None]]:
    """Hash and size (None where it is not told) of every file of the payload, by name."""
    expected: dict[str, tuple[str, int | None]] = {file: (sha, None) for file, sha in manifest.documents.items()}
    expected |= {a.file: (a.sha256, a.bytes) for a in manifest.artefacts}
    expected |= {s.file: (s.sha256, s.bytes) for s in manifest.samples}
    return expected | {s.file: (s.sha256, s.bytes) for s in (manifest.stream,) if s}


def _iter_named_files(manifest: Manifest) -> Iterator[str]:
    yield from (a.file for a in manifest.artefacts)
    yield from (s.file for s in manifest.samples)
    yield from manifest.documents
    if manifest.stream:
        yield manifest.stream.file


def _check_consistency(manifest: Manifest) -> None:
    """Raise ValueError where a manifest contradicts itself."""
    files = [*_iter_named_files(manifest)]
    if duplicates := sorted({f for f in files if files.count(f) > 1}):
        raise ValueError(f"{duplicates[0]!r} is named twice")
    if manifest.default not in {a.file for a in manifest.artefacts}:
        raise ValueError(f"'default' is {manifest.default!r}, which is no artefact of the bundle")
    if not manifest.classes or len(set(manifest.classes)) != len(manifest.classes):
        raise ValueError("'classes' must be a list of different names")
    if unknown := sorted({s.label for s in manifest.samples} - set(manifest.classes)):
        raise ValueError(f"a sample clip has the class {unknown[0]!r}, which is not in 'classes'")
    if reserved := {MANIFEST_FILE, MEASURED_FILE}.intersection(files):
        raise ValueError(f"{min(reserved)!r} cannot be a file of the payload")
    if malformed := [
        file for file, (sha, _) in list_payload_files(manifest).items() if not re.fullmatch("[0-9a-f]{64}", sha)
    ]:
        raise ValueError(f"{malformed[0]!r} has no proper sha256")


def _malformed_error(bundle: Path, reason: str) -> UserError:
    return UserError(
        f"{bundle / MANIFEST_FILE} is malformed: {reason}; the bundle was changed or is only half there: copy it again"
    )


def _read_manifest_json(bundle: Path) -> dict[str, Any]:
    path = bundle / MANIFEST_FILE
    if not path.is_file():
        problem = "has no manifest.json" if bundle.is_dir() else "is no folder"
        raise UserError(f"{bundle} is no bundle: it {problem}; give the 'bundle' folder of a run, copied whole")
    try:
        return _read_json_object(path)
    except (ValueError, RecursionError) as error:
        raise _malformed_error(bundle, str(error)) from error


def _read_measured(bundle: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What was measured, by file and hash; empty where nothing was."""
    path = bundle / MEASURED_FILE
    if not path.is_file():
        return {}
    try:
        raw = _read_json_object(path)
        return {(file, entry["sha256"]): dict(entry["measured"].items()) for file, entry in raw.items()}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is malformed ({type(error).__name__}: {error}); it holds measurements only: remove it, or copy "
            "the bundle again"
        ) from error


def _read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: It is no JSON object, or far too large for one of ours.
        UserError: The file cannot be read.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES // 2**20} MiB")
        data = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_reject_json_constant)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    return data


def _reject_json_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
