"""Packs: a zip with this package, the files to measure and a `__main__.py`, which measures on another machine.

There, `python FILE` needs numpy and a runtime, and no installation. Equal content gives equal bytes, so that the hash
of a pack identifies a run that was interrupted.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from skd_bench.benchmark.engines.device_job import ScoringClips
from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings
from skd_bench.benchmark.scenarios import LoadScenarios
from skd_bench.bundle.manifest import Manifest
from skd_bench.bundle.verify import find_bundle_problems, find_stray_files
from skd_bench.errors import UsageError, UserError
from skd_bench.files import sha256_file, write_atomic
from skd_bench.runtimes.base import CompileOptions
from skd_bench.video.types import Preprocessing

JOB_PATH, BUNDLE_PATH, FILES_PATH = "parcel/job.json", "parcel/bundle", "parcel/files"

# Any Python of the device may read this: use only the syntax of Python 3.0 before the version is checked.
_MAIN_SOURCE = """\
import os
import sys

if sys.version_info < (3, 10):
    sys.exit("error: this needs Python 3.10 or newer; %s is %d.%d" % ((sys.executable,) + sys.version_info[:2]))
try:
    import numpy
except ImportError:
    sys.exit("error: this needs numpy: %s -m pip install numpy onnxruntime" % sys.executable)
from skd_bench.remote.pack_main import main

sys.exit(main(os.path.dirname(os.path.abspath(__file__))))
"""


@dataclass(frozen=True)
class PackedFile:
    """One file to measure: its name in the result, its path in the pack, its sha256 and its runtime."""

    name: str
    file: str
    sha256: str
    runtime: str


@dataclass(frozen=True)
class PackedClips:
    """Clips to score: what identifies them, their path in the pack, and their preprocessing."""

    key: str
    file: str
    preprocess: Preprocessing


@dataclass(frozen=True)
class PackJob:
    """What a pack measures: its bundle under the loads of `extra`, or, where it contains no bundle, `files`.

    Files whose runtime compiles are compiled there with `build`. With `clips`, logits of files on a GPU are computed
    too; without `latency`, nothing else is.
    """

    settings: MeasurementSettings
    files: list[PackedFile]
    extra: LoadScenarios = field(default_factory=LoadScenarios)
    build: CompileOptions = field(default_factory=CompileOptions)
    clips: PackedClips | None = None
    latency: bool = True


def pack_bundle(bundle: Path | str, settings: MeasurementSettings, extra: LoadScenarios | None = None) -> bytes:
    """Make a zip application that measures a bundle like `python -m skd_bench BUNDLE`.

    Args:
        bundle: The bundle's folder.
        settings: Threads, processes and queries.
        extra: Further scenarios, batch sizes and runtimes.

    Returns:
        The bytes of the pack.

    Raises:
        UserError: A file of the bundle was changed or is missing.
        UsageError: `extra` names an unknown scenario or runtime, or a number out of range.
    """
    bundle = Path(bundle)
    manifest = Manifest.load(bundle)
    if problems := find_bundle_problems(bundle, manifest):
        raise UserError(f"{bundle} was changed after it was written: {'; '.join(problems)}. Copy the bundle again")
    files = [PackedFile(a.file, f"{BUNDLE_PATH}/{a.file}", a.sha256, a.runtime) for a in manifest.artefacts]
    strays = set(find_stray_files(bundle, manifest))  # nobody vouches for them, so they do not travel
    inside = [p for p in bundle.rglob("*") if p.is_file() and p.relative_to(bundle).as_posix() not in strays]
    job = PackJob(settings, files, (extra or LoadScenarios()).check_and_complete())
    return _build_zip(job, [(f"{BUNDLE_PATH}/{p.relative_to(bundle).as_posix()}", p) for p in inside])


def pack_files(
    targets: Sequence[LatencyTarget],
    settings: MeasurementSettings,
    *,
    build: CompileOptions | None = None,
    clips: ScoringClips | None = None,
    latency: bool = True,
) -> bytes:
    """Make a zip application that measures single files in turns.

    Args:
        targets: The files. Two with equal bytes and the same runtime are packed and measured once.
        settings: Threads, processes, queries and energy.
        build: How engines are compiled there; None: the defaults.
        clips: Clips to score the files on a GPU on; they are in the pack once.
        latency: Whether latency is measured.

    Returns:
        The bytes of the pack.

    Raises:
        UserError: A file cannot be read.
    """
    unique_targets = {(sha256_file(t.path), t.runtime): t for t in targets}
    files = [
        PackedFile(t.name, f"{FILES_PATH}/{sha}{Path(t.path).suffix}", sha, t.runtime)
        for (sha, _), t in unique_targets.items()
    ]
    packed = PackedClips(clips.key, f"{FILES_PATH}/clips.npy", clips.preprocess) if clips else None
    parcel = list(zip((f.file for f in files), (Path(t.path) for t in unique_targets.values()), strict=True))
    if clips and packed:
        parcel.append((packed.file, clips.file))
    return _build_zip(PackJob(settings, files, build=build or CompileOptions(), clips=packed, latency=latency), parcel)


def write_pack(path: Path | str, data: bytes, *, outside: Path | None = None) -> Path:
    """Write a pack atomically.

    Args:
        path: The file to write.
        data: The bytes from `pack_bundle` or `pack_files`.
        outside: The bundle's folder, which must not contain the pack: a bundle contains no executable files.

    Returns:
        The path.

    Raises:
        UsageError: The path is inside the bundle.
        UserError: The file cannot be written.
    """
    if outside is not None and Path(path).resolve().is_relative_to(outside.resolve()):
        raise UsageError(
            f"{path} is inside the bundle, which may not contain executable files; write the pack beside it"
        )
    return write_atomic(path, data)


def _build_zip(job: PackJob, parcel: Iterable[tuple[str, Path]]) -> bytes:
    package_folder = Path(__file__).parents[1]
    contents = {
        f"skd_bench/{p.relative_to(package_folder).as_posix()}": p.read_bytes() for p in package_folder.rglob("*.py")
    }
    contents |= {"__main__.py": _MAIN_SOURCE.encode(), JOB_PATH: json.dumps(asdict(job), ensure_ascii=False).encode()}
    try:
        contents |= {name: path.read_bytes() for name, path in parcel}
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    buffer = io.BytesIO(b"#!/usr/bin/env python3\n")
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in sorted(contents.items()):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o100644 << 16
            file.writestr(info, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
