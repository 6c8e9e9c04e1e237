"""The manifest of a bundle: ``manifest.json`` as frozen dataclasses.

The manifest is read on devices, from folders that came over a network, so its content is checked. A manifest is refused
if a key is missing, unknown or of another type, if a file name leads out of the bundle, or if its schema is newer.

The manifest and the files listed in it form the payload: the same run always gives the same bytes. Measurements differ
each time, so they are stored beside the payload, in ``measured.json``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from skd_bench.errors import UserError
from skd_bench.files import read_regular_file, write_json
from skd_bench.typed_json import parse_typed_json, shorten_repr
from skd_bench.untrusted.json_file import parse_json
from skd_bench.video.types import Preprocessing, Sampling

Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-trt", "fp8"]
ArtefactRuntime = Literal["ort", "openvino", "litert", "ort-cuda", "ort-tensorrt", "tensorrt", "tensorrt-rtx"]
InputContract = Literal["float_clip", "uint8_frames"]
SCHEMA = 2  # 2: clip_seconds
ENGINES_SCHEMA = 3  # of a bundle that holds engines; others are written as before, so that older versions read them
MANIFEST_FILE, MEASURED_FILE = "manifest.json", "measured.json"
_MAX_BYTES = 32 * 2**20
_MAX_FILES = 1000  # as in a zip file (`skd_bench.bundle.archive`)
_MAX_NAME_BYTES, _MAX_PATH_BYTES = 255, 1024  # what file systems take


@dataclass(frozen=True)
class EngineFile:
    """An engine of an artefact, for one kind of GPU. Its metadata is beside it, as `FILE.json` among the documents.

    Attributes:
        file: Path of the file inside the bundle, with forward slashes.
        sha256: SHA-256 of the file, 64 lower-case hexadecimal digits.
        bytes: Size of the file.
        runtime: Name of the runtime that loads it.
        version: The runtime's version; others cannot load it.
        sms: Compute capabilities (times ten) that it runs on.
        gpu: Name of the GPU that it was compiled on; None if unknown.
    """

    file: str
    sha256: str
    bytes: int
    runtime: ArtefactRuntime
    version: str
    sms: list[int]
    gpu: str | None = None


@dataclass(frozen=True)
class Artefact:
    """One model file of a bundle.

    Attributes:
        file: Path of the file inside the bundle, with forward slashes.
        sha256: SHA-256 of the file, 64 lower-case hexadecimal digits.
        bytes: Size of the file.
        precision: Number format of its weights and activations.
        runtime: Name of the runtime that runs it.
        student: Name of the network that it was exported from.
        path: The cascade that trained the network: names from the teacher to the student.
        options: Settings that are not stored in the file itself, for example ``{"optimisation": "all"}``.
        parity: How far its outputs differ from those of the trained network (`skd_export.analysis.parity`).
        measured: Accuracy and its interval, latency percentiles in milliseconds, and the device; read from
            ``measured.json`` if the entry there has the same sha256.
        engines: Engines that were compiled from it.
    """

    file: str
    sha256: str
    bytes: int
    precision: Precision
    runtime: ArtefactRuntime
    student: str
    path: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    engines: list[EngineFile] = field(default_factory=list)


@dataclass(frozen=True)
class SampleClip:
    """One sample clip of a bundle: a video that may be distributed, and its class.

    Attributes:
        file: Path of the video inside the bundle, with forward slashes.
        sha256: SHA-256 of the file, 64 lower-case hexadecimal digits.
        bytes: Size of the file.
        label: Name of its class.
    """

    file: str
    sha256: str
    bytes: int
    label: str


@dataclass(frozen=True)
class StreamFile:
    """The student of the default artefact as a per-frame network in FP32.

    Its inputs are ``frame`` and ``state``, its outputs ``logits`` and ``next_state``.

    Attributes:
        file: Path of the file inside the bundle, with forward slashes.
        sha256: SHA-256 of the file, 64 lower-case hexadecimal digits.
        bytes: Size of the file.
        state: Number of float32 values in the state of one stream; a stream starts with zeros.
        parity: How far its frame-by-frame outputs differ from those of the clip network.
    """

    file: str
    sha256: str
    bytes: int
    state: int
    parity: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """All that a device needs to run a bundle, and the origin of the bundle.

    Attributes:
        schema: Version of this layout; a bundle with a newer one is refused.
        name: Name of the recipe that made the bundle.
        created_by: Program and version that wrote it.
        classes: Class names, in the order of the logits.
        contract: Input of the model files: ``float_clip`` is float32 ``(B, 3, T, H, W)``, normalised;
            ``uint8_frames`` is uint8 ``(B, T, H, W, 3)``, which the file normalises itself.
        sampling: Which frames of a video are taken.
        preprocess: How frames become the input.
        default: File of the artefact that is used by default.
        artefacts: All model files.
        licences: Licences of the data and of the weights, as the recipe states them.
        provenance: Origin of the bundle: hashes, versions, seeds.
        samples: Sample clips; empty unless requested.
        documents: SHA-256 of each further file (for example the README), by its path.
        stream: The per-frame file; None unless the student is causal.
        clip_seconds: Median length of the training clips in seconds, above 0; None if it is not known.
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
    clip_seconds: float | None = None

    @classmethod
    def load(cls, bundle: Path | str) -> Manifest:
        """Read and check the manifest of a bundle. Its files are checked by `find_bundle_problems`.

        Raises:
            UserError: See `read_manifest_file`.
        """
        return read_manifest_file(bundle).manifest

    @classmethod
    def parse(cls, bundle: Path, content: bytes) -> Manifest:
        """Check the bytes of a bundle's manifest; see `read_manifest_file`."""
        data = _parse_manifest_json(bundle, content)
        schema = data.get("schema")
        if type(schema) is not int or schema < 1:
            raise _malformed_error(
                bundle, f"'schema' is {shorten_repr(schema)}; it must be a whole number of at least 1"
            )
        if schema > ENGINES_SCHEMA:
            raise UserError(
                f"{bundle} has manifest schema {schema}, but this version of skd-edge reads only up to "
                f"{ENGINES_SCHEMA}; install a newer skd-edge (pip install --upgrade skd-edge)"
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
        """Input dtype of its model files, as a numpy name, for `prepare_input`."""
        return "float32" if self.contract == "float_clip" else "uint8"

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON types, without measurements."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        for artefact in data["artefacts"]:
            del artefact["measured"]
            if not artefact["engines"]:
                del artefact["engines"]
        return data

    def save(self, bundle: Path | str) -> Path:
        """Write ``manifest.json`` into the bundle, atomically; equal manifests give equal bytes.

        Measurements are written to ``measured.json`` first.

        Returns:
            The path of ``manifest.json``.

        Raises:
            UserError: A file cannot be written.
            ValueError: The manifest contradicts itself or contains a number that JSON cannot represent.
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
        """The artefact with this file, or the default one.

        Raises:
            UserError: The bundle has no such artefact; the message lists its artefacts.
        """
        wanted = file or self.default
        for artefact in self.artefacts:
            if artefact.file == wanted:
                return artefact
        files = ", ".join(artefact.file for artefact in self.artefacts)
        raise UserError(f"the bundle has no artefact {wanted!r}; choose from {files}")


@dataclass(frozen=True)
class ManifestFile:
    """A bundle's manifest as it was read once: checks of its signature, its hashes and its files must see the same.

    Attributes:
        manifest: The content.
        content: The bytes.
    """

    manifest: Manifest
    content: bytes

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes, which identifies the payload."""
        return hashlib.sha256(self.content).hexdigest()


def read_manifest_file(bundle: Path | str) -> ManifestFile:
    """Read ``manifest.json`` once, and check it. The files that it names are checked by `find_bundle_problems`.

    Raises:
        UserError: The folder is not a bundle, or its manifest is malformed, contradicts itself, was written by a newer
            version, or names a file outside the bundle.
    """
    bundle = Path(bundle)
    path = bundle / MANIFEST_FILE
    if not path.is_file():
        problem = "it has no manifest.json" if bundle.is_dir() else "it is not a folder"
        raise UserError(f"no bundle found at {bundle}: {problem}; give the complete 'bundle' folder of a run")
    content = _read_bounded(path)
    return ManifestFile(Manifest.parse(bundle, content), content)


def resolve_bundle_path(bundle: Path | str, file: str) -> Path:
    """The full path of a bundle's file; the file may not exist.

    Raises:
        ValueError: The name, or a link in its path, leads out of the bundle.
    """
    root = Path(bundle).resolve()
    path = root / check_bundle_path(file)
    if not path.resolve().is_relative_to(root):
        raise ValueError(f"{file!r} is a link that leads out of the bundle")
    return path


def check_bundle_path(file: str) -> PurePosixPath:
    """Check that a name is a relative path inside the bundle, on every operating system.

    Returns:
        The name as a path.

    Raises:
        ValueError: The name is empty, absolute, too long or not in its shortest form, or it contains `..`, a backslash,
            a colon or a character that cannot be printed.
    """
    path = PurePosixPath(file)
    if (
        not path.parts
        or file != str(path)
        or path.is_absolute()
        or ".." in path.parts
        or any(c in "\\:" or not c.isprintable() for c in file)
    ):
        raise ValueError(f"{shorten_repr(file)} is not a plain relative path inside the bundle")
    names = [len(part.encode()) for part in path.parts]
    if max(names) > _MAX_NAME_BYTES or sum(names) + len(names) > _MAX_PATH_BYTES:
        raise ValueError(f"the name {shorten_repr(file)} is longer than file systems take")
    return path


def list_payload_files(manifest: Manifest) -> dict[str, tuple[str, int | None]]:
    """SHA-256 and size in bytes (None where the manifest has no size) of every payload file, by its path."""
    expected: dict[str, tuple[str, int | None]] = {file: (sha, None) for file, sha in manifest.documents.items()}
    expected |= {a.file: (a.sha256, a.bytes) for a in manifest.artefacts}
    expected |= {e.file: (e.sha256, e.bytes) for a in manifest.artefacts for e in a.engines}
    expected |= {s.file: (s.sha256, s.bytes) for s in manifest.samples}
    return expected | {s.file: (s.sha256, s.bytes) for s in (manifest.stream,) if s}


def _iter_named_files(manifest: Manifest) -> Iterator[str]:
    yield from (a.file for a in manifest.artefacts)
    yield from (e.file for a in manifest.artefacts for e in a.engines)
    yield from (s.file for s in manifest.samples)
    yield from manifest.documents
    if manifest.stream:
        yield manifest.stream.file


def _check_consistency(manifest: Manifest) -> None:
    """Raise ValueError where a manifest contradicts itself."""
    files = [*_iter_named_files(manifest)]
    if len(files) > _MAX_FILES:
        raise ValueError(f"it names {len(files)} files; a bundle has at most {_MAX_FILES}")
    if duplicates := sorted(f for f, count in Counter(files).items() if count > 1):
        raise ValueError(f"{shorten_repr(duplicates[0])} is listed twice")
    engines = [e.file for a in manifest.artefacts for e in a.engines]
    if engines and manifest.schema < ENGINES_SCHEMA:
        raise ValueError(f"it has engines, which need schema {ENGINES_SCHEMA}, and 'schema' is {manifest.schema}")
    if bare := [file for file in engines if f"{file}.json" not in manifest.documents]:
        raise ValueError(f"the metadata of the engine {shorten_repr(bare[0])} is not among 'documents'")
    if manifest.default not in {a.file for a in manifest.artefacts}:
        raise ValueError(f"'default' is {shorten_repr(manifest.default)}, which is not an artefact of the bundle")
    if not manifest.classes or len(set(manifest.classes)) != len(manifest.classes):
        raise ValueError("'classes' must be a list of different names")
    if unknown := sorted({s.label for s in manifest.samples} - set(manifest.classes)):
        raise ValueError(f"a sample clip has the class {shorten_repr(unknown[0])}, which is not in 'classes'")
    if manifest.clip_seconds is not None and not manifest.clip_seconds > 0:
        raise ValueError(f"'clip_seconds' is {manifest.clip_seconds}; it must be above 0")
    if reserved := {MANIFEST_FILE, MEASURED_FILE}.intersection(files):
        raise ValueError(f"{min(reserved)!r} is a reserved name and cannot be a file of the payload")
    hashes = {file: sha for file, (sha, _) in list_payload_files(manifest).items()}
    if malformed := [file for file, sha in hashes.items() if not re.fullmatch("[0-9a-f]{64}", sha)]:
        raise ValueError(
            f"{shorten_repr(malformed[0])} has no valid sha256; it must be 64 lower-case hexadecimal digits"
        )


def _malformed_error(bundle: Path, reason: str) -> UserError:
    return UserError(
        f"{bundle / MANIFEST_FILE} is malformed: {reason}; the bundle was changed or is incomplete: copy it again"
    )


def _parse_manifest_json(bundle: Path, content: bytes) -> dict[str, Any]:
    try:
        return _parse_json_object(content)
    except ValueError as error:
        raise _malformed_error(bundle, str(error)) from error


def _read_measured(bundle: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Measurements by file and sha256; empty if nothing was measured."""
    path = bundle / MEASURED_FILE
    if not path.is_file():
        return {}
    try:
        raw = _parse_json_object(_read_bounded(path))
        return {(file, entry["sha256"]): dict(entry["measured"].items()) for file, entry in raw.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is malformed ({type(error).__name__}: {error}); it holds measurements only: delete it, or copy "
            "the bundle again"
        ) from error


def _read_bounded(path: Path) -> bytes:
    """The bytes of a file of at most the size of a manifest, or a UserError."""
    try:
        return read_regular_file(path, _MAX_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _parse_json_object(content: bytes) -> dict[str, Any]:
    """The JSON object in these bytes; a ValueError where they hold none."""
    data = parse_json(content)
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    return data
