"""What a bundle says about itself: ``manifest.json`` as frozen plain dataclasses, and the check of its files.

The manifest is read on devices, from folders that came over a network: nothing in it is trusted. A key that is
missing, unknown or of another type, a file name that climbs out of the bundle and a newer schema are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from skd_bench.clips import Preprocess, Sampling
from skd_bench.errors import UserError
from skd_bench.files import sha256_file, write_json
from skd_bench.typed_json import read_typed

SCHEMA = 1
MANIFEST = "manifest.json"
_LARGEST = 32 * 2**20
# fmt: off
_RUNNABLE = frozenset({
    ".app", ".bat", ".bin", ".class", ".cmd", ".com", ".dll", ".dylib", ".elf", ".exe", ".jar", ".joblib", ".js",
    ".msi", ".npy", ".pickle", ".pkl", ".ps1", ".pt", ".pth", ".py", ".pyc", ".pyd", ".pyz", ".rb", ".scr", ".sh",
    ".so", ".vbs", ".wasm", ".whl",
})
# fmt: on
_RUNNABLE_HEADS = (
    b"\x7fELF",
    b"MZ",
    b"#!",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
    b"PK\x03\x04",
    b"\x80\x02",
    b"\x80\x04",
)


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
        parity: How its answers differ from the trained network's (`skd_export.parity`).
        measured: Accuracy and interval of this file, latency percentiles in milliseconds, and on which device.
    """

    file: str
    sha256: str
    bytes: int
    precision: Literal["fp32", "int8"]
    runtime: Literal["ort"]
    student: str
    path: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One sample clip of a bundle: a video that may travel, and its class."""

    file: str
    sha256: str
    bytes: int
    label: str


@dataclass(frozen=True)
class Manifest:
    """Everything a device needs to know to run a bundle, and where the bundle comes from.

    Attributes:
        schema: The version of this layout; a bundle of a newer one is refused.
        name: The name of the recipe that made it.
        created_by: Program and version.
        classes: Class names, in the order of the logits.
        contract: How a clip enters the file: ``float_clip`` is float32 ``(B, 3, T, H, W)``, normalised.
        sampling: Which frames of a video are taken.
        preprocess: How frames become the input.
        default: The file of the artefact to use.
        artefacts: Every model file.
        licences: Of data and of weights, as the recipe states them.
        provenance: Where it comes from: hashes, versions, seeds.
        samples: Sample clips; empty unless asked for.
        documents: SHA-256 of each further file, by name (the README).
    """

    schema: int
    name: str
    created_by: str
    classes: list[str]
    contract: Literal["float_clip"]
    sampling: Sampling
    preprocess: Preprocess
    default: str
    artefacts: list[Artefact]
    licences: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    documents: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, bundle: Path | str) -> Manifest:
        """Read and check the manifest of a bundle; the files it names are `verify`'s business.

        Raises:
            UserError: The folder is no bundle, its manifest is malformed or contradicts itself, was written by a
                newer version, or names a file outside the bundle.
        """
        bundle = Path(bundle)
        data = _read_json(bundle)
        schema = data.get("schema")
        if type(schema) is not int or schema < 1:
            raise _malformed(bundle, f"'schema' is {schema!r}; it must be a whole number from 1")
        if schema > SCHEMA:
            raise UserError(
                f"{bundle} has manifest schema {schema} and this version of skd-edge reads up to {SCHEMA}; "
                "install a newer skd-edge (pip install --upgrade skd-edge)"
            )
        try:
            manifest: Manifest = read_typed(cls, data, "")
            _check(manifest)
            for file in _named_files(manifest):
                resolve(bundle, file)
        except (ValueError, UserError) as error:
            raise _malformed(bundle, str(error)) from error
        return manifest

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON types; `load` reads it back to an equal manifest."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return data

    def save(self, bundle: Path | str) -> Path:
        """Write ``manifest.json`` into the bundle, atomically; equal manifests give equal bytes.

        Raises:
            UserError: The file cannot be written.
            ValueError: The manifest contradicts itself or holds a number JSON does not know.
        """
        _check(self)
        for file in _named_files(self):
            _inside(file)
        return write_json(Path(bundle) / MANIFEST, self.to_json())

    def artefact(self, file: str | None = None) -> Artefact:
        """The artefact of that file, or the default one.

        Raises:
            UserError: There is none; the message lists those there are.
        """
        wanted = file or self.default
        for artefact in self.artefacts:
            if artefact.file == wanted:
                return artefact
        raise UserError(f"this bundle has no artefact {wanted!r}; it has: {', '.join(a.file for a in self.artefacts)}")


def resolve(bundle: Path | str, file: str) -> Path:
    """The path of a bundle's file, which may not exist.

    Raises:
        ValueError: The name, or a link on the way, leads out of the bundle.
    """
    root = Path(bundle).resolve()
    path = root / _inside(file)
    if not path.resolve().is_relative_to(root):
        raise ValueError(f"{file!r} is a link that leads out of the bundle")
    return path


def verify(bundle: Path | str) -> list[str]:
    """Check every file of a bundle against its manifest; nothing is loaded or run.

    Returns:
        One sentence a problem: a file that is missing, has other bytes than were written, is a link, or is of a
        kind that can be executed. An empty list means that the bundle is as it was written.

    Raises:
        UserError: There is no readable manifest (`Manifest.load`).
    """
    bundle = Path(bundle)
    manifest = Manifest.load(bundle)
    expected: dict[str, tuple[str, int | None]] = {file: (sha, None) for file, sha in manifest.documents.items()}
    expected |= {a.file: (a.sha256, a.bytes) for a in manifest.artefacts}
    expected |= {s.file: (s.sha256, s.bytes) for s in manifest.samples}
    problems = [p for file, (sha, size) in expected.items() if (p := _difference(bundle, file, sha, size))]
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle).as_posix()
        if path.is_symlink():
            problems.append(f"{name} is a link; a bundle holds plain files only")
        elif path.is_file() and (why := _runnable(path)):
            problems.append(f"{name} {why}; nothing in a bundle is meant to be executed")
    return problems


def _difference(bundle: Path, file: str, sha256: str, size: int | None) -> str | None:
    path = resolve(bundle, file)
    if not path.is_file():
        return f"{file} is missing"
    if size is not None and path.stat().st_size != size:
        return f"{file} has {path.stat().st_size} bytes and the manifest says {size}"
    found = sha256_file(path)
    return None if found == sha256 else f"{file} has other bytes than were written (sha256 {found}, not {sha256})"


def _runnable(path: Path) -> str | None:
    """Why a file counts as executable, or None."""
    if path.stat().st_mode & 0o111:
        return "has its executable bit set"
    if path.suffix.lower() in _RUNNABLE:
        return f"is a {path.suffix} file"
    with path.open("rb") as file:
        head = file.read(4)
    return "begins like a program, a script or a pickle" if head.startswith(_RUNNABLE_HEADS) else None


def _inside(file: str) -> PurePosixPath:
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


def _named_files(manifest: Manifest) -> Iterator[str]:
    yield from (a.file for a in manifest.artefacts)
    yield from (s.file for s in manifest.samples)
    yield from manifest.documents


def _check(manifest: Manifest) -> None:
    """Raise ValueError where a manifest contradicts itself."""
    files = [*_named_files(manifest)]
    if twice := sorted({f for f in files if files.count(f) > 1}):
        raise ValueError(f"{twice[0]!r} is named twice")
    if manifest.default not in {a.file for a in manifest.artefacts}:
        raise ValueError(f"'default' is {manifest.default!r}, which is no artefact of the bundle")
    if not manifest.classes or len(set(manifest.classes)) != len(manifest.classes):
        raise ValueError("'classes' must be a list of different names")
    if strange := sorted({s.label for s in manifest.samples} - set(manifest.classes)):
        raise ValueError(f"a sample clip has the class {strange[0]!r}, which is not in 'classes'")
    hashes = dict(manifest.documents)
    hashes |= {a.file: a.sha256 for a in manifest.artefacts}
    hashes |= {s.file: s.sha256 for s in manifest.samples}
    if odd := [file for file, sha in hashes.items() if not re.fullmatch("[0-9a-f]{64}", sha)]:
        raise ValueError(f"{odd[0]!r} has no proper sha256")


def _malformed(bundle: Path, reason: str) -> UserError:
    return UserError(
        f"{bundle / MANIFEST} is malformed: {reason}; the bundle was changed or is only half there: copy it again"
    )


def _read_json(bundle: Path) -> dict[str, Any]:
    path = bundle / MANIFEST
    if not path.is_file():
        what = "has no manifest.json" if bundle.is_dir() else "is no folder"
        raise UserError(f"{bundle} is no bundle: it {what}; give the 'bundle' folder of a run, copied whole")
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST // 2**20} MiB")
        data = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise _malformed(bundle, str(error)) from error
    if not isinstance(data, dict):
        raise _malformed(bundle, "it is not a JSON object")
    return data


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
