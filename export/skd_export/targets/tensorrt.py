"""Builds TensorRT engines from a bundle or an ONNX file, and reports what was built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skd_bench.bundle.manifest import Manifest, resolve_bundle_path
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.errors import UserError
from skd_bench.runtimes.tensorrt.builder import BuildOptions, build_engine
from skd_bench.runtimes.tensorrt.engine_file import EngineMetadata

PRECISIONS = ("fp32", "fp16", "bf16", "int8-trt", "fp8")


@dataclass(frozen=True)
class BuiltEngines:
    """The engines that were built from one file.

    Attributes:
        source: The ONNX file that was built from.
        precision: The precision of its numbers.
        built: Path and metadata of each engine.
        notes: For each engine, the metadata of all its builds; the last one is the build that was kept.
    """

    source: Path
    precision: str
    built: tuple[tuple[Path, EngineMetadata], ...]
    notes: tuple[tuple[EngineMetadata, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """All metadata, one row for each engine."""
        rows = [
            {"engine": str(path), **asdict(note), "builds": [[n.build_seconds, n.sha256] for n in notes]}
            for (path, note), notes in zip(self.built, self.notes, strict=True)
        ]
        return {"source": str(self.source), "precision": self.precision, "engines": rows}

    def to_text(self) -> str:
        """A summary for the terminal, one line for each engine."""
        lines = [f"from {self.source} ({self.precision})"]
        for (path, note), notes in zip(self.built, self.notes, strict=True):
            sms = "+".join(f"SM{sm}" for sm in note.sms)
            summary = f"{note.bytes / 1000:.0f} kB in {note.build_seconds:.2f} s, {note.runtime} {note.version}"
            lines.append(f"  {path}  {sms}, {summary}, sha256 {note.sha256[:12]}: {note.state}")
            if len(notes) > 1:
                seconds, files = sorted(n.build_seconds for n in notes), len({n.sha256 for n in notes})
                lines.append(
                    f"    {len(notes)} builds took {seconds[0]:.2f} to {seconds[-1]:.2f} s and gave {files} different "
                    f"file{'s' * (files > 1)}"
                )
        return "\n".join(lines)


def build_engines(
    source: Path | str,
    folder: Path | str | None = None,
    *,
    runtime: str,
    sms: Sequence[int] = (),
    precision: str = "fp32",
    builds: int = 1,
    options: BuildOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BuiltEngines:
    """Build an engine for each requested GPU generation, from a bundle or from an ONNX file.

    Nothing is written into the bundle: an engine works on one GPU model and one version only, a bundle on all devices.

    Args:
        source: A bundle's folder, or an ONNX file.
        folder: Where engines and their metadata go; None: ``NAME-engines`` beside the source.
        runtime: "tensorrt" or "tensorrt-rtx".
        sms: Compute capabilities times ten (86 is SM86); one engine is built for each. Empty: the GPU of this machine.
        precision: "fp32" builds from the file as it is (for a bundle: from its FP32 file). "fp16" and "bf16" build from
            a bundle's file of that precision; where there is none, the file is converted first and written beside the
            engines, which needs the train extra. "int8-trt" and "fp8" build from a bundle's quantised file.
        builds: How often each engine is built, to measure the variation of seconds and bytes; the last build is kept.
        options: Options of the builder; None: the defaults.
        progress: Called with (steps done, steps known so far) for each engine.

    Raises:
        UserError: The source is missing, the precision is unknown, or the bundle has changed or has no FP32 file; also
            whatever `build_engine`, `convert_fp16` and `convert_bf16` raise.
    """
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision {precision!r} for engines; choose from {', '.join(PRECISIONS)}")
    source = Path(source)
    exported = _find_exported_file(source, precision) if source.is_dir() else None
    onnx_file = exported or (_find_fp32_file(source) if source.is_dir() else source)
    if not onnx_file.is_file():
        raise UserError(f"{source} does not exist; give the folder of a bundle or an ONNX file")
    folder = Path(folder) if folder is not None else source.with_name(f"{source.resolve().stem}-engines")
    if precision in ("int8-trt", "fp8") and exported is None:
        raise UserError(
            f"{source} has no {precision.upper()} file; add {precision} to export.precisions and export again, or give "
            "that ONNX file with --precision fp32 (it is then built as it is)"
        )
    if precision in ("fp16", "bf16") and exported is None:
        from skd_export.quantization.quantize import convert_bf16, convert_fp16

        converted = folder / f"{onnx_file.stem}.{precision}.onnx"
        (convert_fp16 if precision == "fp16" else convert_bf16)(onnx_file, converted)
        onnx_file = converted
    built, all_notes = [], []
    for target in [[sm] for sm in dict.fromkeys(sms)] or [[]]:
        path = folder / ".".join((onnx_file.stem, runtime, *(f"sm{sm}" for sm in target), "engine"))
        notes = tuple(
            build_engine(onnx_file, path, runtime=runtime, sms=target, options=options, progress=progress)
            for _ in range(builds)
        )
        built.append((path, notes[-1]))
        all_notes.append(notes)
    return BuiltEngines(onnx_file, precision, tuple(built), tuple(all_notes))


def _find_exported_file(bundle: Path, precision: str) -> Path | None:
    """A bundle's own file of a precision other than FP32; None where it has none."""
    files = [a.file for a in Manifest.load(bundle).artefacts if a.precision == precision and a.file.endswith(".onnx")]
    if precision == "fp32" or not files or find_bundle_problems(bundle):
        return None
    return resolve_bundle_path(bundle, files[0])


def _find_fp32_file(bundle: Path) -> Path:
    manifest = Manifest.load(bundle)
    if problems := find_bundle_problems(bundle, manifest):
        raise UserError(
            f"{bundle} has changed since it was written: {'; '.join(problems)}. Copy it again from its source"
        )
    artefacts = sorted(manifest.artefacts, key=lambda a: a.file != manifest.default)
    file = next((a.file for a in artefacts if a.precision == "fp32" and a.file.endswith(".onnx")), None)
    if file is None:
        raise UserError(
            f"{bundle} has no FP32 file, and its INT8 file is quantised for another runtime; build from an ONNX file, "
            "or add fp32 to export.precisions and export again"
        )
    return resolve_bundle_path(bundle, file)
