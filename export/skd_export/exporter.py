"""Exports a network to one file for each precision.

A file is written once and reused while the network, the classes and the calibration clips are unchanged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict, cast

import onnx
import onnxruntime as ort
import torch
from torch import nn

from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.integrity.checked_files import DamagedFileError, read_checked_json, report_damage, write_checked_json
from skd_export.analysis.operator_profile import profile_operators
from skd_export.graph.graph_template import architecture_key
from skd_export.graph.onnx_export import export_onnx
from skd_export.graph.source_map import append_source_line
from skd_export.graph.uint8_input import Uint8Input, add_preprocessing
from skd_export.quantization.calibration import CalibrationRanges, Floats, LogFunction
from skd_export.quantization.quantize import (
    FileMetadata,
    convert_bf16,
    convert_fp16,
    count_executed_operators,
    needs_reduced_range,
    quantize_for_ort,
    quantize_for_tensorrt,
    quantize_to_fp8,
)
from skd_export.quantization.sensitivity import QuantizeFunction, quantize_within_bounds
from skd_export.targets.litert import LITERT_PRECISIONS, describe_litert, export_litert, quantize_litert

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-trt", "fp8")
INT8 = ("int8", "int8-trt")
QUANTIZED = (*INT8, "fp8")
LITERT_FILES = {f"{precision}.litert": precision for precision in LITERT_PRECISIONS}  # keys of .tflite files
_CACHE_VERSION = 5  # raise it when the content of the files changes: older files are then written again


@dataclass(frozen=True)
class QuantizationConfig:
    """How INT8 and FP8 files are made.

    Attributes:
        clips: Returns batches of normalised clips, float32 ``(b, 3, T, H, W)``. Called only when a file has to be made.
        key: Identifies the calibration clips and everything that ``find_violation`` depends on (a hash).
        reduce_range: Whether weights have 7 bits (see `quantize_for_ort`); None: whatever this machine needs.
        find_violation: Called with a file and its precision. Returns the reason why the file is outside its bounds, or
            None when it is within them. While there is a reason, the most sensitive layers stay in FP32
            (`skd_export.quantization.sensitivity.quantize_within_bounds`). The file always takes float clips, also
            when the network is exported for uint8 frames.
        log: Called with a line that states how much memory the calibration needs.
    """

    clips: Callable[[], Iterable[Floats]]
    key: str = ""
    reduce_range: bool | None = None
    find_violation: Callable[[Path, str], str | None] = lambda path, precision: None
    log: LogFunction = lambda line: None


def make_artefacts(
    network: nn.Module,
    precisions: Sequence[str],
    folder: Path | str,
    *,
    clip_shape: tuple[int, int, int],
    classes: list[str],
    quantization: QuantizationConfig | None = None,
    graph_cache: Path | None = None,
    uint8_input: Uint8Input | None = None,
) -> dict[str, Path]:
    """Export a network to ``<folder>/<precision>.onnx`` for each requested precision.

    An existing file is reused if it is complete and was made from the same weights, architecture, classes, package
    versions and calibration. The metadata of each file is written beside it as ``<precision>.json``; `read_metadata`
    reads it.

    Args:
        network: A plain module in eval mode, ``forward(clip) -> logits``.
        precisions: Any of ``fp32``, ``fp16``, ``bf16``, ``int8`` (for ONNX Runtime on CPUs), ``int8-trt`` and ``fp8``
            (for TensorRT). All are made from the FP32 file, which is therefore always written. Also keys of
            `LITERT_FILES`: LiteRT files, which take normalised float clips one at a time.
        folder: Created when missing.
        clip_shape: ``(T, H, W)``.
        classes: Class names in the order of the logits.
        quantization: How INT8 and FP8 files are made.
        graph_cache: Folder where traced graphs are shared between runs; see `export_onnx`.
        uint8_input: The files take uint8 frames of this contract; None: they take normalised float clips.

    Returns:
        The path of each requested precision, in the requested order.

    Raises:
        UserError: A precision is unknown, or INT8 or FP8 is requested without ``quantization``; also whatever
            `export_onnx`, `convert_fp16`, `convert_bf16` and `quantize_for_ort` raise.
    """
    if unknown := [p for p in precisions if p not in (*PRECISIONS, *LITERT_FILES)]:
        raise UserError(f"unknown precision {unknown[0]!r}; choose from {', '.join(PRECISIONS)}")
    if (quantised := [p for p in (*QUANTIZED, "int8.litert") if p in precisions]) and quantization is None:
        raise UserError(f"{quantised[0]} needs calibration clips: pass them, or remove it from the precisions")
    maker = _ArtefactMaker(Path(folder), _fingerprint_network(network, clip_shape, classes), uint8_input)
    maker.export_fp32(
        lambda path: export_onnx(network, path, clip_shape=clip_shape, classes=classes, graph_cache=graph_cache)
    )
    if "fp16" in precisions:
        maker.make_if_outdated("fp16", "", lambda path: convert_fp16(maker.float_clip_file("fp32"), path))
    if "bf16" in precisions:
        maker.make_if_outdated("bf16", "", lambda path: convert_bf16(maker.float_clip_file("fp32"), path))
    if quantization is not None:
        maker.make_quantized_files([p for p in QUANTIZED if p in precisions], quantization)
    if litert := [p for p in LITERT_FILES if p in precisions]:
        maker.make_litert_files(network, litert, clip_shape, quantization)
    return {precision: maker.artefact_file(precision) for precision in precisions}


class _MetadataFile(TypedDict):
    """Content of the JSON file beside an artefact: what the artefact was made from, its SHA-256, and its metadata.

    For uint8 input there is also the SHA-256 of the intermediate file that takes float clips; otherwise it is equal.
    """

    key: str
    file_sha256: str
    float_clip_sha256: str
    facts: FileMetadata


class _ArtefactMaker:
    """Writes the files of one network into one folder; a file is written again only when its inputs have changed."""

    def __init__(self, folder: Path, key: str, uint8_input: Uint8Input | None) -> None:
        self.folder, self.key, self.uint8_input = folder, key, uint8_input

    def artefact_file(self, precision: str) -> Path:
        return self.folder / f"{precision}{'.tflite' if precision in LITERT_FILES else '.onnx'}"

    def float_clip_file(self, precision: str) -> Path:
        """The file that takes float clips. For uint8 input it is an intermediate file beside the artefact."""
        return self.artefact_file(precision) if self.uint8_input is None else self.folder / f"{precision}.clip"

    def export_fp32(self, export: Callable[[Path], dict[str, str]]) -> None:
        def export_and_count_operators(path: Path) -> FileMetadata:
            sources = export(path)
            try:
                return {"operators": count_executed_operators(path)}
            except UserError as error:
                raise UserError(append_source_line(str(error), sources)) from error

        self.make_if_outdated("fp32", "", export_and_count_operators)

    def make_if_outdated(self, precision: str, key: str, write_file: Callable[[Path], FileMetadata]) -> None:
        """Write the file of a precision unless it is up to date.

        Args:
            precision: Name of the file without its ending.
            key: Identifies the inputs besides the network, the input contract and the FP32 file.
            write_file: Writes the file that takes float clips to a path and returns its metadata.
        """
        file, float_clip_file = self.artefact_file(precision), self.float_clip_file(precision)
        full_key = f"{self.key}:{key}:{self.uint8_input}" + (
            f":{sha256_file(self.float_clip_file('fp32'))}" if precision != "fp32" else ""
        )
        if _is_up_to_date(file, full_key, float_clip_file):
            return
        metadata = write_file(float_clip_file)
        if self.uint8_input is not None:
            add_preprocessing(float_clip_file, file, self.uint8_input.preprocess, self.uint8_input.size)
        # "fates" is the JSON key of the operator profiles.
        # ONNX Runtime, which is profiled, has no bfloat16 convolution on a CPU, and reads no .tflite file.
        profile = [] if precision in ("bf16", *LITERT_FILES) else profile_operators(file)
        _write_metadata(file, full_key, float_clip_file, metadata | {"fates": profile})

    def make_litert_files(
        self,
        network: nn.Module,
        keys: Sequence[str],
        clip_shape: tuple[int, int, int],
        config: QuantizationConfig | None,
    ) -> None:
        """Write the .tflite files of these keys; those of other precisions are made from FP32's."""

        def convert(path: Path) -> FileMetadata:
            return describe_litert(path, export_litert(network, path, clip_shape=clip_shape))

        self.make_if_outdated("fp32.litert", "", convert)
        source = self.artefact_file("fp32.litert")
        for key in keys:
            if key == "fp32.litert":
                continue
            if key == "int8.litert" and config is not None:
                clips, clips_key = config.clips, config.key
            else:
                clips, clips_key = (lambda: ()), ""

            def quantize(path: Path, key: str = key, clips: Callable[[], Iterable[Floats]] = clips) -> FileMetadata:
                return describe_litert(path, quantize_litert(source, path, LITERT_FILES[key], clips()))

            self.make_if_outdated(key, clips_key, quantize)

    def make_quantized_files(self, precisions: Sequence[str], config: QuantizationConfig) -> None:
        reduced = needs_reduced_range() if config.reduce_range is None else config.reduce_range
        ranges: list[CalibrationRanges] = []  # computed at most once, and only if a file has to be written

        def calibrate_once() -> CalibrationRanges:
            if not ranges:
                ranges.append(CalibrationRanges(self.float_clip_file("fp32"), config.clips(), log=config.log))
            return ranges[0]

        quantizers: dict[str, QuantizeFunction] = {
            "int8": partial(quantize_for_ort, reduce_range=reduced),
            "int8-trt": quantize_for_tensorrt,
            "fp8": quantize_to_fp8,
        }
        for precision in precisions:

            def quantize_file(path: Path, precision: str = precision) -> FileMetadata:
                fp32, quantize = self.float_clip_file("fp32"), quantizers[precision]
                return quantize_within_bounds(
                    fp32, path, calibrate_once(), quantize, lambda file: config.find_violation(file, precision)
                )

            self.make_if_outdated(precision, f"{config.key}:{reduced}", quantize_file)


def read_metadata(path: Path | str) -> FileMetadata:
    """Read the metadata of a file that `make_artefacts` wrote.

    Raises:
        UserError: There is no readable metadata file beside the file.
    """
    content = _read_metadata_file(Path(path))
    if content is None:
        metadata_file = Path(path).with_suffix(".json")
        raise UserError(f"{metadata_file}, the metadata of {path}, is missing or unreadable; make the artefacts again")
    return content["facts"]


def _fingerprint_network(network: nn.Module, clip_shape: tuple[int, int, int], classes: list[str]) -> str:
    """A hash of everything that the FP32 file depends on."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    # A network that cannot be pickled has no architecture key: its printed form stands in for it.
    structure = architecture_key(network, clip_shape) or repr(network)
    versions = (_CACHE_VERSION, torch.__version__, onnx.__version__, ort.__version__)
    digest.update(json.dumps([structure, clip_shape, classes, versions]).encode())
    return digest.hexdigest()


def _write_metadata(path: Path, key: str, float_clip_file: Path, metadata: FileMetadata) -> None:
    content: _MetadataFile = {
        "key": key,
        "file_sha256": sha256_file(path),
        "float_clip_sha256": sha256_file(float_clip_file),
        "facts": metadata,
    }
    write_checked_json(path.with_suffix(".json"), content)


def _read_metadata_file(path: Path) -> _MetadataFile | None:
    """The metadata of a file; None if there is none, or if it was damaged."""
    try:
        return cast(_MetadataFile, read_checked_json(path.with_suffix(".json")))
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        report_damage(error, "the file is made again")
        return None


def _is_up_to_date(path: Path, key: str, float_clip_file: Path) -> bool:
    """Whether a file and the one it was made from exist, were made from these inputs, and are undamaged."""
    content = _read_metadata_file(path)
    if content is None or content["key"] != key or not path.is_file() or not float_clip_file.is_file():
        return False
    expected_by_file = {path: content["file_sha256"], float_clip_file: content["float_clip_sha256"]}  # often one file
    for file, expected in expected_by_file.items():
        if (found := sha256_file(file)) != expected:
            report_damage(DamagedFileError(file, f"SHA-256 {expected}", found), "the file is made again")
            return False
    return True
