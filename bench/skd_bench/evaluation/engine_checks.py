"""Checks that the engines of a bundle are what its manifest states. Nothing is loaded."""

from __future__ import annotations

from pathlib import Path

from skd_bench.bundle.manifest import Artefact, EngineFile, Manifest, resolve_bundle_path
from skd_bench.errors import UserError
from skd_bench.runtimes.tensorrt.engine_file import read_engine_metadata


def find_engine_problems(bundle: Path | str, manifest: Manifest) -> list[str]:
    """One sentence for each engine whose metadata contradicts the manifest, or that contains host code.

    The hashes should have been checked before (`skd_bench.bundle.verify`).
    """
    pairs = [(artefact, engine) for artefact in manifest.artefacts for engine in artefact.engines]
    return [problem for artefact, engine in pairs if (problem := _find_problem(Path(bundle), artefact, engine))]


def _find_problem(bundle: Path, artefact: Artefact, engine: EngineFile) -> str | None:
    try:
        metadata = read_engine_metadata(resolve_bundle_path(bundle, engine.file))
    except UserError as error:
        return str(error)
    if metadata.source_sha256 != artefact.sha256:
        return f"{engine.file} was not compiled from {artefact.file}, but from {metadata.source}"
    if metadata.version_compatible:
        return f"{engine.file} contains host code, which would run when it is loaded; compile it again without"
    found = metadata.runtime, metadata.version, metadata.sms
    stated = engine.runtime, engine.version, engine.sms
    if found != stated or engine.runtime != artefact.runtime:
        return f"{engine.file} is for {found}, and the manifest states {stated} and the runtime {artefact.runtime}"
    return None
