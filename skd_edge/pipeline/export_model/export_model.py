"""`skd-edge export`: a network that was not made here becomes a bundle, held to the same bounds as one that was.

A checkpoint is of the own family, with its spec; anything else comes from a factory, which is somebody's code.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UsageError
from skd_edge.labels.dataset import deployed_view
from skd_edge.pipeline.export_model.export_report import File, Work
from skd_edge.pipeline.export_model.sources import (
    Videos,
    decoded,
    from_checkpoint,
    from_factory,
    is_factory,
    section,
    videos_below,
)
from skd_edge.recipe.schema import Clip, Licences, Network, Recipe
from skd_edge.report.formatting import size

if TYPE_CHECKING:
    from torch import nn

    from skd_export.bundle.writer import ModelFile

Stage = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What to export.

    Attributes:
        source: A checkpoint of the own family, or ``package.module:callable``.
        network: The checkpoint's spec; a factory needs none.
        clip: What the network is given.
        name: Of the bundle and of its files.
        classes: Class names in the order of the logits; empty: the clips' folders where they fit, else numbers.
        precisions: Of the files.
        clips: A folder of real videos; without one nothing is compared and nothing is calibrated.
        calibration: How many of them INT8 calibration sees; the others are compared.
        most: How many of them are read.
        allow_code: Whether the factory may run.
        arguments: Of the factory.
        takes: What the factory's network takes.
        weights: A file of tensors for the factory's network.
        licences: For the manifest.
        contract: What a file takes: ``clip`` (normalised, float32) or ``frames`` (uint8), as in a recipe.
        int8_agreement: Agreement with the network that an INT8 file must reach ...
        int8_drop: ... or points of accuracy that it may cost; else its costliest layers stay in FP32.
        litert: Whether a .tflite file (FP32, float clips, one at a time) is made as well.
    """

    source: str
    network: Network
    clip: Clip
    name: str
    classes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)
    clips: Path | None = None
    calibration: int = 128
    most: int = 1024
    allow_code: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    takes: str = "clip"
    weights: Path | None = None
    licences: Licences = field(default_factory=Licences)
    contract: Literal["clip", "frames"] = "clip"
    int8_agreement: float = 0.98
    int8_drop: float = 1.0
    litert: bool = False


@dataclass(frozen=True)
class Exported:
    """The bundle, or with ``dry_run`` what would be in it."""

    bundle: Path
    summary: str
    files: list[File]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """The same by name."""
        files = [{"precision": f.precision, "bytes": f.bytes, "parity": f.parity, "refused": f.refused,
                  "runtime": f.runtime} for f in self.files]  # fmt: skip
        return {"bundle": str(self.bundle), "summary": self.summary, "files": files, "notes": self.notes}

    def to_text(self) -> str:
        """A line for each file and note."""
        return "\n".join([self.summary, *map(_line, self.files), *(f"note: {note}" for note in self.notes)])


def request(
    source: str,
    *,
    recipe: Recipe | None,
    network: dict[str, Any],
    clip: dict[str, Any],
    member: str | None,
    **more: Any,
) -> Request:
    """A request from command-line options; a recipe gives the defaults of clip, spec, contract, INT8 bounds, licences.

    Raises:
        UsageError: A value cannot be, or the recipe has no network of that name.
    """
    spec: dict[str, Any] = {"name": "network"}
    if recipe is not None:
        names = recipe.networks
        if member not in names:
            raise UsageError(f"--network names one of the recipe's networks ({', '.join(names)}), not {member!r}")
        spec = {k: v for k, v in names[member].model_dump().items() if k in Network.model_fields}
        clip = recipe.clip.model_dump() | {k: v for k, v in clip.items() if v is not None}
        asked = {k: getattr(recipe.export, k) for k in ("contract", "int8_agreement", "int8_drop", "litert")}
        more = asked | {k: v for k, v in more.items() if v} | {"licences": recipe.licences}
    made = section(Network, spec | {k: v for k, v in network.items() if v is not None})
    stem = source.rpartition(":")[2] if is_factory(source) else Path(source).stem
    given = {k: v for k, v in more.items() if v is not None}
    return Request(source, made, section(Clip, clip), **({"name": member or stem} | given))


def export(
    asked: Request, bundle: Path, *, dry_run: bool = False, stage: Stage | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:  # fmt: skip
    """Make the network, write its files, compare them with it on real clips, and bundle those within their bounds.

    Args:
        asked: What to export.
        bundle: The folder to write; a bundle that is there is replaced.
        dry_run: Only make the network and say what would be done.
        stage: Told what is done now.
        progress: Called with (videos decoded, videos in all).

    Raises:
        UserError: The network cannot be made or written as ONNX, INT8 is asked for without clips, or the FP32 file does
            not answer as the network does.
    """
    say = stage or (lambda text: None)
    if "int8" in "".join(asked.precisions) and asked.clips is None:
        raise UsageError("INT8 needs real clips to calibrate on: give --clips FOLDER, or leave int8 out")
    if asked.litert:
        from skd_edge.evaluation.litert_export import require_litert

        if asked.contract != "clip":
            raise UsageError("a .tflite file takes normalised clips: leave --contract frames or --litert out")
        require_litert()
    say("making the network")
    network, count = _network(asked)
    found = len(videos_below(asked.clips)) if asked.clips else 0
    said = _summary(asked, network, count, found, bundle)
    if dry_run:
        return Exported(bundle, said, [], ["nothing was written (--dry-run)"])
    videos = decoded(asked.clips, asked.clip, most=asked.most, progress=progress) if asked.clips else None
    classes, labels = _classes(asked, count, videos)
    with tempfile.TemporaryDirectory(prefix="skd-export-") as folder:
        work = Work(asked, network, classes, labels, videos, Path(folder))
        models, files = work.files(say)
        say("writing the bundle")
        _bundle(asked, bundle, classes, models)
        return Exported(bundle, said, files, [*work.notes, f"wrote {bundle}; next: skd-edge bench {bundle}"])


def _network(asked: Request) -> tuple[nn.Module, int]:
    if is_factory(asked.source):
        return from_factory(asked.source, asked.clip, allow_code=asked.allow_code, arguments=asked.arguments,
                            takes=asked.takes, weights=asked.weights)  # fmt: skip
    return from_checkpoint(Path(asked.source), asked.network, asked.clip)


def _classes(asked: Request, count: int, videos: Videos | None) -> tuple[list[str], NDArray[np.int64] | None]:
    """Class names, and each clip's class where every clip lies in a folder of that name."""
    folders = videos.folders if videos else ()
    names = asked.classes or (folders if len(folders) == count else tuple(f"class {i}" for i in range(count)))
    if len(names) != count:
        raise UsageError(f"the network has {count} classes, and --classes names {len(names)}")
    if len(set(names)) != count:
        raise UsageError("--classes names a class twice")
    if videos is None or (videos.labels < 0).any() or not set(folders) <= set(names):
        return list(names), None
    order = np.array([names.index(folder) for folder in folders], np.int64)
    return list(names), order[videos.labels]


def _summary(asked: Request, network: nn.Module, count: int, found: int, bundle: Path) -> str:
    weights = sum(p.numel() for p in network.parameters())
    clip, kind = asked.clip, "factory" if is_factory(asked.source) else f"{asked.network.family} checkpoint"
    clips = f"{min(found, asked.most)} of {found} clips in {asked.clips}" if asked.clips else "no clips"
    memory = min(found, asked.most) * clip.frames * clip.size**2 * 3
    return (
        f"{asked.name}: {kind}, {weights} weights, {count} classes, clips of {clip.frames}x{clip.size}x{clip.size}; "
        f"{', '.join(asked.precisions)}; {clips} ({size(memory)} in memory); to {bundle}"
    )


def _line(file: File) -> str:
    where = "" if file.runtime == "ort" else f" ({file.runtime})"
    what = f"  {file.precision}{where}: {size(file.bytes)}"
    if file.refused:
        return f"{what}, rejected: {file.refused}"
    if not file.parity:
        return f"{what}, not compared"
    p = file.parity
    drop = "" if p["accuracy_drop"] is None else f", accuracy drop {p['accuracy_drop']:.1f} points"
    return f"{what}, same class on {p['agreement']:.1%} of {p['n']} clips, off by {p['relative']:.1e}{drop}"


def _bundle(asked: Request, folder: Path, classes: list[str], models: list[ModelFile]) -> None:
    from skd_edge import __version__
    from skd_export.bundle.writer import write_bundle

    sampling, preprocess = deployed_view(asked.clip)
    source = asked.source if is_factory(asked.source) else Path(asked.source).name
    write_bundle(
        folder, name=asked.name, classes=classes, sampling=sampling, preprocess=preprocess, models=models,
        licences=asked.licences.model_dump(), created_by=f"skd-edge {__version__}", provenance={"exported": source},
        contract="float_clip" if asked.contract == "clip" else "uint8_frames",
    )  # fmt: skip
