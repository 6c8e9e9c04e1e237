"""The files of one network: exported once for each precision, kept while network, classes and clips stay the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch
from torch import nn

from skd_bench.errors import UserError
from skd_bench.files import sha256_file, write_json
from skd_bench.video.clip import Preprocess
from skd_export.analysis.operator_profile import operator_fates
from skd_export.graph.graph_template import architecture
from skd_export.graph.onnx_export import export_onnx
from skd_export.graph.source_map import with_source
from skd_export.graph.uint8_input import take_frames
from skd_export.quantization.calibration import Calibrated, Floats, Say
from skd_export.quantization.quantize import (
    convert_fp16,
    needs_reduced_range,
    operator_fate,
    quantise_ort,
    quantise_trt,
)
from skd_export.quantization.sensitivity import within_bounds

PRECISIONS = ("fp32", "fp16", "int8", "int8-trt")
INT8 = ("int8", "int8-trt")
_METHOD = 3  # raised when what is written changes: files of an older method are made again


@dataclass(frozen=True)
class Frames:
    """The contract of uint8 frames ``(B, T, H, W, 3)``, in place of float clips.

    Attributes:
        preprocess: What the network's clips are normalised and fitted with.
        size: Height and width of the frames where they are not the network's.
    """

    preprocess: Preprocess
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Quantising:
    """How INT8 files are made.

    Attributes:
        clips: Called when one is really made; gives batches of normalised clips ``(b, 3, T, H, W)``.
        key: What identifies those clips, and what ``refuse`` goes by (hashes).
        reduce_range: 7-bit weights (`quantise_ort`); None: what this machine needs.
        refuse: Why a file (of float clips, also where frames are asked for) is outside its bounds at a precision, or
            None: then the costliest layers stay in FP32 until it is within (`sensitivity.within_bounds`).
        say: Told how much memory calibrating takes.
    """

    clips: Callable[[], Iterable[Floats]]
    key: str = ""
    reduce_range: bool | None = None
    refuse: Callable[[Path, str], str | None] = lambda path, precision: None
    say: Say = lambda line: None


def make_artefacts(
    network: nn.Module,
    precisions: Sequence[str],
    folder: Path | str,
    *,
    clip_shape: tuple[int, int, int],
    classes: list[str],
    quantising: Quantising | None = None,
    graphs: Path | None = None,
    frames: Frames | None = None,
) -> dict[str, Path]:
    """Export a network to ``<folder>/<precision>.onnx`` for each precision asked.

    A file that is there, whole, and made from the same weights, architecture, classes, versions and calibration is
    kept. What is known about each file (`facts`) lies beside it as ``<precision>.json``.

    Args:
        network: A plain module in eval mode, ``forward(clip) -> logits``.
        precisions: Of ``fp32``, ``fp16``, ``int8`` (ONNX Runtime on CPUs) and ``int8-trt`` (TensorRT); all are made
            from the FP32 file, which is then made too.
        folder: Made when missing.
        clip_shape: ``(T, H, W)``.
        classes: Class names in the order of the logits.
        quantising: How INT8 files are made.
        graphs: Where traced graphs are shared, see `export_onnx`.
        frames: Files that take uint8 frames; None: normalised float clips.

    Returns:
        The path of each precision asked, in the order asked.

    Raises:
        UserError: An unknown precision, INT8 without calibration, or what `export_onnx` and `quantise_ort` raise.
    """
    if strange := [p for p in precisions if p not in PRECISIONS]:
        raise UserError(f"precision {strange[0]!r} is not known; there are: {', '.join(PRECISIONS)}")
    if {*INT8} & {*precisions} and quantising is None:
        raise UserError("INT8 needs calibration clips: give them, or leave int8 out")
    maker = _Maker(Path(folder), _key(network, clip_shape, classes), frames)
    maker.fp32(lambda path: export_onnx(network, path, clip_shape=clip_shape, classes=classes, graphs=graphs))
    if "fp16" in precisions:
        maker.make("fp16", "", lambda path: convert_fp16(maker.clip("fp32"), path))
    if quantising is not None:
        maker.quantise([p for p in INT8 if p in precisions], quantising)
    return {precision: maker.file(precision) for precision in precisions}


class _Maker:
    """The files of one network in one folder: each made once, and again when what it depends on has changed."""

    def __init__(self, folder: Path, key: str, frames: Frames | None) -> None:
        self.folder, self.key, self.frames = folder, key, frames

    def file(self, precision: str) -> Path:
        return self.folder / f"{precision}.onnx"

    def clip(self, precision: str) -> Path:
        """The file that takes float clips; where frames are asked for, what the other one is made from."""
        return self.file(precision) if self.frames is None else self.folder / f"{precision}.clip"

    def fp32(self, export: Callable[[Path], dict[str, str]]) -> None:
        def make(path: Path) -> dict[str, Any]:
            sources = export(path)
            try:
                return {"operators": operator_fate(path)}
            except UserError as error:
                raise UserError(with_source(str(error), sources)) from error

        self.make("fp32", "", make)

    def make(self, precision: str, key: str, make: Callable[[Path], dict[str, Any]]) -> None:
        """Make the file of a precision unless it is there; ``make`` writes a clip file and returns what is known."""
        file, clip = self.file(precision), self.clip(precision)
        full = f"{self.key}:{key}:{self.frames}" + (f":{sha256_file(self.clip('fp32'))}" if precision != "fp32" else "")
        if _is_made(file, full) and clip.is_file():
            return
        known = make(clip)
        if self.frames is not None:
            take_frames(clip, file, self.frames.preprocess, self.frames.size)
        _note(file, full, known | {"fates": [vars(f) for f in operator_fates(file)]})

    def quantise(self, precisions: Sequence[str], how: Quantising) -> None:
        reduced = needs_reduced_range() if how.reduce_range is None else how.reduce_range
        ranges: list[Calibrated] = []  # one for both files, and none where both are there

        def calibrated() -> Calibrated:
            if not ranges:
                ranges.append(Calibrated(self.clip("fp32"), how.clips(), say=how.say))
            return ranges[0]

        writers: dict[str, Callable[..., dict[str, Any]]] = {}
        writers |= {"int8": partial(quantise_ort, reduce_range=reduced), "int8-trt": quantise_trt}
        for precision in precisions:

            def make(path: Path, precision: str = precision) -> dict[str, Any]:
                fp32, write = self.clip("fp32"), writers[precision]
                return within_bounds(fp32, path, calibrated(), write, lambda file: how.refuse(file, precision))

            self.make(precision, f"{how.key}:{reduced}", make)


def facts(path: Path | str) -> dict[str, Any]:
    """What is known about a file of `make_artefacts`: operators as they run, and for INT8 how it was calibrated.

    Raises:
        UserError: There is no readable note beside the file.
    """
    noted = _noted(Path(path))
    if noted is None:
        raise UserError(f"nothing is noted about {path}; make the artefacts again")
    known: dict[str, Any] = noted["facts"]
    return known


def _key(network: nn.Module, clip_shape: tuple[int, int, int], classes: list[str]) -> str:
    """A hash of everything the FP32 file depends on."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    # A network that has no outline is known by its weights and its printed form.
    outline = architecture(network, clip_shape) or repr(network)
    versions = (_METHOD, torch.__version__, onnx.__version__, ort.__version__)
    digest.update(json.dumps([outline, clip_shape, classes, versions]).encode())
    return digest.hexdigest()


def _note(path: Path, key: str, known: dict[str, Any]) -> None:
    write_json(path.with_suffix(".json"), {"key": key, "sha256": sha256_file(path), "facts": known})


def _noted(path: Path) -> dict[str, Any] | None:
    try:
        noted = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return noted if isinstance(noted, dict) and {"key", "sha256", "facts"} <= set(noted) else None


def _is_made(path: Path, key: str) -> bool:
    noted = _noted(path)
    return noted is not None and noted["key"] == key and path.is_file() and sha256_file(path) == noted["sha256"]
