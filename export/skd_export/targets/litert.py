"""Exports a trained network to LiteRT (.tflite) files with Google's converter, for boards where LiteRT is fastest.

The converter (litert-torch) reads the PyTorch module directly. Its quantiser (ai-edge-quantizer) makes files of FP16
weights and of full INT8 from the FP32 file; they take and give float32 too. The converter installs about sixty packages
and takes a minute or two. One of these packages needs a version of typing_extensions that pydantic 2.12 does not
support, so skd-edge has no extra for it; docs/precision.md has the command that installs it. To run a file,
`ai-edge-litert` is enough.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import logging
import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_bench.runtimes.litert import LiteRtRuntime
from skd_export.quantization.quantize import FileMetadata

Floats = npt.NDArray[np.float32]

_INSTALL_HINT = "a plain pip install conflicts with pydantic; docs/precision.md (LiteRT) has the command that works"


def explain_missing_converter() -> str | None:
    """The reason why .tflite files cannot be written here, or None if they can. Imports nothing."""
    return (
        _explain_missing("litert_torch", "litert-torch")
        or _explain_missing("ai_edge_quantizer", "ai-edge-quantizer")
        or LiteRtRuntime().why_unavailable()
    )


def _explain_missing(module: str, package: str) -> str | None:
    return f"{package} is not installed; {_INSTALL_HINT}" if importlib.util.find_spec(module) is None else None


LITERT_PRECISIONS = ("fp32", "fp16", "int8")
_CALIBRATION_CLIPS = 128


class TfliteMetadata(TypedDict):
    """How a .tflite file was made.

    Attributes:
        batch: The fixed batch size, always 1.
        converter: Name and version of the converter.
    """

    batch: int
    converter: str


def export_litert(network: nn.Module, path: Path | str, *, clip_shape: tuple[int, int, int]) -> TfliteMetadata:
    """Write a network as one .tflite file: ``clip`` float32 ``(1, 3, T, H, W)`` in, logits float32 ``(1, C)`` out.

    The batch is fixed at one clip: the network folds frames into the batch, and the converter writes fixed shapes.

    Args:
        network: A plain module in eval mode, ``forward(clip) -> logits``, on the CPU.
        path: Where the file goes; written atomically.
        clip_shape: ``(T, H, W)``.

    Raises:
        UserError: The converter is missing, the network is in train mode, or the converter cannot convert it.
    """
    if reason := _explain_missing("litert_torch", "litert-torch"):
        raise UserError(f"a .tflite file cannot be written: {reason}")
    if any(module.training for module in network.modules()):
        raise UserError("the network is in train mode: call network.eval() before exporting it")
    with tempfile.TemporaryDirectory(prefix="skd-litert-") as folder:
        tflite_file = Path(folder) / "network.tflite"
        with _silence_converter():
            converter = importlib.import_module("litert_torch")
            try:
                converter.convert(network, (torch.zeros(1, 3, *clip_shape),)).export(str(tflite_file))
            except Exception as error:  # errors of torch.export, jax and the converter have no other base class
                first = (str(error).strip().splitlines() or [""])[0]
                raise UserError(f"litert-torch cannot convert the network: {type(error).__name__}: {first}") from error
        write_atomic(path, tflite_file.read_bytes())
    return {"batch": 1, "converter": f"litert-torch {importlib.metadata.version('litert-torch')}"}


def quantize_litert(fp32: Path, path: Path | str, precision: str, batches: Iterable[Floats]) -> TfliteMetadata:
    """Make a .tflite file of another precision from the FP32 file; input and logits stay float32.

    Args:
        fp32: A file that `export_litert` wrote.
        path: Where the file goes; written atomically.
        precision: ``fp16`` (weights in half precision; the CPU computes in FP32) or ``int8`` (weights with a scale for
            each channel, activations with one for each tensor, by minimum and maximum over clips).
        batches: For ``int8``: normalised clips, float32 ``(b, 3, T, H, W)``; the first 128 clips are used.

    Raises:
        UserError: The quantiser is missing or fails, or there are no clips.
    """
    if reason := _explain_missing("ai_edge_quantizer", "ai-edge-quantizer"):
        raise UserError(f"a .tflite file cannot be written: {reason}")
    with _silence_converter():
        quantizer = importlib.import_module("ai_edge_quantizer.quantizer")
        try:
            recipe = _make_quantizer_recipe(precision)
            work = quantizer.Quantizer(str(fp32))
            work.load_quantization_recipe(recipe.get_quantization_recipe())
            ranges = _calibrate(fp32, recipe, batches) if work.need_calibration else None
            content = bytes(work.quantize(ranges).quantized_model)
        except (ValueError, RuntimeError, TypeError, KeyError) as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise UserError(f"ai-edge-quantizer cannot make {precision.upper()} of {fp32}: {reason}") from error
    write_atomic(path, content)
    return {"batch": 1, "converter": f"ai-edge-quantizer {importlib.metadata.version('ai-edge-quantizer')}"}


def _make_quantizer_recipe(precision: str) -> Any:
    """All operators in a precision, between a float32 input and output."""
    types = importlib.import_module("ai_edge_quantizer.qtyping")
    algorithms = importlib.import_module("ai_edge_quantizer.algorithm_manager").AlgorithmName
    recipe = importlib.import_module("ai_edge_quantizer.recipe_manager").RecipeManager()
    operators = types.TFLOperationName
    if precision == "fp16":
        half = types.TensorQuantizationConfig(num_bits=16, dtype=types.TensorDataType.FLOAT)
        config = types.OpQuantizationConfig(
            weight_tensor_config=half, compute_precision=types.ComputePrecision.FLOAT, explicit_dequantize=True
        )
        recipe.add_quantization_config(
            regex=".*",
            operation_name=operators.ALL_SUPPORTED,
            op_config=config,
            algorithm_key=algorithms.FLOAT_CASTING,
        )
    else:
        recipe.add_static_config(
            regex=".*", operation_name=operators.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8
        )
        for end in (operators.INPUT, operators.OUTPUT):
            recipe.add_quantization_config(regex=".*", operation_name=end, algorithm_key=algorithms.NO_QUANTIZE)
    return recipe


def _calibrate(fp32: Path, recipe: Any, batches: Iterable[Floats]) -> Any:
    """The smallest and the largest value of each tensor.

    The quantiser's own default is a moving average of them, with which clips outside the average saturate: 86 % of the
    tests' clips then had the class of the network, not 100 %.
    """
    calibrators = importlib.import_module("ai_edge_quantizer.calibrator")
    widest = importlib.import_module("ai_edge_quantizer.utils.qsv_utils").min_max_update
    signature, clip_name = _find_signature(fp32)
    clips = islice((clip[None] for batch in batches for clip in batch), _CALIBRATION_CLIPS)
    inputs = [{clip_name: np.ascontiguousarray(clip)} for clip in clips]
    if not inputs:
        raise UserError("INT8 needs calibration clips, but there are none; set export.calibration_clips above 0")
    calibrator = calibrators.Calibrator(str(fp32), num_threads=1, qsv_update_func=widest)
    calibrator.calibrate({signature: inputs}, recipe)
    return calibrator.get_model_qsvs()


def _find_signature(path: Path) -> tuple[str, str]:
    """Name of the file's signature and of its input."""
    interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter(model_content=path.read_bytes())
    [(name, tensors)] = interpreter.get_signature_list().items()
    [clip_name] = tensors["inputs"]
    return name, clip_name


def describe_litert(path: Path, metadata: TfliteMetadata) -> FileMetadata:
    """The metadata of a .tflite file as that of other files: also which operators LiteRT runs."""
    session = LiteRtRuntime().load(path, threads=1)
    try:
        operators = cast(dict[str, int], session.runtime_info()["operators"])
    finally:
        session.close()
    return {"operators": operators, "converter": metadata["converter"], "batch": metadata["batch"]}


@contextlib.contextmanager
def _silence_converter() -> Any:
    """Hide the converter's progress and warnings, and restore the root logger's handlers and level afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
