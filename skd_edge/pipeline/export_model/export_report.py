"""The files of a network that was not made here: written, compared with it clip by clip, kept where within bounds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_bench.video.clip import Preprocess, normalise
from skd_edge.labels.dataset import deployed_view
from skd_edge.pipeline.export_model.sources import Videos

if TYPE_CHECKING:
    from torch import nn

    from skd_edge.pipeline.export_model.export_model import Request
    from skd_export.bundle.writer import ModelFile

_BATCH, _ENOUGH, _STILL = 32, 200, 1e-3
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Home = Literal["ort", "litert"]


@dataclass(frozen=True)
class File:
    """What became of one precision: within its bounds (``refused`` is None) or not, and by how much."""

    precision: str
    bytes: int
    parity: dict[str, Any]
    refused: str | None
    runtime: Home = "ort"


class Work:
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
        self._said: Floats | None = None

    def files(self, say: Callable[[str], None]) -> tuple[list[ModelFile], list[File]]:
        """Every file that was asked for, and those among them that may travel.

        Raises:
            UserError: The FP32 file does not answer as the network does, or a file cannot be made.
        """
        say(f"writing {', '.join(self.asked.precisions)}")
        models, files = [], []
        for home, precision, path in self._made(say):
            say(f"comparing {path.name} on {len(self.held)} clips")
            file, measured = self._compared(home, precision, path)
            files.append(file)
            if file.refused is None:
                models.append(self._model(file, path, measured))
            elif precision == "fp32" and home == "ort":
                raise UserError(f"{file.refused}: it is not exported; report this with the network's operators")
        return models, files

    def _made(self, say: Callable[[str], None]) -> list[tuple[Home, str, Path]]:
        from skd_export.exporter import Frames, Quantising, make_artefacts

        clip, asked = self.asked.clip, self.asked
        shape = (clip.frames, clip.size, clip.size)
        key = f"{self._key(self.calibration)}:{self._key(self.held)}:{asked.int8_agreement}:{asked.int8_drop}"
        made = make_artefacts(
            self.network, asked.precisions, self.folder, clip_shape=shape, classes=self.classes,
            quantising=Quantising(lambda: self._batches(self.calibration), key, refuse=self._refuse, say=say),
            frames=Frames(self.preprocess) if asked.contract == "frames" else None,
        )  # fmt: skip
        files: list[tuple[Home, str, Path]] = [("ort", precision, path) for precision, path in made.items()]
        if asked.litert:
            from skd_export.targets.litert import export_litert

            say("converting for LiteRT (a minute or two)")
            export_litert(self.network, self.folder / "fp32.tflite", clip_shape=shape)
            files.append(("litert", "fp32", self.folder / "fp32.tflite"))
        return files

    def _model(self, file: File, path: Path, measured: dict[str, Any]) -> ModelFile:
        from skd_export.bundle.writer import ModelFile
        from skd_export.exporter import facts

        options: dict[str, Any] = {"batch": 1} if file.runtime == "litert" else {"optimisation": "all"}
        if file.precision.startswith("int8"):
            known = {k: facts(path).get(k) for k in ("reduce_range", "per_channel", "excluded")}
            calibration = {"clips": len(self.calibration), "sha256": self._key(self.calibration)}
            options |= {"calibration": calibration, **known}
            if known["excluded"]:
                layers = ", ".join(known["excluded"])
                self.notes.append(f"{file.precision}: kept in FP32 to stay within the bounds: {layers}")
        kept = {k: v for k, v in file.parity.items() if k != "flips"}
        name = self.asked.name
        return ModelFile(path, file.precision, name, [name], options, kept, measured, file.runtime)  # type: ignore[arg-type]

    def _refuse(self, path: Path, precision: str) -> str | None:
        """Why an INT8 file of float clips is outside the bounds on the clips that are compared, or None."""
        from skd_export.analysis.parity import parity, verdict

        return verdict(parity(self._reference, self._answers("ort", path), self.labels), precision, self._bounds)

    def _compared(self, home: Home, precision: str, path: Path) -> tuple[File, dict[str, Any]]:
        from skd_bench.metrics.accuracy import score
        from skd_export.analysis.parity import parity, verdict

        if not len(self.held):
            return File(precision, path.stat().st_size, {}, None, home), {}
        logits = self._answers(home, path)
        found = parity(self._reference, logits, self.labels)
        if precision == "fp32" and home == "ort" and found["spread"] < _STILL:
            self.notes.append(
                f"the logits hardly move from clip to clip (by {found['spread']:.1e} of the largest): the comparison "
                "proves nothing; are these the trained weights, and these its clips?"
            )
        measured: dict[str, Any] = {}
        if self.labels is not None:
            top1 = score(logits, self.labels, self.classes).top1
            measured = {"accuracy": top1.value, "interval": [top1.low, top1.high]}
        return File(precision, path.stat().st_size, found, verdict(found, precision, self._bounds), home), measured

    @property
    def _bounds(self) -> Any:
        from skd_export.analysis.parity import Bounds

        return Bounds(agreement=self.asked.int8_agreement, drop=self.asked.int8_drop)

    @property
    def _reference(self) -> Floats:
        """What the network itself says of the clips that are compared; computed once."""
        from skd_export.analysis.parity import torch_logits

        if self._said is None:
            self._said = torch_logits(self.network, self._batches(self.held))
        return self._said

    def _answers(self, home: Home, path: Path) -> Floats:
        from skd_bench.metrics.accuracy import logits_of
        from skd_bench.runtimes import runtime

        session = runtime(home).load(path, threads=1)
        try:
            return logits_of(session, _pieces(self.held), self.preprocess)
        finally:
            session.close()

    def _batches(self, clips: Pixels) -> Iterator[Floats]:
        return (normalise(piece, self.preprocess) for piece in _pieces(clips))

    def _key(self, clips: Pixels) -> str:
        return hashlib.sha256(clips.tobytes()).hexdigest()


def _pieces(clips: Pixels) -> Iterator[Pixels]:
    return (clips[i : i + _BATCH] for i in range(0, len(clips), _BATCH))


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
