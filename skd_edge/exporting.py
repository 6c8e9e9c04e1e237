"""`skd-edge export`: a network that was not made here becomes a bundle, held to the same bounds as one that was.

A checkpoint is of the own family, with its spec; anything else comes from a factory, which is somebody's code.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.clips import Preprocess, normalise
from skd_bench.errors import UsageError, UserError
from skd_edge.data.gather import deployed_view
from skd_edge.given import Videos, decoded, from_checkpoint, from_factory, is_factory, section, videos_below
from skd_edge.recipe import Clip, Licences, Network, Recipe
from skd_edge.report.formats import size

if TYPE_CHECKING:
    from torch import nn

    from skd_export.bundle import ModelFile

Stage = Callable[[str], None]
_BATCH, _ENOUGH, _STILL = 32, 200, 1e-3


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


@dataclass(frozen=True)
class File:
    """What became of one precision: within its bounds (``refused`` is None) or not, and by how much."""

    precision: str
    bytes: int
    parity: dict[str, Any]
    refused: str | None


@dataclass(frozen=True)
class Exported:
    """The bundle, or with ``dry_run`` what would be in it."""

    bundle: Path
    summary: str
    files: list[File]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """The same by name."""
        files = [{"precision": f.precision, "bytes": f.bytes, "parity": f.parity, "refused": f.refused}
                 for f in self.files]  # fmt: skip
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
    """A request from command-line options; what a recipe says of clip, spec and licences is the default.

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
        more["licences"] = recipe.licences
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
    say("making the network")
    network, count = _network(asked)
    found = len(videos_below(asked.clips)) if asked.clips else 0
    said = _summary(asked, network, count, found, bundle)
    if dry_run:
        return Exported(bundle, said, [], ["nothing was written (--dry-run)"])
    videos = decoded(asked.clips, asked.clip, most=asked.most, progress=progress) if asked.clips else None
    classes, labels = _classes(asked, count, videos)
    with tempfile.TemporaryDirectory(prefix="skd-export-") as folder:
        work = _Work(asked, network, classes, labels, videos, Path(folder))
        models, files = work.files(say)
        say("writing the bundle")
        _bundle(asked, bundle, classes, models)
        return Exported(bundle, said, files, [*work.notes, f"wrote {bundle}; next: skd-edge bench {bundle}"])


class _Work:
    """The files of one network, made and compared."""

    def __init__(
        self, asked: Request, network: nn.Module, classes: list[str], labels: NDArray[np.int64] | None,
        videos: Videos | None, folder: Path,
    ) -> None:  # fmt: skip
        self.asked, self.network, self.classes, self.folder = asked, network, classes, folder
        self.preprocess: Preprocess = deployed_view(asked.clip)[1]
        clips = videos.clips if videos else np.zeros((0, 1, 1, 1, 3), np.uint8)
        # One clip is never in both: a range that calibration saw is no proof that others fit it.
        taken = min(asked.calibration, len(clips) // 2) if "int8" in "".join(asked.precisions) else 0
        self.calibration, self.held = clips[:taken], clips[taken:]
        self.labels = labels[taken:] if labels is not None else None
        self.notes = _notes(videos, labels, taken, len(self.held))

    def files(self, say: Stage) -> tuple[list[ModelFile], list[File]]:
        from skd_export.artefacts import Quantising, facts, make_artefacts
        from skd_export.bundle import ModelFile
        from skd_export.parity import torch_logits

        say(f"writing {', '.join(self.asked.precisions)}")
        key = hashlib.sha256(self.calibration.tobytes()).hexdigest()
        clip = self.asked.clip
        made = make_artefacts(
            self.network, self.asked.precisions, self.folder, clip_shape=(clip.frames, clip.size, clip.size),
            classes=self.classes, quantising=Quantising(lambda: self._batches(self.calibration), key),
        )  # fmt: skip
        say(f"comparing on {len(self.held)} clips")
        reference = torch_logits(self.network, self._batches(self.held)) if len(self.held) else None
        models, files = [], []
        for precision, path in made.items():
            file, measured = self._compared(precision, path, reference)
            files.append(file)
            if file.refused is None:
                options: dict[str, Any] = {"optimisation": "all"}
                if precision.startswith("int8"):
                    known = {k: facts(path).get(k) for k in ("reduce_range", "per_channel")}
                    options |= {"calibration": {"clips": len(self.calibration), "sha256": key}, **known}
                kept = {k: v for k, v in file.parity.items() if k != "flips"}
                models.append(
                    ModelFile(path, precision, self.asked.name, [self.asked.name], options, kept, measured)  # type: ignore[arg-type]
                )
            elif precision == "fp32":
                raise UserError(f"{file.refused}: it is not exported; report this with the network's operators")
        return models, files

    def _compared(
        self, precision: str, path: Path, reference: NDArray[np.float32] | None
    ) -> tuple[File, dict[str, Any]]:
        from skd_bench.accuracy import logits_of, score
        from skd_bench.runtimes import runtime
        from skd_export.parity import parity, verdict

        if reference is None:
            return File(precision, path.stat().st_size, {}, None), {}
        session = runtime("ort").load(path, threads=1)
        try:
            logits = logits_of(session, _pieces(self.held), self.preprocess)
        finally:
            session.close()
        found = parity(reference, logits, self.labels)
        if precision == "fp32" and found["spread"] < _STILL:
            self.notes.append(
                f"the logits hardly move from clip to clip (by {found['spread']:.1e} of the largest): the comparison "
                "proves nothing; are these the trained weights, and these its clips?"
            )
        measured: dict[str, Any] = {}
        if self.labels is not None:
            top1 = score(logits, self.labels, self.classes).top1
            measured = {"accuracy": top1.value, "interval": [top1.low, top1.high]}
        return File(precision, path.stat().st_size, found, verdict(found, precision)), measured

    def _batches(self, clips: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        return (normalise(piece, self.preprocess) for piece in _pieces(clips))


def _pieces(clips: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    return (clips[i : i + _BATCH] for i in range(0, len(clips), _BATCH))


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


def _notes(videos: Videos | None, labels: NDArray[np.int64] | None, taken: int, held: int) -> list[str]:
    if videos is None:
        return ["nothing was compared: no real clips were given (--clips); the files are checked as ONNX only"]
    notes = [f"{len(videos.unread)} videos could not be read, the first: {videos.unread[0]}"] if videos.unread else []
    if held < _ENOUGH:
        notes.append(f"{held} clips were compared; {_ENOUGH} tell 98 % from 99.5 %")
    if taken and len(set(videos.labels[:taken].tolist())) == 1 and len(videos.folders) > 0:
        notes.append("INT8 was calibrated on clips of one class only: others may fall outside its ranges")
    if labels is None:
        notes.append("the clips' folders are not the classes, so that no accuracy is known")
    return notes


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
    what = f"  {file.precision}: {size(file.bytes)}"
    if file.refused:
        return f"{what}, rejected: {file.refused}"
    if not file.parity:
        return f"{what}, not compared"
    p = file.parity
    drop = "" if p["accuracy_drop"] is None else f", accuracy drop {p['accuracy_drop']:.1f} points"
    return f"{what}, same class on {p['agreement']:.1%} of {p['n']} clips, off by {p['relative']:.1e}{drop}"


def _bundle(asked: Request, folder: Path, classes: list[str], models: list[ModelFile]) -> None:
    from skd_edge import __version__
    from skd_export.bundle import write_bundle

    sampling, preprocess = deployed_view(asked.clip)
    source = asked.source if is_factory(asked.source) else Path(asked.source).name
    write_bundle(
        folder, name=asked.name, classes=classes, sampling=sampling, preprocess=preprocess, models=models,
        licences=asked.licences.model_dump(), created_by=f"skd-edge {__version__}", provenance={"exported": source},
    )  # fmt: skip
