"""`export_model`: export a network that no run of skd-edge trained into a bundle, within the bounds that runs use.

The network is a checkpoint of a built-in family, described by its spec, or comes from a factory (third-party code).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UsageError, UserError
from skd_bench.listing.folder_walk import LeftOut
from skd_bench.runtimes.openvino import why_no_bfloat16
from skd_bench.untrusted.text import escape_name
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.pipeline.export_model.export_report import ExportedFile, ModelExport
from skd_edge.pipeline.export_model.request import ExportRequest
from skd_edge.pipeline.export_model.sources import (
    DecodedVideos,
    decode_videos,
    find_videos,
    is_factory,
    load_checkpoint_network,
    load_factory_network,
)
from skd_edge.report.formatting import format_size

if TYPE_CHECKING:
    from torch import nn

    from skd_export.bundle.writer import ModelFile

StageCallback = Callable[[str], None]


@dataclass(frozen=True)
class ExportResult:
    """What was exported.

    Attributes:
        bundle: the bundle's folder; with ``dry_run`` it was not written.
        summary: one line about the network, its files and the clips.
        files: one for each requested precision and runtime; empty with ``dry_run``.
        notes: what the user should know about the export.
    """

    bundle: Path
    summary: str
    files: list[ExportedFile]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """For ``--json``: ``{"bundle", "summary", "files", "notes"}``."""
        files: list[dict[str, object]] = [
            {
                "precision": f.precision,
                "bytes": f.bytes,
                "parity": f.parity or {},
                "refused": f.rejection_reason,
                "runtime": f.runtime,
            }
            for f in self.files
        ]
        return {"bundle": str(self.bundle), "summary": self.summary, "files": files, "notes": self.notes}

    def to_text(self) -> str:
        """The summary, and a line for each file and each note."""
        return "\n".join(
            [self.summary, *map(_format_file_line, self.files), *(escape_name(f"note: {note}") for note in self.notes)]
        )


def export_model(
    request: ExportRequest,
    bundle: Path,
    *,
    dry_run: bool = False,
    on_stage: StageCallback | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExportResult:
    """Build the network, export it, compare the files with it on real clips, and bundle those within their bounds.

    Args:
        request: What to export.
        bundle: The folder to write; an existing bundle is replaced if it holds nothing else.
        dry_run: Only build the network and summarise what would be done.
        on_stage: Called with a short text when a step begins.
        progress: Called with (videos decoded, videos in all).

    Raises:
        UsageError: The options do not fit each other, e.g. INT8 without clips to calibrate on.
        UserError: The network cannot be built or exported, the logits of the FP32 file differ from the network's, or
            the folder cannot be replaced (see `check_replaceable`).
    """
    report_stage = on_stage or (lambda text: None)
    if request.needs_calibration and request.clips is None:
        raise UsageError(
            "INT8 and FP8 need real clips to calibrate on: add --clips FOLDER, or remove them from --precisions"
        )
    if "bf16" in request.precisions and request.clips is not None and (reason := why_no_bfloat16()):
        raise UserError(f"a BF16 file is compared on OpenVINO, and {reason}; remove bf16 from --precisions")
    if request.litert:
        from skd_edge.evaluation.litert_export import check_litert_available

        if request.contract != "clip":
            raise UsageError("a .tflite file takes normalised clips: remove --contract frames or --litert")
        check_litert_available()
    from skd_export.bundle.writer import check_replaceable

    check_replaceable(bundle)
    report_stage("building the network")
    network, class_count = _load_network(request)
    left_out = LeftOut()
    video_count = len(find_videos(request.clips, left_out, request.pictures)) if request.clips else 0
    summary = _format_summary(request, network, class_count, video_count, bundle)
    if dry_run:
        notes = [text] if (text := left_out.to_text()) else []
        return ExportResult(bundle, summary, [], [*notes, "nothing was written (--dry-run)"])
    videos = (
        decode_videos(
            request.clips, request.clip, max_videos=request.most, pictures=request.pictures, progress=progress
        )
        if request.clips
        else None
    )
    classes, labels = _match_classes(request, class_count, videos)
    with tempfile.TemporaryDirectory(prefix="skd-export-") as folder:
        export = ModelExport(request, network, classes, labels, videos, Path(folder))
        models, files = export.export_and_compare(report_stage)
        report_stage("writing the bundle")
        _write_export_bundle(request, bundle, classes, models)
        return ExportResult(bundle, summary, files, [*export.notes, f"wrote {bundle}; next: skd-edge bench {bundle}"])


def _load_network(request: ExportRequest) -> tuple[nn.Module, int]:
    if is_factory(request.source):
        return load_factory_network(
            request.source,
            request.clip,
            allow_code=request.allow_code,
            arguments=request.arguments,
            takes=request.takes,
            weights=request.weights,
        )
    return load_checkpoint_network(Path(request.source), request.network, request.clip)


def _match_classes(
    request: ExportRequest, class_count: int, videos: DecodedVideos | None
) -> tuple[list[str], NDArray[np.int64] | None]:
    """Class names, and ``(N,)`` classes of the clips; None where the names of the clips' folders are not classes."""
    folders = videos.folders if videos else ()
    names = request.classes or (
        folders if len(folders) == class_count else tuple(f"class {i}" for i in range(class_count))
    )
    if len(names) != class_count:
        raise UsageError(f"the network has {class_count} classes, but --classes lists {len(names)} names")
    if len(set(names)) != class_count:
        raise UsageError("--classes lists a name twice")
    if videos is None or (videos.labels < 0).any() or not set(folders) <= set(names):
        return list(names), None
    order = np.array([names.index(folder) for folder in folders], np.int64)
    return list(names), order[videos.labels]


def _format_summary(
    request: ExportRequest, network: nn.Module, class_count: int, video_count: int, bundle: Path
) -> str:
    weights = sum(p.numel() for p in network.parameters())
    clip, kind = request.clip, "factory" if is_factory(request.source) else f"{request.network.family} checkpoint"
    shape = f"{clip.frames}x{clip.size}x{clip.size}"
    clips = (
        f"{min(video_count, request.most)} of {video_count} clips in {request.clips}" if request.clips else "no clips"
    )
    memory = min(video_count, request.most) * clip.frames * clip.size**2 * 3
    return (
        f"{request.name}: {kind}, {weights} weights, {class_count} classes, clips of {shape}; "
        f"{', '.join(request.precisions)}; {clips} ({format_size(memory)} in memory); to {bundle}"
    )


def _format_file_line(file: ExportedFile) -> str:
    where = "" if file.runtime == "ort" else f" ({file.runtime})"
    what = f"  {file.precision}{where}: {format_size(file.bytes)}"
    if file.rejection_reason:
        return f"{what}, rejected: {file.rejection_reason}"
    if not file.parity:
        return f"{what}, not compared"
    p = file.parity
    drop = "" if p["accuracy_drop"] is None else f", accuracy drop {p['accuracy_drop']:.1f} points"
    return f"{what}, same class on {p['agreement']:.1%} of {p['n']} clips, off by {p['relative']:.1e}{drop}"


def _write_export_bundle(request: ExportRequest, folder: Path, classes: list[str], models: list[ModelFile]) -> None:
    from skd_edge.version import VERSION
    from skd_export.bundle.writer import write_bundle

    sampling, preprocess = inference_preprocessing(request.clip)
    source = request.source if is_factory(request.source) else Path(request.source).name
    write_bundle(
        folder,
        name=request.name,
        classes=classes,
        sampling=sampling,
        preprocess=preprocess,
        models=models,
        licences=request.licences.model_dump(),
        created_by=f"skd-edge {VERSION}",
        provenance={"exported": source},
        contract="float_clip" if request.contract == "clip" else "uint8_frames",
    )
