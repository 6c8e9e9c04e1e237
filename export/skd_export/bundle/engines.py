"""Writes a copy of a bundle that also holds engines, for devices that shall not compile."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from skd_bench.bundle.manifest import (
    ENGINES_SCHEMA,
    MEASURED_FILE,
    Artefact,
    EngineFile,
    Manifest,
    list_payload_files,
    resolve_bundle_path,
)
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.errors import UserError
from skd_bench.files import sha256_file, write_atomic
from skd_bench.inference.predict import TRUST_ENGINES
from skd_bench.runtimes.tensorrt.engine_file import EngineMetadata, metadata_path, read_engine_metadata
from skd_export.bundle.writer import MEASURED_PAGE, README, check_replaceable, copy_file, write_folder_atomically

ENGINES = "engines"  # the folder of engines in a bundle, and in a run


def write_bundle_with_engines(bundle: Path | str, folder: Path | str, engines: Sequence[Path] = ()) -> list[EngineFile]:
    """Write a copy of a bundle with engines of its files. A signature is not copied: the payload is another one.

    Args:
        bundle: A bundle that has not changed since it was written.
        folder: Where the copy goes; see `check_replaceable`. It is written completely or not at all.
        engines: Engines, with their metadata beside them. Empty: those that the run measured, from ``engines`` beside
            the bundle.

    Returns:
        The engines in the copy.

    Raises:
        UserError: The bundle has changed, there is no engine, or one was not compiled from a file of the bundle, or for
            another runtime than the file's, or contains host code.
    """
    bundle, folder = Path(bundle), Path(folder)
    manifest = Manifest.load(bundle)
    if problems := find_bundle_problems(bundle, manifest):
        raise UserError(
            f"{bundle} has changed since it was written: {'; '.join(problems)}. Copy it again from its source"
        )
    chosen = [(engine, read_engine_metadata(engine)) for engine in engines or _find_measured_engines(bundle, manifest)]
    for engine, metadata in chosen:
        _check_engine(engine, metadata, manifest)
    check_replaceable(folder)
    with write_folder_atomically(folder, check_replaceable) as building:
        names = [*list_payload_files(manifest), *(n for n in (MEASURED_FILE, MEASURED_PAGE) if (bundle / n).is_file())]
        for name in names:
            copy_file(resolve_bundle_path(bundle, name), building / name)
        documents = dict(manifest.documents)
        artefacts = []
        for artefact in manifest.artefacts:
            own = [(path, m) for path, m in chosen if m.source_sha256 == artefact.sha256]
            files = [_add_engine(building, path, metadata, artefact) for path, metadata in own]
            documents |= {f"{file.file}.json": sha256_file(building / f"{file.file}.json") for file in files}
            others = [old for old in artefact.engines if old.sha256 not in {file.sha256 for file in files}]
            artefacts.append(replace(artefact, engines=[*others, *files]))
        added = [engine for artefact in artefacts for engine in artefact.engines]
        if README in documents:
            text = (building / README).read_text("utf-8")
            write_atomic(building / README, f"{text.partition(_HEADING)[0].rstrip()}\n\n{_format_engines(added)}")
            documents[README] = sha256_file(building / README)
        replace(manifest, schema=ENGINES_SCHEMA, artefacts=artefacts, documents=documents).save(building)
    return added


def _find_measured_engines(bundle: Path, manifest: Manifest) -> list[Path]:
    wanted = {str(a.options["engine"].get("engine_sha256")) for a in manifest.artefacts if "engine" in a.options}
    folder = bundle.resolve().parent / ENGINES
    found = [path for path in sorted(folder.glob("*/**/*.engine")) if wanted and sha256_file(path) in wanted]
    if found:
        return found
    if not wanted:
        raise UserError(f"no file of {bundle} was measured as an engine; name engines with --engine")
    raise UserError(
        f"{folder} does not hold the engines that were measured (SHA-256 {', '.join(sorted(w[:12] for w in wanted))}); "
        "where another device measured them, copy them from there with their metadata, and name them with --engine"
    )


def _check_engine(engine: Path, metadata: EngineMetadata, manifest: Manifest) -> None:
    source = next((a for a in manifest.artefacts if a.sha256 == metadata.source_sha256), None)
    if source is None:
        raise UserError(f"{engine} was built from {metadata.source}, which is not a file of this bundle")
    if metadata.runtime != source.runtime:
        raise UserError(f"{engine} is for {metadata.runtime}, and {source.file} was measured on {source.runtime}")
    if metadata.version_compatible:
        raise UserError(f"{engine} contains host code, which a bundle must not; build it without version compatibility")


def _add_engine(building: Path, path: Path, metadata: EngineMetadata, artefact: Artefact) -> EngineFile:
    sms = "-".join(f"sm{sm}" for sm in metadata.sms)
    name = f"{ENGINES}/{Path(artefact.file).stem}.{metadata.runtime}.{sms}.{metadata.sha256[:8]}.engine"
    copy_file(path, building / name)
    # The driver's name and number stay; no path of the machine is in the metadata.
    shutil.copyfile(metadata_path(path), building / f"{name}.json")
    return EngineFile(
        file=name,
        sha256=metadata.sha256,
        bytes=metadata.bytes,
        runtime=artefact.runtime,
        version=metadata.version,
        sms=list(metadata.sms),
        gpu=metadata.gpu,
    )


_HEADING = "## Engines\n"


def _format_engines(engines: Sequence[EngineFile]) -> str:
    rows = "".join(
        f"| `{e.file}` | {e.runtime} {e.version} | {', '.join(f'SM{sm}' for sm in e.sms)} | {e.gpu or '–'} |\n"
        for e in engines
    )
    return (
        f"{_HEADING}\nAn engine is code for one kind of GPU and one version. It is used only with the environment "
        f"variable `{TRUST_ENGINES}=1`, where it fits; else the ONNX file is compiled. Set it for bundles whose maker "
        f"you trust.\n\n| file | runtime | GPUs | compiled on |\n|---|---|---|---|\n{rows}"
    )
